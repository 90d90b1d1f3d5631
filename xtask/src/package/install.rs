//! `cargo xtask test-package`: the .deb in a real systemd, of each Debian that it is for, where
//! it is installed, used, upgraded, removed and purged by `install_test.sh`; and the tarball in
//! that of one that is too old for the .deb.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use super::{Packages, Programs, VERSION, page, tarball};
use crate::{
    apt,
    arch::Arch,
    artifacts,
    guest::{self, Clock, Machine},
    initramfs::Initramfs,
    kernels::{self, Kernel, Series},
    paths, process,
    report::Tally,
    tools,
};

/// Where the test is in the guest, beside what it needs.
const DIR: &str = "/test";

/// What every guest has beyond the essential: enough to have a service and to use it.
const PACKAGES: &str = "systemd-sysv,passwd,curl,iproute2,netcat-openbsd,kmod";

/// What all tests tell their cases by.
const CASES: &str = include_str!("cases.sh");

/// Boot and test take three minutes where the host is not busy.
const DEADLINE: Duration = Duration::from_mins(45);

/// Arguments of `cargo xtask test-package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to test, all of it otherwise
    subjects: Vec<Subject>,
}

/// What is installed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The tarball, on Debian 11.
    Bullseye,
    /// The package, on Debian 12.
    Bookworm,
    /// The package, on Debian 13.
    Trixie,
    /// The package, on Debian testing.
    Forky,
}

impl Subject {
    /// The release of Debian.
    const fn suite(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Its kernel.
    const fn series(self) -> Series {
        match self {
            Self::Bullseye => Series::V5_10,
            Self::Bookworm => Series::V6_1,
            Self::Trixie => Series::V6_12,
            Self::Forky => Series::V7_2,
        }
    }

    const fn name(self) -> &'static str {
        self.suite()
    }

    /// What is done there.
    const fn script(self) -> &'static str {
        match self {
            Self::Bullseye => include_str!("tarball_test.sh"),
            Self::Bookworm | Self::Trixie | Self::Forky => include_str!("install_test.sh"),
        }
    }

    /// Commands of the page, by the heading above them, that it has as files.
    const fn commands(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bullseye => &[("Unpack the tarball", "unpack"), ("Take it away", "remove")],
            Self::Bookworm | Self::Trixie | Self::Forky => &[],
        }
    }
}

/// Tests each subject, one after the other.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    tools::ensure(&tools::GUEST_PACKAGES)?;
    tools::ensure(&tools::INSTALL_PACKAGES)?;
    let programs = Programs::build(Arch::HOST, artifacts::PROFILE)?;
    let dir = paths::workspace().join("target/test-package");
    let make = |name: &str, version: &str| Packages::make(&programs, &dir.join(name), version);
    let old = make("old", &format!("{VERSION}~old"))?;
    let new = make("new", VERSION)?;
    let tarball = new.tarball.context("make the tarball")?;
    let files = [
        (old.deb, "old.deb".to_owned()),
        (new.deb, "new.deb".to_owned()),
        (
            tarball,
            format!("{}.tar.gz", tarball::stem(Arch::HOST, VERSION)),
        ),
    ];
    let subjects = if args.subjects.is_empty() {
        Subject::value_variants()
    } else {
        &args.subjects
    };
    let mut total = Tally::default();
    for &subject in subjects {
        total += test_on(subject, &files, &dir)?;
    }
    println!("{total}");
    Ok(total)
}

fn test_on(subject: Subject, files: &[(PathBuf, String)], dir: &Path) -> Result<Tally> {
    let kernels = kernels::fetch([subject.series()])?;
    let kernel = kernels.first().context("fetch the kernel")?;
    let mut image = root(subject)?;
    image.extend(overlay(subject, kernel, files)?);
    let machine = Machine {
        processors: 2,
        memory_mib: 2048,
        clock: Clock::Real,
        kernel_arguments: "",
    };
    let mut tally = Tally::default();
    let name = subject.name();
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
fn root(subject: Subject) -> Result<Vec<u8>> {
    let dir = paths::cache_dir("roots")?;
    let archive = dir.join(format!(
        "{}-{}.cpio",
        subject.suite(),
        PACKAGES.replace(',', "-")
    ));
    if !archive.exists() {
        let staging = paths::cache_dir("roots/staging")?;
        fs::remove_dir_all(&staging).context("empty the staging directory")?;
        fs::create_dir_all(&staging).context("create the staging directory")?;
        let sources = staging.join("sources.list");
        fs::write(&sources, apt::sources_list(&[subject.suite()])?).context("write the sources")?;
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
            .arg(subject.suite())
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

/// What is added to the release: what is to be installed, the test, and a unit that runs it. The kernel
/// unpacks one archive after the other.
fn overlay(subject: Subject, kernel: &Kernel, files: &[(PathBuf, String)]) -> Result<Vec<u8>> {
    let mut image = Initramfs::new();
    image.symlink("/init", "/lib/systemd/systemd");
    image.file(&format!("{DIR}/run"), 0o755, subject.script().as_bytes());
    image.file(&format!("{DIR}/cases.sh"), 0o644, CASES.as_bytes());
    for (heading, name) in subject.commands() {
        let commands = page::commands(heading)?;
        image.file(&format!("{DIR}/{name}"), 0o644, commands.as_bytes());
    }
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
    for (file, name) in files {
        image.copy(file, &format!("{DIR}/{name}"), 0o644)?;
    }
    for (index, module) in kernel.modules()?.iter().enumerate() {
        image.copy(module, &format!("{DIR}/modules/{index:02}.ko"), 0o644)?;
    }
    Ok(image.finish())
}
