//! The tarball: the program without shared libraries, for hosts whose C library is older than
//! the packages ask for. It is unpacked to `/usr`, and has what the .deb has.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, paths, process};

/// What only Debian's packages have.
const OF_DEBIAN: [&str; 3] = [
    "share/lintian",
    "share/doc/port-monitor/changelog.Debian.gz",
    "share/doc/port-monitor/copyright",
];

/// Where the documentation is.
const DOC: &str = "share/doc/port-monitor";

/// What the GNU C Library is under, as this host has it, and what the tarball calls that.
const LIBRARY_LICENCES: [(&str, &str); 2] = [
    ("/usr/share/doc/libc6-dev/copyright", "glibc-copyright"),
    ("/usr/share/common-licenses/LGPL-2.1", "LGPL-2.1"),
];

/// What is told of it.
const LIBRARY_NOTICE: &str =
    "bin/port-monitor contains the GNU C Library, which is under the GNU Lesser General Public
License 2.1: see LGPL-2.1 and glibc-copyright beside this file. Its source is that of Debian's
package `glibc`. Whoever wants another version of it in the program links port-monitor, whose
source is free, with that: `cargo xtask package` of its repository does, on a host that has it.
";

/// The name of the tarball, and of the directory that it has everything in.
pub(super) fn stem(arch: Arch, version: &str) -> String {
    format!("port-monitor-{version}-{}-linux", arch.name())
}

/// Makes that of `program` in `dir` under the name `stem`, with what is in `deb` beside the
/// program.
pub(super) fn make(
    program: &Path,
    deb: &Path,
    dir: &Path,
    stem: &str,
    epoch: &str,
) -> Result<PathBuf> {
    let unpacked = dir.join("unpacked");
    let mut extract = Command::new("dpkg-deb");
    process::run(extract.arg("--extract").arg(deb).arg(&unpacked))?;
    let top = dir.join(stem);
    rename(&unpacked.join("usr"), &top)?;
    copy(program, &top.join("bin/port-monitor"))?;
    for path in OF_DEBIAN {
        process::run(Command::new("rm").arg("-r").arg(top.join(path)))?;
    }
    let zsh = top.join("share/zsh");
    rename(&zsh.join("vendor-completions"), &zsh.join("site-functions"))?;
    let doc = top.join(DOC);
    // What is in /etc is the user's.
    let configuration = unpacked.join("etc/port-monitor/port-monitor.toml");
    rename(&configuration, &doc.join("examples/port-monitor.toml"))?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL", "NOTICE"] {
        copy(&paths::workspace().join(licence), &doc.join(licence))?;
    }
    for (licence, name) in LIBRARY_LICENCES {
        copy(Path::new(licence), &doc.join(name))?;
    }
    super::write(&doc.join("glibc"), LIBRARY_NOTICE)?;
    pack(dir, stem, epoch)
}

/// Packs the directory `stem` of `dir`: files alone, because directories of the host are as
/// the host has them.
fn pack(dir: &Path, stem: &str, epoch: &str) -> Result<PathBuf> {
    let tarball = dir.join(format!("{stem}.tar.gz"));
    let script = "find \"$1\" -type f -print0 | LC_ALL=C sort -z \
        | tar --create --format=ustar --null --files-from=- --mtime=\"@$2\" --owner=0 --group=0 \
            --numeric-owner --mode=u+rw,go-w,a+rX \
        | gzip -9 --no-name >\"$3\"";
    let mut sh = Command::new("bash");
    sh.current_dir(dir)
        .args(["-e", "-o", "pipefail", "-c", script, "bash"]);
    process::run(sh.args([stem, epoch]).arg(&tarball).stdin(Stdio::null()))?;
    Ok(tarball)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("move {}", from.display()))
}
