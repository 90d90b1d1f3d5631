//! What the guests of a measurement have besides ours: the programs in C, the peers,
//! and what these need.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{What, figures::Measurement};
use crate::{apt::Apt, kernels, oracle, paths, process};

/// In the guest: everything that is not a program.
const DIR: &str = "/bench";

/// Where the programs in C are, below the workspace.
const SOURCES: &str = "port-monitor/tests/kernel/bench";

/// What the name of the source of a BPF program ends with.
const SOURCE_SUFFIX: &str = ".bpf.c";

/// The packages of bpftrace and of those of its libraries a host may lack, or have in
/// another version than it needs. It never runs on the host.
const BPFTRACE_PACKAGES: [&str; 14] = [
    "bpftrace",
    "libbpf1",
    "libbpfcc",
    "libbsd0",
    "libclang1-14",
    "libdw1",
    "libedit2",
    "libelf1",
    "libffi8",
    "libicu72",
    "libllvm14",
    "libmd0",
    "libxml2",
    "libz3-4",
];

/// Those of bpftrace's scripts that do what we do.
const BPFTRACE_SCRIPTS: [&str; 3] = ["tcpaccept.bt", "tcpconnect.bt", "tcplife.bt"];

/// The crate of the live view that ours is measured beside, and which one of it.
const RUSTNET: &str = "rustnet-monitor";
const RUSTNET_VERSION: &str = "1.7.0";

/// All that bpftrace's scripts take from the C library's header of this name.
const SOCKET_HEADER: &str = "#define AF_INET 2\n#define AF_INET6 10\n";

/// Files of the host and their paths in the guests.
#[derive(Debug, Default)]
pub(super) struct Supplies {
    /// Programs; the guests get their libraries too.
    pub(super) programs: Vec<(PathBuf, String)>,
    /// Other files.
    pub(super) files: Vec<(PathBuf, String)>,
    /// Libraries that come before the host's own.
    pub(super) library_dir: Option<PathBuf>,
}

impl Supplies {
    /// Fetches and compiles what measuring `what` needs; compiled objects go to `out`.
    pub(super) fn gather(what: What, out: &Path) -> Result<Self> {
        let mut supplies = Self {
            files: compile(&paths::workspace().join(SOURCES), out)?,
            ..Self::default()
        };
        match what {
            What::Monitor => {
                supplies.programs = oracle::programs(kernels::BENCH_SERIES)?;
                supplies.add_bpftrace(out)?;
            }
            What::Verdict => {
                let nft = PathBuf::from("/usr/sbin/nft");
                ensure!(nft.exists(), "find {}: install nftables", nft.display());
                supplies.programs.push((nft, "/bin/nft".to_owned()));
            }
            What::Top => {
                let ss = PathBuf::from("/usr/bin/ss");
                ensure!(ss.exists(), "find {}: install iproute2", ss.display());
                supplies.programs.push((ss, "/bin/ss".to_owned()));
                supplies
                    .programs
                    .push((rustnet()?, "/bin/rustnet".to_owned()));
            }
            What::Scale | What::History => {}
        }
        Ok(supplies)
    }

    fn add_bpftrace(&mut self, out: &Path) -> Result<()> {
        let dir = paths::cache_dir("bpftrace")?.join(oracle::SUITE);
        if !dir.exists() {
            download_bpftrace(&dir)?;
        }
        let header = out.join("socket.h");
        fs::write(&header, SOCKET_HEADER).context("write a header for bpftrace")?;
        let bpftrace = dir.join("usr/bin/bpftrace");
        self.programs.push((bpftrace, "/bin/bpftrace".to_owned()));
        self.files
            .push((header, "/usr/include/sys/socket.h".to_owned()));
        for name in BPFTRACE_SCRIPTS {
            let script = dir.join("usr/sbin").join(name);
            self.files.push((script, format!("{DIR}/{name}")));
        }
        self.library_dir = Some(dir.join("usr/lib/x86_64-linux-gnu"));
        Ok(())
    }
}

/// The live view that ours is measured beside, built from the registry of crates.
fn rustnet() -> Result<PathBuf> {
    let root = paths::workspace().join("target/bench/rustnet");
    let mut cargo = process::cargo();
    cargo
        .args(["install", RUSTNET, "--version", RUSTNET_VERSION, "--locked"])
        .arg("--root")
        .arg(&root)
        .arg("--target-dir")
        .arg(root.join("build"));
    process::run(&mut cargo)?;
    Ok(root.join("bin/rustnet"))
}

/// Unpacks bpftrace and its libraries into `dir`, in one rename at the end.
fn download_bpftrace(dir: &Path) -> Result<()> {
    let apt = Apt::with_suites("oracle", &[oracle::SUITE])?;
    let staging = paths::cache_dir("bpftrace/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(&ready).context("create the staging directory")?;
    for package in BPFTRACE_PACKAGES {
        apt.unpack(package, &staging.join("packages"), &ready)?;
    }
    paths::replace(&ready, dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")
}

/// Compiles each BPF program in `sources`; the objects and their paths in the guest.
fn compile(sources: &Path, out: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut objects = Vec::new();
    for (name, source) in bpf_sources(sources)? {
        let object = out.join(format!("{name}.bpf.o"));
        let mut clang = Command::new("clang");
        clang
            .args([
                "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Werror",
            ])
            .arg("-c")
            .arg(&source)
            .arg("-o")
            .arg(&object);
        process::run(&mut clang)?;
        objects.push((object, format!("{DIR}/{name}.bpf.o")));
    }
    Ok(objects)
}

/// The names and files of the BPF programs in `dir`, in the order of their names.
fn bpf_sources(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let file_name = entry.file_name();
        let name = file_name
            .to_str()
            .and_then(|name| name.strip_suffix(SOURCE_SUFFIX));
        sources.extend(name.map(|name| (name.to_owned(), entry.path())));
    }
    sources.sort();
    Ok(sources)
}

/// How large a program is.
pub(super) fn size_of(program: &Path) -> Result<Measurement> {
    let size = fs::metadata(program).with_context(|| format!("read {}", program.display()))?;
    // Whole KiB, which fit without loss.
    let kib = u32::try_from(size.len().div_ceil(1024)).context("a program has a size")?;
    Ok(Measurement {
        group: "binary".to_owned(),
        subject: "port-monitor".to_owned(),
        metric: "size".to_owned(),
        unit: "MiB".to_owned(),
        run: 0,
        value: f64::from(kib) / 1024.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_programs_are_found_by_their_names() {
        let dir = std::env::temp_dir().join(format!("bpf-sources-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in ["limit.bpf.c", "floor.bpf.c", "mod.rs", "plain.c", "x.bpf.h"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let sources = bpf_sources(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();

        let expected =
            ["floor", "limit"].map(|name| (name.to_owned(), dir.join(format!("{name}.bpf.c"))));
        assert_eq!(sources, expected);
        assert!(bpf_sources(&dir).is_err());
    }

    #[test]
    fn a_size_is_in_mebibytes() {
        let file = std::env::temp_dir().join(format!("size-{}", std::process::id()));
        fs::write(&file, vec![0; 512 * 1024]).unwrap();
        let size = size_of(&file).unwrap();
        fs::remove_file(&file).unwrap();
        assert!((size.value - 0.5).abs() < 1e-9);
    }
}
