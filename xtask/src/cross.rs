//! Cargo for hosts of another architecture: Debian's, because Debian has the standard library
//! for each of its architectures in a package of the compiler's own version. rustup's compiler
//! would need one that comes from elsewhere.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    apt::{self, Apt},
    arch::Arch,
    paths, process,
    tools::{self, CARGO, Package, RUSTC},
};

/// The compiler, and its standard library.
const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";

/// Cargo in the workspace, as it builds for hosts of `arch`; installs what that takes. What is
/// built lies in a directory of its own: the compiler is another one.
pub(crate) fn cargo(arch: Arch) -> Result<Command> {
    if arch == Arch::HOST {
        return Ok(process::cargo());
    }
    tools::ensure(&packages(arch))?;
    let library = standard_library(arch)?;
    let mut cargo = Command::new(CARGO);
    let variable = |end: &str| {
        let target = arch.target().replace('-', "_").to_uppercase();
        format!("CARGO_TARGET_{target}_{end}")
    };
    cargo
        .current_dir(paths::workspace())
        .env("CARGO", CARGO)
        .env("RUSTC", RUSTC)
        .env("CARGO_BUILD_TARGET", arch.target())
        .env("CARGO_TARGET_DIR", target_dir(arch))
        .env(variable("LINKER"), format!("{}-gcc", arch.gnu()))
        // Build scripts and procedural macros run here, and have the library that is here.
        .env(
            variable("RUSTFLAGS"),
            format!("--sysroot={}", library.display()),
        )
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER");
    Ok(cargo)
}

/// Where cargo puts what it builds for hosts of `arch`.
pub(crate) fn target_dir(arch: Arch) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| paths::workspace().join("target"));
    if arch == Arch::HOST {
        target
    } else {
        target.join("cross")
    }
}

/// The compilers, and the C library to link with.
fn packages(arch: Arch) -> [Package; 4] {
    let [c_compiler, c_library] = arch.cross_packages();
    [COMPILER, "cargo-web", c_compiler, c_library]
        .map(|name| tools::on_the_host(name, tools::is_installed))
}

/// The root of the standard library for `arch`, of the compiler's version; fetched where the
/// cache has none.
fn standard_library(arch: Arch) -> Result<PathBuf> {
    let version = tools::version(COMPILER)?;
    let dir = paths::cache_dir("std")?.join(arch.name()).join(&version);
    if !dir.exists() {
        download(arch, &version, &dir).with_context(|| {
            format!(
                "fetch {LIBRARY} {version} for {}: if it is gone, update {COMPILER}",
                arch.name()
            )
        })?;
    }
    Ok(dir.join("usr"))
}

/// Fills `dir`, in one rename at the end.
fn download(arch: Arch, version: &str, dir: &Path) -> Result<()> {
    let release = apt::host_release()?;
    let security = format!("{release}-security");
    let apt = Apt::for_arch(arch, "std", &[&release, &security])?;
    let staging = paths::cache_dir("std/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let ready = staging.join("ready");
    fs::create_dir_all(&ready).context("create the staging directory")?;
    apt.unpack(&format!("{LIBRARY}={version}"), &staging, &ready)?;
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).with_context(|| format!("create {}", above.display()))?;
    }
    paths::replace(&ready, dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")
}
