//! The system packages the tests need; installs those that are missing.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{apt, apt::Apt, process};

/// QEMU before this one stops some of the guest kernels at random.
const QEMU_MAJOR_MIN: u32 = 8;

/// Debian's compiler, beside whatever rustup has.
pub(crate) const RUSTC: &str = "/usr/bin/rustc";
pub(crate) const CARGO: &str = "/usr/bin/cargo";

/// A Debian package and how to tell that this machine has it.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// Whether what is installed will do.
    pub(crate) is_present: fn(&str) -> bool,
    /// Whether it comes from the release's backports.
    pub(crate) from_backports: bool,
}

/// What the guests and the native tests need on the host.
pub(crate) const GUEST_PACKAGES: [Package; 11] = [
    Package {
        name: "qemu-system-x86",
        is_present: |_| qemu_major().is_some_and(|major| major >= QEMU_MAJOR_MIN),
        from_backports: true,
    },
    Package {
        // It is the judge of `policy export nft`.
        name: "nftables",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        // Network namespaces get their addresses and routes by it.
        name: "iproute2",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        // pasta, the network of rootless containers.
        name: "passt",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        // The traffic of the pages comes from this and the next, from wherever they are.
        name: "curl",
        is_present: runs,
        from_backports: false,
    },
    Package {
        name: "python3",
        is_present: runs,
        from_backports: false,
    },
    Package {
        // It makes the certificates of a native test.
        name: "openssl",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        // Its journald has the alerts of a native test.
        name: "systemd",
        is_present: |_| Path::new("/lib/systemd/systemd-journald").exists(),
        from_backports: false,
    },
    Package {
        name: "busybox-static",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        name: "xz-utils",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        // What the oracle's programs are linked with; later releases renamed it.
        name: "libelf1",
        is_present: |_| Path::new("/lib/x86_64-linux-gnu/libelf.so.1").exists(),
        from_backports: false,
    },
];

/// What judges packages and units.
pub(crate) const PACKAGE_PACKAGES: [Package; 7] = [
    PIP,
    // objdump.
    on_the_host("binutils", is_installed),
    on_the_host("lintian", is_installed),
    on_the_host("rpm", is_installed),
    on_the_host("rpmlint", is_installed),
    on_the_host("strace", is_installed),
    // systemd-analyze.
    on_the_host("systemd", is_installed),
];

/// What the servers of a fleet need beside what they bring along.
pub(crate) const FLEET_PACKAGES: [Package; 2] = [PIP, on_the_host("tzdata", is_installed)];

/// What makes the file systems that packages are installed in.
pub(crate) const INSTALL_PACKAGES: [Package; 1] = [on_the_host("mmdebstrap", is_installed)];

const PIP: Package = on_the_host("python3-pip", |_| {
    runs_with("python3", &["-m", "pip", "--version"])
});

/// A package of the host's own release.
pub(crate) const fn on_the_host(name: &'static str, is_present: fn(&str) -> bool) -> Package {
    Package {
        name,
        is_present,
        from_backports: false,
    }
}

/// What the measurements need beyond that.
pub(crate) const BENCH_PACKAGES: [Package; 1] = [Package {
    // Compiles the programs in C that ours are measured against.
    name: "clang",
    is_present: is_installed,
    from_backports: false,
}];

/// What building rustnet takes, the live view that ours is measured beside.
pub(crate) const RUSTNET_PACKAGES: [Package; 2] = [
    Package {
        name: "libpcap-dev",
        is_present: is_installed,
        from_backports: false,
    },
    Package {
        name: "libelf-dev",
        is_present: is_installed,
        from_backports: false,
    },
];

/// Installs those of `packages` that are missing, which needs root.
pub(crate) fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages
        .iter()
        .filter(|package| !(package.is_present)(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let release = apt::host_release()?;
    let backports = format!("{release}-backports");
    let names = |from_backports: bool| -> Vec<&str> {
        missing
            .iter()
            .filter(|package| package.from_backports == from_backports)
            .map(|package| package.name)
            .collect()
    };
    if !process::is_root()? {
        bail!(
            "install the missing packages, as root or by running this as root: {} {}",
            names(false).join(" "),
            names(true)
                .iter()
                .map(|name| format!("{name}/{backports}"))
                .collect::<Vec<_>>()
                .join(" "),
        );
    }
    let security = format!("{release}-security");
    let apt = Apt::with_suites("host", &[&release, &security, &backports])?;
    for (names, target) in [(names(false), None), (names(true), Some(&*backports))] {
        if !names.is_empty() {
            apt.install(&names, target)?;
        }
    }
    Ok(())
}

/// Whether a program of the package's name runs.
fn runs(name: &str) -> bool {
    runs_with(name, &["--version"])
}

fn runs_with(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether dpkg lists `package` as installed.
pub(crate) fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// The version of `package` that is installed.
pub(crate) fn version(package: &str) -> Result<String> {
    let mut query = Command::new("dpkg-query");
    let version = query.args(["--show", "--showformat=${Version}", package]);
    process::output(version)
}

fn qemu_major() -> Option<u32> {
    let output = Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .ok()?;
    major_version(&String::from_utf8_lossy(&output.stdout))
}

/// The first number of the first word that starts with a digit.
fn major_version(text: &str) -> Option<u32> {
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_qemu_prints() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright 2003-2025";
        assert_eq!(major_version(text), Some(10));
        assert_eq!(major_version("no version here"), None);
    }

    #[test]
    fn an_unknown_package_is_not_installed() {
        assert!(!is_installed("no-such-package-anywhere"));
        assert!(is_installed("dpkg"));
    }
}
