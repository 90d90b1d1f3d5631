//! The kernel's own list of BPF objects, to see what a monitor holds and what
//! it leaves behind.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::process::wait_until;

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Program,
    Map,
    Link,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Program, Self::Map, Self::Link];

    /// `BPF_*_GET_NEXT_ID`.
    const fn next_id_command(self) -> libc::c_int {
        match self {
            Self::Program => 11,
            Self::Map => 12,
            Self::Link => 31,
        }
    }

    /// `BPF_*_GET_FD_BY_ID`.
    const fn open_command(self) -> libc::c_int {
        match self {
            Self::Program => 13,
            Self::Map => 14,
            Self::Link => 30,
        }
    }

    /// The word before the id in `/proc/PID/fdinfo`.
    const fn fdinfo_word(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
        }
    }
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
const INFO_COMMAND: libc::c_int = 15;

/// Objects by kind and id.
pub(crate) type Objects = BTreeSet<(Kind, u32)>;

/// Every object on this machine.
pub(crate) fn all() -> Result<Objects> {
    let mut objects = Objects::new();
    for kind in Kind::ALL {
        let mut id = 0;
        while let Some(next) = next_id(kind, id)? {
            objects.insert((kind, next));
            id = next;
        }
    }
    Ok(objects)
}

/// The objects a process holds descriptors of.
pub(crate) fn held_by(pid: u32) -> Result<Objects> {
    let dir = format!("/proc/{pid}/fdinfo");
    let mut objects = Objects::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("read {dir}"))? {
        // A descriptor may be closed between listing and reading.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        for line in text.lines() {
            for kind in Kind::ALL {
                if let Some(id) = line.strip_prefix(kind.fdinfo_word()) {
                    objects.insert((kind, id.trim().parse()?));
                }
            }
        }
    }
    Ok(objects)
}

