//! One file per place in the kernel that may refuse a connection.

pub(crate) mod ingress;
pub(crate) mod sock_addr;
