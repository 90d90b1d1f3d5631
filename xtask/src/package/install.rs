//! `cargo xtask test-package`: the .deb in a real systemd, of each Debian that it is for. It is
//! installed, used, upgraded, removed and purged there by `install_test.sh`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use super::{Packages, VERSION};
use crate::{
    apt, artifacts,
    guest::{self, Clock, Machine},
    initramfs::Initramfs,
    kernels::{self, Kernel, Series},
    paths, process,
    report::Tally,
    tools,
};

const SCRIPT: &str = include_str!("install_test.sh");
/// Where it is in the guest, beside what it needs.
const DIR: &str = "/test";

/// What the guest has beyond the essential: enough to have a service and to use it.
const PACKAGES: &str = "systemd-sysv,passwd,curl,iproute2,netcat-openbsd,kmod";

/// Boot and test take three minutes where the host is not busy.
const DEADLINE: Duration = Duration::from_mins(45);

/// Arguments of `cargo xtask test-package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Debian releases to test on, of all of them otherwise
    suites: Vec<Suite>,
}

/// A release of Debian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
    /// Debian testing.
    Forky,
}

impl Suite {
    const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Forky];

    const fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Its kernel.
    const fn series(self) -> Series {
        match self {
            Self::Bookworm => Series::V6_1,
            Self::Trixie => Series::V6_12,
            Self::Forky => Series::V7_2,
        }
    }
}

/// Tests the package on each of the releases, one after the other.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    tools::ensure(&tools::GUEST_PACKAGES)?;
    tools::ensure(&tools::INSTALL_PACKAGES)?;
    let program = artifacts::build_guest_program()?;
    let dir = paths::workspace().join("target/test-package");
    let make = |name: &str, version: &str| Packages::make(&program, &dir.join(name), version);
    let debs = [
        (make("old", &format!("{VERSION}~old"))?.deb, "old.deb"),
        (make("new", VERSION)?.deb, "new.deb"),
    ];
    let suites = if args.suites.is_empty() {
        &Suite::ALL[..]
    } else {
        &args.suites
    };
    let mut total = Tally::default();
    for &suite in suites {
        total += test_on(suite, &debs, &dir)?;
    }
    println!("{total}");
    Ok(total)
}

fn test_on(suite: Suite, debs: &[(PathBuf, &str)], dir: &Path) -> Result<Tally> {
    let kernels = kernels::fetch([suite.series()])?;
    let kernel = kernels.first().context("fetch the kernel")?;
    let mut image = root(suite)?;
    image.extend(overlay(kernel, debs)?);
    let machine = Machine {
        processors: 2,
        memory_mib: 2048,
        clock: Clock::Real,
        kernel_arguments: "",
    };
    let mut tally = Tally::default();
    let name = suite.name();
    let outcome = guest::boot_image(kernel, machine, &image, DEADLINE, &dir.join(name), |line| {
        println!("[{name}] {line}");
        if line.ends_with(" ... ok") {
            tally += Tally::one(true);
        } else if line.ends_with(" ... FAILED") {
            tally += Tally::one(false);
        }
    })?;
    match outcome.status {
        Ok(0) => {}
        Ok(status) => bail!("{name}: the test ended with {status}"),
        Err(breakdown) => bail!(
            "{name}: {}\n{}",
            breakdown.reason,
            breakdown.console_tail.join("\n")
        ),
    }
    ensure!(
        tally.passed + tally.failed > 0,
        "{name}: nothing was tested"
    );
    println!("[{name}] {tally} in {} s", outcome.total_time.as_secs());
    Ok(tally)
}

/// A file system with the release on it, as a cpio archive; made where the cache has none.
fn root(suite: Suite) -> Result<Vec<u8>> {
    let dir = paths::cache_dir("roots")?;
    let archive = dir.join(format!(
        "{}-{}.cpio",
        suite.name(),
        PACKAGES.replace(',', "-")
    ));
    if !archive.exists() {
        let staging = paths::cache_dir("roots/staging")?;
        fs::remove_dir_all(&staging).context("empty the staging directory")?;
        fs::create_dir_all(&staging).context("create the staging directory")?;
        let sources = staging.join("sources.list");
        fs::write(&sources, apt::sources_list(&[suite.name()])?).context("write the sources")?;
        let unpacked = staging.join("unpacked");
        let mut bootstrap = process::elevated("mmdebstrap")?;
        bootstrap
            .args(["--quiet", "--variant=essential", "--include", PACKAGES])
            .args([
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                // A mirror may be behind its release.
                "--aptopt=Acquire::Check-Valid-Until \"false\"",
                "--skip=output/mknod",
            ])
            .arg(suite.name())
            .args([&unpacked, &sources]);
        process::run(&mut bootstrap)?;
        let staged = staging.join("root.cpio");
        let script = format!(
            "cd {} && find . -xdev | busybox cpio -o -H newc >{}",
            unpacked.display(),
            staged.display()
        );
        process::run(process::elevated("sh")?.args(["-c", &script]))?;
        fs::rename(&staged, &archive).with_context(|| format!("fill {}", archive.display()))?;
        process::run(process::elevated("rm")?.arg("-rf").arg(&staging))?;
    }
    fs::read(&archive).with_context(|| format!("read {}", archive.display()))
}

/// What is added to the release: the packages, the test, and a unit that runs it. The kernel
/// unpacks one archive after the other.
fn overlay(kernel: &Kernel, debs: &[(PathBuf, &str)]) -> Result<Vec<u8>> {
    let mut image = Initramfs::new();
    image.symlink("/init", "/lib/systemd/systemd");
    image.file(&format!("{DIR}/run"), 0o755, SCRIPT.as_bytes());
    let unit = include_str!("install_test.service");
    image.file("/etc/systemd/system/test.service", 0o644, unit.as_bytes());
    image.symlink(
        "/etc/systemd/system/multi-user.target.wants/test.service",
        "../test.service",
    );
    // They would end what the test prints.
    for terminal in ["serial-getty@ttyS0", "serial-getty@ttyS1", "getty@tty1"] {
        image.symlink(
            &format!("/etc/systemd/system/{terminal}.service"),
            "/dev/null",
        );
    }
    for (deb, name) in debs {
        image.copy(deb, &format!("{DIR}/{name}"), 0o644)?;
    }
    for (index, module) in kernel.modules()?.iter().enumerate() {
        image.copy(module, &format!("{DIR}/modules/{index:02}.ko"), 0o644)?;
    }
    Ok(image.finish())
}
