//! The few commands of `bpf(2)` that aya has no call for.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_GET: libc::c_int = 7;
const BTF_LOAD: libc::c_int = 18;
const LINK_CREATE: libc::c_int = 28;
const ITER_CREATE: libc::c_int = 33;
const LINK_DETACH: libc::c_int = 34;
/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
const ARRAY_OF_MAPS: u32 = 12;

#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: i32,
}

#[repr(C)]
struct UpdateAttr {
    map_fd: i32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct PathAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkAttr {
    prog_fd: i32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

#[repr(C)]
struct IterAttr {
    link_fd: i32,
    flags: u32,
}

/// Ties an iterator's program to what it goes through: the table, if that is one.
pub(super) fn iterate(
    program: BorrowedFd<'_>,
    table: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    // `union bpf_iter_link_info`: kernels take a part of it.
    let table = table.map(|table| table.as_raw_fd());
    let info = table
        .as_ref()
        .map_or(0, |table| std::ptr::from_ref(table).expose_provenance());
    let attr = LinkAttr {
        prog_fd: program.as_raw_fd(),
        target_fd: 0,
        attach_type: TRACE_ITER,
        flags: 0,
        iter_info: info as u64,
        iter_info_len: if table.is_some() { 4 } else { 0 },
        reserved: 0,
    };
    descriptor(LINK_CREATE, &attr)
}

/// Begins an iteration: reading what is returned goes on with it.
pub(super) fn begin_iteration(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = IterAttr {
        link_fd: link.as_raw_fd(),
        flags: 0,
    };
    descriptor(ITER_CREATE, &attr)
}

/// Creates an array of one map, like `inner`.
pub(super) fn array_of_one_map(inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let attr = CreateAttr {
        map_type: ARRAY_OF_MAPS,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner.as_raw_fd(),
    };
    descriptor(MAP_CREATE, &attr)
}

/// Puts `inner` into the only place of `outer`.
pub(super) fn set_inner_map(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let (key, value) = (0_u32, inner.as_raw_fd());
    let attr = UpdateAttr {
        map_fd: outer.as_raw_fd(),
        reserved: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &attr).map(drop)
}

/// What a map is to be.
#[derive(Clone, Copy)]
pub(super) struct MapShape {
    /// `enum bpf_map_type`.
    pub(super) map_type: u32,
    /// Bytes of a key.
    pub(super) key_size: u32,
    /// Bytes of a value.
    pub(super) value_size: u32,
    /// Most entries.
    pub(super) max_entries: u32,
    /// `BPF_F_*`.
    pub(super) map_flags: u32,
}

#[repr(C)]
struct TypedCreateAttr {
    shape: [u32; 5],
    inner_map_fd: i32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: i32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

#[repr(C)]
struct BtfAttr {
    btf: u64,
    log_buf: u64,
    btf_size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

/// Creates a map whose keys and values have types of BTF. Linux 5.15 to 6.2 puts no map
/// without into a map of maps that was made for one with them
/// (`bpf_map_meta_equal`, `kernel/bpf/map_in_map.c`: `timer_off`).
pub(super) fn typed_map(shape: MapShape) -> io::Result<OwnedFd> {
    let types = btf(shape);
    let attr = BtfAttr {
        btf: types.as_ptr().expose_provenance() as u64,
        log_buf: 0,
        btf_size: u32::try_from(types.len()).map_err(io::Error::other)?,
        log_size: 0,
        log_level: 0,
        reserved: 0,
    };
    let types = descriptor(BTF_LOAD, &attr)?;
    let attr = TypedCreateAttr {
        shape: [
            shape.map_type,
            shape.key_size,
            shape.value_size,
            shape.max_entries,
            shape.map_flags,
        ],
        inner_map_fd: 0,
        numa_node: 0,
        map_name: [0; 16],
        map_ifindex: 0,
        btf_fd: types.as_raw_fd(),
        btf_key_type_id: if shape.key_size == 4 { INDEX } else { KEY },
        btf_value_type_id: if shape.value_size == 4 { INDEX } else { VALUE },
    };
    descriptor(MAP_CREATE, &attr)
}

/// The types of [`btf`], by number.
const INDEX: u32 = 1;
const BYTE: u32 = 2;
const KEY: u32 = 3;
const BYTES: u32 = 4;
const VALUE: u32 = 5;

/// Types for a map (`include/uapi/linux/btf.h`): a number of 32 bits, which an array must
/// have as its index, keys as arrays of bytes, and values as structs: what is no struct
/// counts as having no type.
fn btf(shape: MapShape) -> Vec<u8> {
    const KIND_INT: u32 = 1 << 24;
    const KIND_ARRAY: u32 = 3 << 24;
    const KIND_STRUCT_OF_ONE: u32 = 4 << 24 | 1;
    const NAMES: &[u8] = b"\0u32\0u8\0";
    let int = |name, bytes: u32| [name, KIND_INT, bytes, bytes * 8];
    let bytes = |count| [0, KIND_ARRAY, 0, BYTE, INDEX, count];
    let ints = [int(1, 4), int(5, 1)].concat();
    let arrays = [bytes(shape.key_size), bytes(shape.value_size)].concat();
    let value = [0, KIND_STRUCT_OF_ONE, shape.value_size, 0, BYTES, 0];
    let types: Vec<u8> = [ints, arrays, value.to_vec()]
        .concat()
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let len = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX);
    let (types_len, names_len) = (len(&types), len(NAMES));
    let mut blob = 0xeb9f_u16.to_ne_bytes().to_vec();
    // Version and flags, then the header's length, and where types and names are.
    blob.extend([1, 0]);
    for number in [24, 0, types_len, types_len, names_len] {
        blob.extend(u32::to_ne_bytes(number));
    }
    blob.extend(types);
    blob.extend(NAMES);
    blob
}

/// Opens what is pinned at `path`.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attr = PathAttr {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    descriptor(OBJ_GET, &attr)
}

/// Detaches a link's program at once, whoever else holds the link.
pub(super) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_DETACH, &link.as_raw_fd()).map(drop)
}

fn descriptor<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of exactly the size given, the kernel
    // only reads it, and the buffers it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attr, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
