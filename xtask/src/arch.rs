//! The architectures port-monitor is made for, and all that differs between them.

/// An architecture of the hosts that port-monitor runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    /// x86-64.
    X86_64,
    /// arm64, 64-bit and little-endian.
    Aarch64,
}

impl Arch {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// As the kernel, the compiler and the eBPF object's file name have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}
