//! Debian packages, through a private apt configuration.
//!
//! The machine's own sources say which mirror to use; the suites are ours. Lists
//! and downloads lie in the cache, so the machine's apt state is touched only by
//! an install. The hooks that container images put into `apt.conf.d` are cleared:
//! they empty the shared archive directory after an update, which would break an
//! install that another process has under way.

mod sources;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use self::sources::Mirror;
use crate::{arch::Arch, paths, process};

/// Seconds to wait for another apt or dpkg on this machine.
const LOCK_TIMEOUT_S: u32 = 600;

/// An apt with its own sources, lists and downloads.
///
/// One exists at a time over all processes: it holds a lock in the cache.
pub(crate) struct Apt {
    config: PathBuf,
    _lock: File,
}

impl Apt {
    /// An apt that knows exactly these suites, with fresh lists.
    ///
    /// `name` tells sets of suites apart in the cache.
    pub(crate) fn with_suites(name: &str, suites: &[&str]) -> Result<Self> {
        Self::for_arch(Arch::HOST, name, suites)
    }

    /// As [`Apt::with_suites`], with the packages of `arch` and those of no architecture.
    pub(crate) fn for_arch(arch: Arch, name: &str, suites: &[&str]) -> Result<Self> {
        let root = paths::cache_dir("apt")?;
        let lock = File::create(root.join("lock")).context("create the apt lock")?;
        lock.lock().context("take the apt lock")?;

        let dir = if arch == Arch::HOST {
            paths::cache_dir(&format!("apt/{name}"))?
        } else {
            paths::cache_dir(&format!("apt/{name}-{}", arch.name()))?
        };
        for needed in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(dir.join(needed)).context("create the apt directories")?;
        }
        fs::write(dir.join("sources.list"), sources_list(suites)?)
            .context("write the apt sources")?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(&dir, arch)).context("write the apt configuration")?;

        let apt = Self {
            config,
            _lock: lock,
        };
        process::run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    /// The packages whose name matches this extended regular expression.
    pub(crate) fn package_names(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        let found = process::output(search.args(["search", "--names-only", pattern]))?;
        Ok(found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Downloads the newest version of `package` into `dir`.
    fn download(&self, package: &str, dir: &Path) -> Result<()> {
        let mut download = self.command("apt-get");
        process::run(download.args(["-q", "download", package]).current_dir(dir))
    }

    /// Downloads the newest version of `package` and unpacks it into `unpacked`;
    /// the download goes into a directory of its own below `staging`.
    pub(crate) fn unpack(&self, package: &str, staging: &Path, unpacked: &Path) -> Result<()> {
        let downloads = staging.join(package);
        fs::create_dir_all(&downloads).context("create the directory of a download")?;
        self.download(package, &downloads)?;
        extract(&downloads, unpacked)
    }

    /// As [`Apt::unpack`], with all that `package` depends on, the C library included:
    /// what this machine has installed is of no matter.
    pub(crate) fn unpack_whole(
        &self,
        package: &str,
        staging: &Path,
        unpacked: &Path,
    ) -> Result<()> {
        let downloads = staging.join(package);
        fs::create_dir_all(downloads.join("partial"))
            .context("create the directory of a download")?;
        let nothing = staging.join("status");
        fs::write(&nothing, "").context("write an empty list of packages")?;
        let mut fetch = self.command("apt-get");
        fetch
            .args(["-q", "--yes", "--no-install-recommends", "--download-only"])
            .arg(format!("-oDir::State::status={}", nothing.display()))
            .arg(format!("-oDir::Cache::Archives={}", downloads.display()))
            .args(["install", package]);
        process::run(&mut fetch)?;
        extract(&downloads, unpacked)
    }

    /// Installs `packages`, preferring those of `release` where one is named.
    pub(crate) fn install(&self, packages: &[&str], release: Option<&str>) -> Result<()> {
        let mut install = self.command("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").args([
            "install",
            "-q",
            "--yes",
            "--no-install-recommends",
        ]);
        if let Some(release) = release {
            install.args(["--target-release", release]);
        }
        process::run(install.args(packages))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--config-file").arg(&self.config);
        command
    }
}

/// Unpacks the packages in `downloads`.
fn extract(downloads: &Path, unpacked: &Path) -> Result<()> {
    for entry in fs::read_dir(downloads).context("read the directory of a download")? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "deb") {
            let mut extract = Command::new("dpkg-deb");
            process::run(extract.arg("--extract").args([&path, unpacked]))?;
        }
    }
    Ok(())
}

/// Where this machine gets these suites, as a one-line sources file.
pub(crate) fn sources_list(suites: &[&str]) -> Result<String> {
    Mirror::of_this_machine()?.sources_list(suites)
}

/// The code name of the Debian release this machine runs, such as `bookworm`.
pub(crate) fn host_release() -> Result<String> {
    let os_release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("find VERSION_CODENAME in /etc/os-release: this needs a Debian release")
}

/// apt reads this after the machine's own configuration.
fn configuration(dir: &Path, arch: Arch) -> String {
    let dir = dir.display();
    let architecture = if arch == Arch::HOST {
        String::new()
    } else {
        let name = arch.debian();
        format!(
            "#clear APT::Architectures;\nAPT::Architecture \"{name}\";\nAPT::Architectures {{\"{name}\";}};\n"
        )
    };
    // The sandbox user could not reach a cache below a private home directory.
    format!(
        r#"#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
{architecture}APT::Sandbox::User "root";
DPkg::Lock::Timeout "{LOCK_TIMEOUT_S}";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State::Lists "{dir}/lists";
Dir::Cache "{dir}";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::SourceList "{dir}/sources.list";
Dir::Etc::SourceParts "/dev/null";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_of_another_architecture_knows_no_package_of_this_machine() {
        let set = |arch| configuration(Path::new("/cache"), arch).contains("APT::Architecture");
        let is_host = |arch: &Arch| *arch == Arch::HOST;
        for arch in Arch::ALL {
            // This machine may have others beside its own, which an install has to know.
            assert_eq!(set(arch), !is_host(&arch));
            if !is_host(&arch) {
                let text = configuration(Path::new("/cache"), arch);
                let cleared = text.find("#clear APT::Architectures;\n").unwrap();
                let only = format!("APT::Architectures {{\"{}\";}};\n", arch.debian());
                assert!(text.find(&only).unwrap() > cleared, "{text}");
            }
        }
    }
}
