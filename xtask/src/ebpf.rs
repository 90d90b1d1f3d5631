//! `cargo xtask build-ebpf [--check]`: builds the eBPF objects from source, one for each
//! architecture, with Debian's compiler (which carries `core` for the BPF target) and
//! bpf-linker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    arch::Arch,
    paths, process, stack,
    tools::{self, CARGO, Package, RUSTC},
};

#[path = "../../port-monitor/build/digest.rs"]
mod digest;

/// The SHA-256 of some bytes, in hex.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    digest::of_bytes(bytes)
}

/// bpf-linker's version, and the LLVM it is built on.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
/// Debian packages of the BPF toolchain.
const PACKAGES: [Package; 6] = [
    package("rustc-web"),
    package("cargo-web"),
    package("libstd-rust-web-dev-bpf"),
    package("llvm-22-dev"),
    package("clang-22"),
    package("libpolly-22-dev"),
];
const TARGET: &str = "bpfel-unknown-none";

const fn package(name: &'static str) -> Package {
    tools::on_the_host(name, tools::is_installed)
}

/// Flags of `build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build, and compare with the committed objects instead of replacing them
    #[arg(long)]
    check: bool,
}

/// What comparing a fresh build with the committed object gave.
enum Comparison {
    Identical,
    /// The toolchain is not the one the committed object was built with, so a
    /// difference would mean nothing.
    ToolchainMoved {
        built_with: String,
        here: String,
    },
}

/// Builds the object of each architecture, and writes or compares it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = paths::workspace();
    let toolchain = install()?;
    for arch in Arch::ALL {
        let object = build(workspace, &toolchain, arch)?;
        let committed = committed(workspace, arch);
        if args.check {
            check(workspace, &committed, &object, &toolchain)?;
        } else {
            write(workspace, &committed, &object, &toolchain)?;
        }
    }
    Ok(())
}

/// Where the object of `arch` is committed; its manifest is beside it.
fn committed(workspace: &Path, arch: Arch) -> PathBuf {
    workspace.join(format!(
        "port-monitor/bpf/port-monitor-{}.bpf.o",
        arch.name()
    ))
}

/// Says how the committed object compares with `object`; an error if it is another.
fn check(workspace: &Path, committed: &Path, object: &[u8], toolchain: &Toolchain) -> Result<()> {
    match compare(workspace, committed, object, toolchain)? {
        Comparison::Identical => println!("{}: identical", committed.display()),
        Comparison::ToolchainMoved { built_with, here } => println!(
            "{}: not compared: it was built with {built_with}, this machine has {here}; run \
             `cargo xtask build-ebpf` and commit port-monitor/bpf",
            committed.display()
        ),
    }
    Ok(())
}

/// A BPF toolchain on this machine.
struct Toolchain {
    linker: PathBuf,
    /// Versions of compiler and linker, as the manifest records them.
    version: String,
}

/// Installs what is missing: the compiler through apt, the linker through cargo.
fn install() -> Result<Toolchain> {
    tools::ensure(&PACKAGES)?;
    let root = paths::cache_dir("tools")?;
    let linker = root.join("bin/bpf-linker");
    if version_of(&linker).is_none_or(|version| !version.contains(LINKER_VERSION)) {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([
                "install",
                "bpf-linker",
                "--locked",
                "--force",
                "--version",
                LINKER_VERSION,
            ])
            // What works is LLVM, which is built already.
            .arg("--debug")
            .args(["--no-default-features", "--features", "llvm-22", "--root"])
            .arg(&root)
            .env("LLVM_PREFIX", LLVM);
        process::run(&mut cargo)?;
    }
    let rustc = version_of(Path::new(RUSTC)).context("no /usr/bin/rustc after installing it")?;
    Ok(Toolchain {
        linker,
        version: format!("{rustc}, bpf-linker {LINKER_VERSION}, LLVM 22"),
    })
}

fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Builds and strips the object of `arch`, whose programs read that architecture's
/// registers; the bytes do not depend on where it is built.
fn build(workspace: &Path, toolchain: &Toolchain, arch: Arch) -> Result<Vec<u8>> {
    let target_dir = workspace.join("target/ebpf");
    let home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", arch.name()),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        format!("--remap-path-prefix={}=/src", workspace.display()),
        format!("--remap-path-prefix={}=/cargo", home.display()),
    ];
    let mut cargo = Command::new(CARGO);
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "port-monitor-ebpf",
            "--bins",
        ])
        .args(["--target", TARGET])
        // What is made small for userspace is for the verifier a longer way.
        .args(["--config", r#"profile.release.package."*".opt-level = 3"#])
        .args(["--config", r#"profile.release.lto = "thin""#])
        .env("CARGO", CARGO)
        .env("RUSTC", RUSTC)
        .env("CARGO_TARGET_DIR", &target_dir)
        // Debian's is a stable compiler; these two crates need inline assembly
        // for the BPF target.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,port_monitor_ebpf")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER");
    process::run(&mut cargo)?;
    let built = target_dir.join(TARGET).join("release/port-monitor-ebpf");
    let stripped = target_dir.join(format!("{}.bpf.o", arch.name()));
    process::run(
        Command::new(format!("{LLVM}/bin/llvm-strip"))
            .args(["--strip-debug", "-o"])
            .args([&stripped, &built]),
    )?;
    remove_lines(&stripped, &target_dir.join("btf-ext"))?;
    let object = fs::read(&stripped).with_context(|| stripped.display().to_string())?;
    refuse_panics(&stripped)?;
    stack::check(&disassembly(&stripped)?)?;
    Ok(object)
}

/// Removes the line of the source that each instruction is from, and the relocations of
/// the type information, which no loader reads: more than half of the object. Only a
/// verifier's log shows the lines; of the object before it was stripped it still does.
fn remove_lines(object: &Path, section: &Path) -> Result<()> {
    let objcopy = || Command::new(format!("{LLVM}/bin/llvm-objcopy"));
    let name = ".BTF.ext";
    let at = format!("{name}={}", section.display());
    process::run(objcopy().args(["--dump-section", &at]).arg(object))?;
    let with_lines = fs::read(section).with_context(|| section.display().to_string())?;
    fs::write(section, functions_only(&with_lines).context(name)?)?;
    process::run(
        objcopy()
            .args(["--update-section", &at])
            .args(["--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"])
            .arg(object),
    )
}

/// A `.BTF.ext` section (`Documentation/bpf/btf.rst`) with the types of its functions, and
/// without lines. `None` if it is not one as bpf-linker writes it.
fn functions_only(section: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| -> Option<usize> {
        let bytes = section.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let [header, functions_at, functions, lines_at] = [word(4)?, word(8)?, word(12)?, word(16)?];
    let (relocations_at, relocations) = (24, word(28)?);
    if header < 32 || functions_at != 0 || lines_at != functions || relocations != 0 {
        return None;
    }
    // The size of a line's record stays, of which there are none.
    let size_bytes = 4;
    let end = functions + size_bytes;
    let mut rest = section.get(..header + end)?.to_vec();
    for (at, value) in [(20, size_bytes), (relocations_at, end)] {
        let value = u32::try_from(value).ok()?;
        rest[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    Some(rest)
}

/// A reachable panic builds, and is refused by every kernel's verifier.
fn refuse_panics(object: &Path) -> Result<()> {
    let symbols = Command::new(format!("{LLVM}/bin/llvm-nm"))
        .arg(object)
        .output()?;
    let symbols = String::from_utf8_lossy(&symbols.stdout);
    match symbols.lines().find(|line| line.contains("panicking")) {
        Some(line) => bail!("{}: the code can panic: {line}", object.display()),
        None => Ok(()),
    }
}

/// The object's instructions, with what is called.
fn disassembly(object: &Path) -> Result<String> {
    let output = Command::new(format!("{LLVM}/bin/llvm-objdump"))
        .args(["--disassemble", "--reloc", "--no-show-raw-insn"])
        .arg(object)
        .output()
        .context("run llvm-objdump")?;
    ensure!(output.status.success(), "llvm-objdump: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write(workspace: &Path, path: &Path, object: &[u8], toolchain: &Toolchain) -> Result<()> {
    let manifest = format!(
        "# Written by `cargo xtask build-ebpf`; port-monitor/build.rs checks it.\n\
         object = {}\ninputs = {}\ntoolchain = {}\n",
        digest::of_bytes(object),
        digest::of_inputs(workspace)?,
        toolchain.version,
    );
    fs::create_dir_all(path.parent().context("no directory")?)?;
    fs::write(path, object)?;
    fs::write(path.with_extension("manifest"), manifest)?;
    println!("{}: {} bytes", path.display(), object.len());
    Ok(())
}

fn compare(
    workspace: &Path,
    path: &Path,
    object: &[u8],
    toolchain: &Toolchain,
) -> Result<Comparison> {
    let manifest = fs::read_to_string(path.with_extension("manifest"))?;
    let value = |key| digest::manifest_value(&manifest, key).unwrap_or_default();
    ensure!(
        value("inputs") == digest::of_inputs(workspace)?,
        "{}: the sources changed since it was built: run `cargo xtask build-ebpf`",
        path.display()
    );
    if value("toolchain") != toolchain.version {
        return Ok(Comparison::ToolchainMoved {
            built_with: value("toolchain").to_owned(),
            here: toolchain.version.clone(),
        });
    }
    ensure!(
        fs::read(path)? == object,
        "{}: not what the sources build: run `cargo xtask build-ebpf` and commit it",
        path.display()
    );
    Ok(Comparison::Identical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(words: &[u32]) -> Vec<u8> {
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        0x0001_eb9f_u32
            .to_le_bytes()
            .into_iter()
            .chain(words)
            .collect()
    }

    #[test]
    fn committed_objects_are_of_the_sources_beside_them() {
        let workspace = paths::workspace();
        for arch in Arch::ALL {
            let object = committed(workspace, arch);
            let manifest = fs::read_to_string(object.with_extension("manifest")).unwrap();
            let value = |key| digest::manifest_value(&manifest, key).unwrap();
            let stale = format!("{}: run `cargo xtask build-ebpf`", object.display());
            assert_eq!(
                value("inputs"),
                digest::of_inputs(workspace).unwrap(),
                "{stale}"
            );
            assert_eq!(
                value("object"),
                digest_of(&fs::read(&object).unwrap()),
                "{stale}"
            );
        }
    }

    #[test]
    fn functions_stay_and_lines_go() {
        let with_lines = section(&[32, 0, 8, 8, 12, 20, 0, 8, 77, 16, 78, 79]);
        let without = section(&[32, 0, 8, 8, 4, 12, 0, 8, 77, 16]);
        assert_eq!(functions_only(&with_lines), Some(without.clone()));
        assert_eq!(functions_only(&without), Some(without));
    }

    #[test]
    fn another_order_and_relocations_are_refused() {
        let other_order = section(&[32, 4, 8, 0, 4, 12, 0, 16, 8, 77]);
        let with_relocations = section(&[32, 0, 4, 4, 4, 8, 4, 8, 16, 16]);
        let short = section(&[32, 0, 8, 8, 4, 12, 0, 8, 77]);
        for section in [other_order, with_relocations, short, vec![]] {
            assert_eq!(functions_only(&section), None);
        }
    }
}
