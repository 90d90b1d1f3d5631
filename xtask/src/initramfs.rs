//! Builds a guest's file system: an uncompressed `newc` cpio archive.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive under construction; directories are added as files need them.
pub(crate) struct Initramfs {
    archive: Vec<u8>,
    entry_count: u32,
    directories: BTreeSet<String>,
}

impl Initramfs {
    /// An archive with nothing in it.
    pub(crate) fn new() -> Self {
        Self {
            archive: Vec::new(),
            entry_count: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory and those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        if let Some((parent, _)) = path.trim_end_matches('/').rsplit_once('/')
            && !parent.is_empty()
        {
            self.directory(parent);
        }
        if self.directories.insert(path.to_owned()) {
            self.entry(path, TYPE_DIRECTORY | 0o755, &[]);
        }
    }

    /// Adds a file with these permissions.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.parent(path);
        self.entry(path, TYPE_FILE | permissions, content);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, TYPE_SYMLINK | 0o777, target.as_bytes());
    }

    /// Copies a file of the host.
    pub(crate) fn copy(&mut self, host: &Path, path: &str, permissions: u32) -> Result<()> {
        let content = fs::read(host).with_context(|| format!("read {}", host.display()))?;
        self.file(path, permissions, &content);
        Ok(())
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.archive
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !parent.is_empty()
        {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry_count += 1;
        let name = path.trim_start_matches('/');
        let numbers = [
            self.entry_count, // inode
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // modification time
            length(content.len()),
            0, // device, major and minor
            0,
            0, // device of a device node, major and minor
            0,
            length(name.len() + 1),
            0, // checksum, unused in this format
        ];
        self.archive.extend_from_slice(b"070701");
        for number in numbers {
            self.archive
                .extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.archive.extend_from_slice(name.as_bytes());
        self.archive.push(0);
        self.pad();
        self.archive.extend_from_slice(content);
        self.pad();
    }

    /// Header and content each end on a multiple of four bytes.
    fn pad(&mut self) {
        let padded = self.archive.len().next_multiple_of(4);
        self.archive.resize(padded, 0);
    }
}

/// The format has 32 bits for a length; what does not fit would not fit a guest.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The shared libraries `program` loads, the dynamic linker among them; those in
/// `library_dir` come before the host's own.
pub(crate) fn shared_libraries(
    program: &Path,
    library_dir: Option<&Path>,
) -> Result<BTreeSet<String>> {
    let mut ldd = Command::new("ldd");
    if let Some(dir) = library_dir {
        ldd.env("LD_LIBRARY_PATH", dir);
    }
    let output = ldd
        .arg(program)
        .stderr(Stdio::null())
        .output()
        .context("start ldd")?;
    // ldd fails for a static program, which has none.
    libraries_in(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("find the libraries of {}", program.display()))
}

/// Reads lines such as `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld.so (0x…)`.
fn libraries_in(ldd_output: &str) -> Result<BTreeSet<String>> {
    let mut libraries = BTreeSet::new();
    for line in ldd_output.lines() {
        if line.contains("not found") {
            bail!("{}", line.trim());
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        libraries.extend(path.map(str::to_owned));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_laid_out_as_newc_says() {
        let mut image = Initramfs::new();
        image.file("/a", 0o644, b"hello");
        let archive = image.finish();
        let header = "070701\
            00000001000081a4000000000000000000000001000000000000000500000000\
            0000000000000000000000000000000200000000";
        // 110 bytes of header, the name with its NUL, content, padding.
        assert_eq!(&archive[..110], header.as_bytes());
        assert_eq!(&archive[110..120], b"a\0hello\0\0\0");
        assert!(archive.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn directories_come_before_their_files_and_once() {
        let mut image = Initramfs::new();
        image.file("/lib/x/one", 0o644, b"");
        image.file("/lib/x/two", 0o644, b"");
        let archive = image.finish();
        let text = String::from_utf8_lossy(&archive).into_owned();
        let names: Vec<&str> = text
            .split("070701")
            .skip(1)
            .map(|entry| entry[104..].trim_end_matches('\0'))
            .collect();
        assert_eq!(names, ["lib", "lib/x", "lib/x/one", "lib/x/two", TRAILER]);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
             \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)\n\
             \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let libraries = libraries_in(text).unwrap();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert!(libraries.iter().eq(expected.iter()));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = libraries_in("\tlibgone.so => not found\n").unwrap_err();
        assert!(error.to_string().contains("libgone.so"));
    }
}