/// Waits until none of the objects is there any more; the kernel frees them
/// some time after the last descriptor is closed.
pub(crate) fn await_gone(objects: &Objects) -> Result<()> {
    wait_until(|| {
        for &(kind, id) in objects {
            if open(kind, id)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .with_context(|| format!("left behind: some of {objects:?}"))
}

/// What the kernel says of a loaded program.
#[derive(Clone, Debug)]
pub(crate) struct ProgramInfo {
    pub(crate) name: String,
    /// Size of the program after the verifier, before the JIT.
    pub(crate) translated_bytes: u32,
    /// Times the kernel skipped the program, because the CPU was in the middle
    /// of it already; 0 before 5.12.
    pub(crate) skips: u64,
    /// Instructions the verifier walked through; 0 before 5.16.
    pub(crate) verified_insns: u32,
    /// How long it ran, ns, while the kernel measured that.
    pub(crate) run_time_ns: u64,
    /// How often it ran meanwhile.
    pub(crate) runs: u64,
}

/// The programs among `objects`.
pub(crate) fn programs(objects: &Objects) -> Result<Vec<ProgramInfo>> {
    objects
        .iter()
        .filter(|(kind, _)| *kind == Kind::Program)
        .filter_map(|&(kind, id)| open(kind, id).transpose())
        .map(|program| info(&program?))
        .collect()
}

fn info(program: &OwnedFd) -> Result<ProgramInfo> {
    // Fields of `struct bpf_prog_info` by their place (`include/uapi/linux/bpf.h`).
    // A kernel that does not know one leaves its bytes zero.
    let mut info = [0_u8; 256];
    let mut attr = InfoAttr {
        fd: u32::try_from(program.as_raw_fd())?,
        len: u32::try_from(info.len())?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(INFO_COMMAND, &mut attr).context("BPF_OBJ_GET_INFO_BY_FD")?;
    let name = info
        .get(64..80)
        .and_then(|name| name.split(|&byte| byte == 0).next());
    let translated_bytes = info.get(20..24).context("no size")?;
    let run_time_ns = info.get(192..200).context("no run time")?;
    let runs = info.get(200..208).context("no runs")?;
    let skips = info.get(208..216).context("no skips")?;
    let verified_insns = info.get(216..220).context("no count")?;
    Ok(ProgramInfo {
        name: String::from_utf8_lossy(name.unwrap_or_default()).into_owned(),
        translated_bytes: u32::from_ne_bytes(translated_bytes.try_into()?),
        skips: u64::from_ne_bytes(skips.try_into()?),
        run_time_ns: u64::from_ne_bytes(run_time_ns.try_into()?),
        runs: u64::from_ne_bytes(runs.try_into()?),
        verified_insns: u32::from_ne_bytes(verified_insns.try_into()?),
    })
}

#[repr(C)]
struct InfoAttr {
    fd: u32,
    len: u32,
    info: u64,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

fn next_id(kind: Kind, after: u32) -> Result<Option<u32>> {
    let mut attr = IdAttr {
        id: after,
        next_id: 0,
        open_flags: 0,
    };
    match bpf(kind.next_id_command(), &mut attr) {
        Ok(_) => Ok(Some(attr.next_id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("list {kind:?} ids")),
    }
}

fn open(kind: Kind, id: u32) -> Result<Option<OwnedFd>> {
    let mut attr = IdAttr {
        id,
        next_id: 0,
        open_flags: 0,
    };
    match bpf(kind.open_command(), &mut attr) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        // A link that is being torn down is as good as gone.
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(None),
        Err(error) => bail!("open {kind:?} {id}: {error}"),
    }
}

/// `BPF_ENABLE_STATS`.
const ENABLE_STATS: libc::c_int = 32;

/// Has the kernel measure how long programs run, for as long as the descriptor is open.
pub(crate) fn measure() -> Result<OwnedFd> {
    // `BPF_STATS_RUN_TIME`.
    let mut kind = 0_u32;
    let fd = bpf(ENABLE_STATS, &mut kind).context("BPF_ENABLE_STATS")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A map that is written to, whatever for.
pub(crate) struct Writes(OwnedFd);

impl Writes {
    pub(crate) fn new() -> Result<Self> {
        let mut create = CreateAttr {
            map_type: HASH,
            key_size: size_of::<u32>().try_into()?,
            value_size: VALUE.len().try_into()?,
            max_entries: 1,
        };
        let fd = bpf(MAP_CREATE, &mut create).context("BPF_MAP_CREATE")?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Writes once.
    pub(crate) fn write(&self) -> Result<()> {
        let key = 0_u32;
        let mut update = UpdateAttr {
            map: u64::try_from(self.0.as_raw_fd())?,
            key: (&raw const key).expose_provenance() as u64,
            value: VALUE.as_ptr().expose_provenance() as u64,
            flags: 0,
        };
        bpf(MAP_UPDATE, &mut update).context("BPF_MAP_UPDATE_ELEM")?;
        Ok(())
    }
}

/// Large, so that the kernel copies it for a while.
static VALUE: [u8; 16 << 10] = [0; 16 << 10];

/// `BPF_MAP_CREATE`, `BPF_MAP_UPDATE_ELEM`.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
/// `BPF_MAP_TYPE_HASH`.
const HASH: u32 = 1;

#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// A 32-bit descriptor, and what pads it, on this byte order.
#[repr(C)]
struct UpdateAttr {
    map: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_LINK_DETACH`.
const LINK_DETACH: libc::c_int = 34;

/// Detaches one of the links, as root may from everybody's.
pub(crate) fn detach_one(objects: &Objects) -> Result<u32> {
    let links = objects.iter().filter(|(kind, _)| *kind == Kind::Link);
    let &(kind, id) = links.into_iter().next().context("no link")?;
    let link = open(kind, id)?.context("the link is gone")?;
    let mut fd = u32::try_from(link.as_raw_fd())?;
    bpf(LINK_DETACH, &mut fd).context("BPF_LINK_DETACH")?;
    Ok(id)
}

/// Opens all of the links among `objects`.
pub(crate) fn hold_links(objects: &Objects) -> Result<Vec<OwnedFd>> {
    let links = objects.iter().filter(|(kind, _)| *kind == Kind::Link);
    let opened = links.map(|&(kind, id)| open(kind, id)?.context("the link is gone"));
    opened.collect()
}

/// Makes every `connect` fail with `EPERM` in the cgroup at `directory`: until
/// the cgroup is removed.
pub(crate) fn refuse_connects(directory: &Path) -> Result<()> {
    refuse(directory, SOCK_ADDR, &[CONNECT4, CONNECT6])
}

/// Drops every packet from and to the cgroup at `directory`, as systemd's
/// `IPAddressDeny=any` does: until the cgroup is removed.
pub(crate) fn drop_packets(directory: &Path) -> Result<()> {
    refuse(directory, CGROUP_SKB, &[EGRESS, INGRESS])
}

/// Attaches a program that says no to everything.
fn refuse(directory: &Path, program_type: u32, attach_types: &[u32]) -> Result<()> {
    let cgroup = fs::File::open(directory)?;
    // Linux 5.10 takes a program out of the locked memory, and says so where that
    // is too little; others do not care.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    // `return 0`: two instructions, the first BPF instruction set's.
    let refuse: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    for &attach_type in attach_types {
        let mut load = LoadAttr {
            program_type,
            instructions: u32::try_from(refuse.len())?,
            code: (&raw const refuse).expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
            unused: [0; 11],
            expected_attach_type: attach_type,
        };
        let program = bpf(PROGRAM_LOAD, &mut load).context("BPF_PROG_LOAD")?;
        // SAFETY: the kernel has just made this descriptor for us.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let mut attach = AttachAttr {
            target: u32::try_from(cgroup.as_raw_fd())?,
            program: u32::try_from(program.as_raw_fd())?,
            attach_type,
            flags: 0,
        };
        bpf(PROGRAM_ATTACH, &mut attach).context("BPF_PROG_ATTACH")?;
    }
    Ok(())
}

/// `BPF_PROG_LOAD`, `BPF_PROG_ATTACH`.
const PROGRAM_LOAD: libc::c_int = 5;
const PROGRAM_ATTACH: libc::c_int = 8;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`, `BPF_CGROUP_INET4_CONNECT` and `6`.
const SOCK_ADDR: u32 = 18;
const CONNECT4: u32 = 10;
const CONNECT6: u32 = 11;
/// `BPF_PROG_TYPE_CGROUP_SKB`, `BPF_CGROUP_INET_INGRESS` and `EGRESS`.
const CGROUP_SKB: u32 = 8;
const INGRESS: u32 = 0;
const EGRESS: u32 = 1;

#[repr(C)]
struct LoadAttr {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
    /// `log_level` to `prog_ifindex`: none of them.
    unused: [u32; 11],
    expected_attach_type: u32,
}

#[repr(C)]
struct AttachAttr {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a prefix of `union bpf_attr` of exactly the size given,
    // and the buffers it points to outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(result).map_err(io::Error::other)
}
