//! Fields of the kernel's structs as values: by BTF's offsets, and nothing else.

pub(crate) mod mem;
pub(crate) mod sent;
pub(crate) mod sock;
pub(crate) mod task;
