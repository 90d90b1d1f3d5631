//! Why the kernel side could not be started or read.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{EbpfError, maps::MapError};
use thiserror::Error;

use super::{backend::BackendError, btf, preflight};

/// Where the kernel describes its own types.
pub const SYSTEM_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel side could not be started.
#[derive(Debug, Error)]
pub enum KernelError {
    /// Missing privilege, or a kernel that forbids it.
    #[error(transparent)]
    Preflight(#[from] preflight::PreflightError),
    /// No type information.
    #[error(
        "read the kernel's BTF from {path}: {error} (needs CONFIG_DEBUG_INFO_BTF, or --btf FILE \
         with this kernel's BTF)"
    )]
    BtfMissing {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it could not be read.
        error: io::Error,
    },
    /// Type information that does not have what the programs read.
    #[error("{path}: {error}; {}", btf_advice(path))]
    Btf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: btf::BtfError,
    },
    /// The object's maps could not be created.
    #[error("load the eBPF object: {0}")]
    Load(String),
    /// A map could not be read or written.
    #[error("eBPF map: {0}")]
    Map(String),
    /// No backend attaches; one reason each.
    #[error("no backend attaches on kernel {kernel}: {reasons}")]
    NoBackend {
        /// `uname -r`.
        kernel: String,
        /// The backends' reasons.
        reasons: String,
    },
    /// The backend asked for does not attach.
    #[error(
        "backend {} does not attach on kernel {kernel}: {}; try --backend auto",
        refusal.backend.name(),
        refusal.reason()
    )]
    Backend {
        /// `uname -r`.
        kernel: String,
        /// The backend and its reason.
        refusal: BackendError,
    },
    /// The sockets older than the monitor could not be listed.
    #[error("list the open sockets: {0}")]
    Snapshot(String),
    /// The self-test failed.
    #[error(transparent)]
    SelfTest(#[from] SelfTestError),
}

impl From<MapError> for KernelError {
    fn from(error: MapError) -> Self {
        Self::Map(chain(&error))
    }
}

impl From<EbpfError> for KernelError {
    fn from(error: EbpfError) -> Self {
        Self::Load(chain(&error))
    }
}

/// `uname -r`.
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// What to do about type information that does not fit.
fn btf_advice(path: &Path) -> &'static str {
    if path == Path::new(SYSTEM_BTF) {
        "port-monitor does not know this kernel, please report it"
    } else {
        "leave --btf out to use the running kernel's own"
    }
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// What the self-test found wrong.
#[derive(Debug, Error)]
pub enum SelfTestError {
    /// A field is not what it must be.
    #[error(
        "kernel {kernel} reports {field} {reported} for the monitor's own {event}, the truth is \
         {truth}: refusing to show wrong data; please report it with the output of `port-monitor \
         doctor`"
    )]
    Wrong {
        /// `uname -r`.
        kernel: String,
        /// The event.
        event: &'static str,
        /// The field.
        field: &'static str,
        /// What the kernel said.
        reported: String,
        /// What is true.
        truth: String,
    },
    /// An event did not come.
    #[error(
        "kernel {kernel} reported no {event} for the monitor's own {family} connection: the hook \
         is attached but does not work"
    )]
    Missing {
        /// `uname -r`.
        kernel: String,
        /// The event.
        event: &'static str,
        /// The address family.
        family: &'static str,
    },
    /// A program did not see what others beside it have seen.
    #[error(
        "kernel {kernel}: the program {program} does not see the monitor's own connections: the \
         hook is attached but does not work"
    )]
    Blind {
        /// `uname -r`.
        kernel: String,
        /// The program.
        program: &'static str,
    },
    /// There is no thread to connect from.
    #[error("start a thread for the self-test: {0}")]
    Thread(io::Error),
    /// The truth about this process cannot be read.
    #[error("read {path} for the self-test: {error}")]
    Truth {
        /// What could not be read.
        path: &'static str,
        /// Why not.
        error: io::Error,
    },
}

impl SelfTestError {
    /// Something did not come: the kernel may have skipped a program this once.
    pub(super) fn is_of_skips(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Blind { .. })
    }
}
