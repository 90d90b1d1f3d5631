//! Processes whose first thread has ended and that live on, as where `main` has called
//! `pthread_exit`. `/proc/PID` tells of that thread, which has no memory, files or namespaces
//! any more: what the process has, /proc tells of another one.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    ffi::CStr,
    fs::{CWD, Dir, Mode, OFlags, openat},
};

use super::stat::{Stat, read_file};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A thread that has not ended, as a path in the process's directory; `None` if there is
/// none, which is what most processes without memory are: zombies.
pub(crate) fn living(process: impl AsFd) -> Option<PathBuf> {
    let tasks = openat(&process, "task", DIRECTORY, Mode::empty()).ok()?;
    let entries = Dir::read_from(tasks).ok()?.flatten();
    let mut threads = entries.filter_map(|entry| numbered(entry.file_name()));
    threads.find(|thread| {
        let stat = read_file(&process, thread.join("stat"));
        stat.is_ok_and(|text| Stat::parse(&text).is_some_and(|stat| !stat.has_ended))
    })
}

/// The path of a thread, if that is its id.
fn numbered(name: &CStr) -> Option<PathBuf> {
    let name = name.to_str().ok()?;
    let _: u32 = name.parse().ok()?;
    Some(Path::new("task").join(name))
}

/// Where /proc tells what the process of this directory has: there, or of a thread of it.
pub(crate) fn of_process(process: &Path) -> PathBuf {
    let thread = || {
        let dir = openat(CWD, process, DIRECTORY, Mode::empty()).ok()?;
        let stat = Stat::parse(&read_file(&dir, "stat").ok()?)?;
        stat.has_ended.then(|| living(&dir))?
    };
    match thread() {
        Some(thread) => process.join(thread),
        None => process.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::host::threads::*;

    fn thread(dir: &Path, state: char) {
        fs::create_dir_all(dir).unwrap();
        let rest = "7 812 812 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 1 2";
        fs::write(dir.join("stat"), format!("812 (a) Z 1) {state} {rest}\n")).unwrap();
    }

    #[test]
    fn a_process_is_looked_at_by_a_thread_that_lives() {
        let root = tempfile::tempdir().unwrap();
        let process = root.path();
        thread(process, 'Z');
        thread(&process.join("task/812"), 'Z');
        thread(&process.join("task/813"), 'X');
        assert_eq!(of_process(process), process);
        thread(&process.join("task/815"), 'S');
        assert_eq!(of_process(process), process.join("task/815"));
        thread(process, 'R');
        assert_eq!(of_process(process), process);
    }
}
