//! The small files in /proc of a process or a thread.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    path::Arg,
};

/// More than any `stat` or `cgroup` file holds.
const FILE_LIMIT: u64 = 65_536;
/// `PF_KTHREAD` in the flags of `stat`.
pub(super) const KERNEL_THREAD: u32 = 0x0020_0000;

/// What a file in a directory of /proc says.
pub(super) fn read_file(dir: impl AsFd, name: impl Arg) -> Result<Vec<u8>, Errno> {
    let fd = openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::new();
    File::from(fd)
        .take(FILE_LIMIT)
        .read_to_end(&mut text)
        .map_err(|error| errno(&error))?;
    Ok(text)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The fields of /proc/PID/stat we use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The thread that /proc tells of, the process's first one, lives no more.
    pub(super) has_ended: bool,
    pub(super) parent_pid: Option<u32>,
    pub(super) is_kernel_thread: bool,
    pub(super) start_ticks: u64,
}

impl Stat {
    /// The second field is the process's own choice of name in parentheses and
    /// may itself hold parentheses, spaces and newlines: the last one closes it.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
        // proc_pid_stat(5) counts from 1, and `state` is its field 3.
        let mut fields = rest.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
        let parent_pid: u32 = fields.next()?.parse().ok()?;
        let flags: u32 = fields.nth(9 - 5)?.parse().ok()?;
        let start_ticks = fields.nth(22 - 10)?.parse().ok()?;
        Some(Self {
            has_ended,
            parent_pid: (parent_pid != 0).then_some(parent_pid),
            is_kernel_thread: flags & KERNEL_THREAD != 0,
            start_ticks,
        })
    }
}
