//! `cargo xtask package`: the .deb, the .rpm and the tarball, from the committed lockfile, the
//! same to the byte wherever they are made.

mod alone;
pub(crate) mod check;
mod crates;
pub(crate) mod install;
mod nfpm;
mod page;
mod tarball;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{arch::Arch, artifacts, man, paths, process, report::Tally};

/// The variable that says of when the files in a package are, in seconds since 1970.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The shells of whose completions packages have a place, and the names of the files.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "port-monitor.bash"),
    ("fish", "port-monitor.fish"),
    ("zsh", "_port-monitor"),
];

/// Arguments of `cargo xtask package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Make packages for hosts of this architecture [default: this machine's]
    #[arg(long, value_enum, value_name = "ARCH", default_value_t = Arch::HOST, hide_default_value = true)]
    target: Arch,
    /// Package this program instead of building one for release, and make no tarball
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Make the tarball of this program, which has no shared libraries
    #[arg(long, value_name = "PATH", requires = "binary")]
    static_binary: Option<PathBuf>,
    /// Hold packages and units to what is promised of them, instead of making packages
    #[arg(long)]
    check: bool,
}

/// Makes the packages in `target/package`, or checks what they would be.
pub(crate) fn run(args: &Args) -> Result<Tally> {
    let programs = match &args.binary {
        Some(path) => Programs::given(args.target, path, args.static_binary.as_deref())?,
        // What is promised does not depend on the profile.
        None if args.check => Programs::build(args.target, artifacts::PROFILE)?,
        None => Programs::build(args.target, artifacts::RELEASE)?,
    };
    if args.check {
        return check::run(&programs, |failure| println!("{failure}"));
    }
    let dir = paths::workspace().join("target/package");
    let packages = Packages::make(&programs, &dir, VERSION)?;
    for path in [packages.deb, packages.rpm].iter().chain(&packages.tarball) {
        println!("{}", path.display());
    }
    Ok(Tally::one(true))
}

/// What is packaged.
#[derive(Debug)]
pub(crate) struct Programs {
    /// What they run on.
    arch: Arch,
    /// One that runs here, which writes manual and completions.
    native: PathBuf,
    /// It uses the libraries of the host that it runs on.
    dynamic: PathBuf,
    /// It has all that it needs in itself.
    whole: Option<PathBuf>,
}

impl Programs {
    /// Builds them in this profile.
    pub(crate) fn build(arch: Arch, profile: &str) -> Result<Self> {
        let dynamic = artifacts::build_program_for(arch, profile)?;
        let whole = artifacts::build_static_program(arch, profile)?;
        Self::given(arch, &dynamic, Some(&whole))
    }

    /// These, which run on `arch`.
    fn given(arch: Arch, dynamic: &Path, whole: Option<&Path>) -> Result<Self> {
        let native = if arch == Arch::HOST {
            dynamic.to_owned()
        } else {
            // What it writes does not depend on the profile.
            artifacts::build_program(artifacts::PROFILE)?
        };
        Ok(Self {
            arch,
            native,
            dynamic: dynamic.to_owned(),
            whole: whole.map(Path::to_owned),
        })
    }
}

/// What was made.
#[derive(Debug)]
struct Packages {
    deb: PathBuf,
    rpm: PathBuf,
    /// Where there is a program for it.
    tarball: Option<PathBuf>,
}

impl Packages {
    /// Makes those of `programs` in `dir`, which is emptied before.
    fn make(programs: &Programs, dir: &Path, version: &str) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("empty {}", dir.display()))?;
        }
        let made = dir.join("made");
        fs::create_dir_all(&made).with_context(|| format!("create {}", made.display()))?;
        stage(programs, &made)?;
        let arch = programs.arch;
        let (nfpm, epoch) = (nfpm::program()?, epoch()?);
        let package = |kind: &str, name: String| -> Result<PathBuf> {
            let target = dir.join(name);
            let mut command = Command::new(&nfpm);
            command
                .current_dir(paths::workspace())
                .env("MADE", &made)
                .env("VERSION", version)
                .env("ARCH", arch.debian())
                .env(EPOCH, &epoch)
                .args(["package", "--config=packaging/nfpm.yaml"])
                .args(["--packager", kind, "--target"])
                .arg(&target);
            process::output(&mut command)?;
            Ok(target)
        };
        let deb = package(
            "deb",
            format!("port-monitor_{version}-1_{}.deb", arch.debian()),
        )?;
        let rpm = package(
            "rpm",
            format!("port-monitor-{version}-1.{}.rpm", arch.name()),
        )?;
        let stem = tarball::stem(arch, version);
        let tarball = |program: &PathBuf| tarball::make(program, &deb, dir, &stem, &epoch);
        let tarball = programs.whole.as_ref().map(tarball).transpose()?;
        Ok(Self { deb, rpm, tarball })
    }
}

/// The version of everything in this workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Of when the files are: as the environment says, or as the last commit.
fn epoch() -> Result<String> {
    if let Ok(asked) = env::var(EPOCH) {
        return Ok(asked);
    }
    let mut git = Command::new("git");
    git.args(["log", "--max-count=1", "--format=%ct"]);
    let seconds = process::output(git.current_dir(paths::workspace()))
        .with_context(|| format!("ask git for the time of the last commit, or set {EPOCH}"))?;
    Ok(seconds.trim().to_owned())
}

/// Writes to `made` what is not in the repository.
fn stage(programs: &Programs, made: &Path) -> Result<()> {
    let Programs {
        arch,
        native,
        dynamic,
        whole: _,
    } = programs;
    fs::copy(dynamic, made.join("port-monitor"))
        .with_context(|| format!("copy {}", dynamic.display()))?;
    let pages = made.join("man");
    man::write(native, &pages)?;
    for (shell, name) in COMPLETIONS {
        let script = process::output(Command::new(native).args(["completions", shell]))?;
        write(&made.join(name), &script)?;
    }
    let notices = made.join("crates.txt");
    write(&notices, &crates::notices(*arch)?)?;
    let mut compressed = vec![notices];
    for page in fs::read_dir(&pages).context("read the manual pages")? {
        compressed.push(page?.path());
    }
    // Without names and times.
    process::run(
        Command::new("gzip")
            .args(["-9", "--no-name"])
            .args(compressed),
    )
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
