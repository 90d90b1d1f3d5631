//! What is promised of the tarball's program: it has all that it needs in itself, and loads
//! nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{arch::Arch, process};

/// A user that no host has. Its look-up goes through all sources that the host names.
const NOBODY: &str = "no-such-user";

/// In a mount namespace of its own, makes a root of a directory that has the program alone:
/// the system calls of root are those of a user namespace, so anybody may run it.
const IN_AN_EMPTY_ROOT: &str = "mkdir \"$1/proc\" \"$1/sys\"
mount --rbind /proc \"$1/proc\"
mount --rbind /sys \"$1/sys\"
exec chroot \"$1\" /port-monitor service 443";

/// Unpacks the program of `tarball`, which has everything in the directory `stem`, into `dir`, which is emptied before.
pub(super) fn unpack(tarball: &Path, stem: &str, dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--strip-components=2", "--file"])
        .arg(tarball)
        .arg("--directory")
        .arg(dir)
        .arg(format!("{stem}/bin/port-monitor"));
    process::run(&mut tar)?;
    Ok(dir.join("port-monitor"))
}

/// It names no library and no loader.
pub(super) fn is_linked_with_nothing(arch: Arch, program: &Path) -> Result<()> {
    let mut objdump = Command::new(format!("{}-objdump", arch.gnu()));
    let headers = process::output(objdump.arg("--private-headers").arg(program))?;
    ensure!(headers.contains("Program Header:"), "{headers}");
    let named = named(&headers);
    ensure!(named.is_empty(), "linked with {named:?}");
    Ok(())
}

/// What a program's headers name that it needs.
fn named(headers: &str) -> Vec<&str> {
    let lines = headers.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("NEEDED") || line.starts_with("INTERP"))
        .collect()
}

/// It loads no library where the C library looks up a name.
pub(super) fn loads_nothing(program: &Path) -> Result<()> {
    let mut strace = Command::new("strace");
    strace
        .args(["--follow-forks", "--trace=openat,open"])
        .arg(program)
        .args(["--user", NOBODY]);
    let output = strace.output().context("start strace")?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        told.contains("/etc/passwd") && told.contains(&format!("unknown user `{NOBODY}`")),
        "it looked up no user:\n{told}"
    );
    let loaded: Vec<_> = told.lines().filter(|line| line.contains(".so")).collect();
    ensure!(loaded.is_empty(), "{}", loaded.join("\n"));
    Ok(())
}

/// It runs where there is nothing but itself, /proc and /sys.
pub(super) fn runs_in_an_empty_root(program: &Path) -> Result<()> {
    let root = program.parent().context("find the program's directory")?;
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--user", "--map-root-user", "--mount"])
        .args(["sh", "-e", "-c", IN_AN_EMPTY_ROOT, "sh"]);
    let told = process::output(unshare.arg(root))?;
    ensure!(told.contains("https"), "{told}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_in_headers() {
        let headers = "Program Header:
  INTERP off    0x0000000000000318 vaddr 0x0000000000000318
 DYNAMIC off    0x0000000000002df8 vaddr 0x0000000000003df8

Dynamic Section:
  NEEDED               libc.so.6
  INIT                 0x0000000000001000
";
        let [loader, library] = named(headers)[..] else {
            panic!("{:?}", named(headers));
        };
        assert!(loader.starts_with("INTERP") && library.ends_with("libc.so.6"));
    }
}
