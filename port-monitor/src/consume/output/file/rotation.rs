//! Old output files: `FILE.1.gz` is the latest, and the oldest go.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use flate2::{Compression, write::GzEncoder};

/// When the output file is put aside, and how many old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a file has at most, unless a single line is longer.
    pub size: u64,
    /// Old files.
    pub keep: u32,
}

/// Puts files aside.
#[derive(Debug)]
pub(crate) struct Rotation {
    limits: Limits,
    /// The size at which it is tried again, after it failed.
    at_least: u64,
    compressing: Option<JoinHandle<()>>,
}

impl Rotation {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            at_least: 0,
            compressing: None,
        }
    }

    /// A file of this size has no room for the first of these lines.
    pub(crate) fn is_due(&self, size: u64, lines: &[u8]) -> bool {
        let first = lines.iter().position(|&byte| byte == b'\n');
        let first = first.map_or(lines.len(), |at| at + 1) as u64;
        size > 0 && size >= self.at_least && size.saturating_add(first) > self.limits.size
    }

    /// How many bytes of these lines, one line at least, a file of this size has room for.
    pub(crate) fn fitting(&self, size: u64, lines: &[u8]) -> usize {
        let room = self.limits.size.max(self.at_least).saturating_sub(size);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
        let (within, beyond) = lines.split_at(room);
        if beyond.is_empty() {
            return lines.len();
        }
        let end_of_line = |bytes: &[u8]| bytes.iter().position(|&byte| byte == b'\n');
        match within.iter().rposition(|&byte| byte == b'\n') {
            Some(at) => at + 1,
            None => end_of_line(beyond).map_or(lines.len(), |at| room + at + 1),
        }
    }

    /// It failed, and is tried again when the file has grown by as much once more.
    pub(crate) const fn postpone(&mut self) {
        let from = if self.at_least > self.limits.size {
            self.at_least
        } else {
            self.limits.size
        };
        self.at_least = from.saturating_add(self.limits.size);
    }

    /// Renames the file at `path`, and those put aside before, and compresses it meanwhile.
    /// Waits for the one before: whoever writes faster than it can be compressed loses lines,
    /// which are counted, and not the disk.
    pub(crate) fn put_aside(&mut self, path: &Path) -> io::Result<()> {
        self.wait();
        remove(&plain(path, self.limits.keep))?;
        remove(&compressed(path, self.limits.keep))?;
        for number in (1..self.limits.keep).rev() {
            rename(&plain(path, number), &plain(path, number + 1))?;
            rename(&compressed(path, number), &compressed(path, number + 1))?;
        }
        let latest = plain(path, 1);
        fs::rename(path, &latest)?;
        self.at_least = 0;
        let to = compressed(path, 1);
        let compressing = thread::Builder::new()
            .name("compress".into())
            .spawn(move || {
                if let Err(error) = compress(&latest, &to) {
                    log::warn!("compress {}: {error}; it stays as it is", latest.display());
                }
            });
        self.compressing = compressing.ok();
        Ok(())
    }

    fn wait(&mut self) {
        if let Some(compressing) = self.compressing.take() {
            // The thread does not panic; if it did, its message is out already.
            let _ = compressing.join();
        }
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        self.wait();
    }
}

fn plain(path: &Path, number: u32) -> PathBuf {
    suffixed(path, &format!(".{number}"))
}

fn compressed(path: &Path, number: u32) -> PathBuf {
    suffixed(path, &format!(".{number}.gz"))
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Replaces `plain` by a compressed file of its mode, which has its name when it is whole.
fn compress(plain: &Path, to: &Path) -> io::Result<()> {
    let unfinished = suffixed(to, ".part");
    remove(&unfinished)?;
    let mut from = File::open(plain)?;
    let mode = from.metadata()?.permissions().mode() & 0o777;
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    let mut encoder = GzEncoder::new(file, Compression::fast());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?.flush()?;
    fs::rename(&unfinished, to)?;
    fs::remove_file(plain)
}

/// Renames what is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    absent_is_fine(fs::rename(from, to))
}

/// Removes what is there.
fn remove(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
