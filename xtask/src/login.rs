//! A server of logins and sudo for the guests, as this machine's release of Debian has
//! them: unpacked into the cache, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{apt, apt::Apt, paths};

const PACKAGES: [&str; 4] = ["openssh-server", "openssh-client", "sudo", "libwrap0"];

/// In the packages, and in a guest.
const PROGRAMS: [(&str, &str); 5] = [
    ("usr/sbin/sshd", "/bin/sshd"),
    ("usr/bin/ssh", "/bin/ssh"),
    ("usr/bin/ssh-keygen", "/bin/ssh-keygen"),
    ("usr/bin/sudo", "/bin/sudo"),
    (
        "usr/libexec/sudo/sudoers.so",
        "/usr/libexec/sudo/sudoers.so",
    ),
];

/// What lets everybody in; part of every Debian.
const PAM_PERMIT: &str = "/lib/x86_64-linux-gnu/security/pam_permit.so";

/// Libraries that this machine may lack, under the names they are loaded by.
const LIBRARIES: [(&str, &str); 2] = [
    ("usr/lib/x86_64-linux-gnu/libwrap.so.0", "libwrap.so.0"),
    ("usr/libexec/sudo/libsudo_util.so.0", "libsudo_util.so.0"),
];

/// What a guest needs to be logged in to.
#[derive(Debug)]
pub(crate) struct Login {
    /// Programs and their paths in the guest.
    pub(crate) programs: Vec<(PathBuf, String)>,
    /// Where libraries of theirs are.
    pub(crate) library_dir: PathBuf,
}

/// Fetches it where the cache has none.
pub(crate) fn fetch() -> Result<Login> {
    let release = apt::host_release()?;
    let dir = paths::cache_dir("login")?.join(&release);
    if !dir.exists() {
        download(&dir, &release)?;
    }
    let mut programs = PROGRAMS
        .map(|(path, in_guest)| (dir.join(path), in_guest.to_owned()))
        .to_vec();
    programs.push((PAM_PERMIT.into(), PAM_PERMIT.to_owned()));
    Ok(Login {
        programs,
        library_dir: dir.join("lib"),
    })
}

/// Fills `dir`, in one rename at the end.
fn download(dir: &Path, release: &str) -> Result<()> {
    let apt = Apt::with_suites("login", &[release])?;
    let staging = paths::cache_dir("login/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(ready.join("lib")).context("create the staging directory")?;
    for package in PACKAGES {
        apt.unpack(package, &staging, &ready)?;
    }
    for (path, name) in LIBRARIES {
        fs::copy(ready.join(path), ready.join("lib").join(name))
            .with_context(|| format!("find {name} in what was unpacked"))?;
    }
    paths::replace(&ready, dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")
}
