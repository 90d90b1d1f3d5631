//! The guest kernels: Debian's, unpacked into the cache, never installed.
//!
//! Debian replaces exact versions as it moves, so the newest of each series is
//! taken once, recorded, and kept until the cache is removed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;

use crate::{apt::Apt, paths, process};

/// The suites that carry the series below.
const SUITES: [&str; 7] = [
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "trixie",
    "trixie-backports",
    "forky",
];

/// Modules every guest has loaded; what they depend on comes along.
const MODULES: [&str; 3] = ["tcp_diag", "tun", "veth"];

/// The kernel of the measurements.
pub(crate) const BENCH_SERIES: Series = Series::V6_12;

/// Modules its guest needs for a packet filter, beyond those above.
const BENCH_MODULES: [&str; 2] = ["nf_tables", "nft_reject_inet"];

/// In a kernel's directory: the modules every guest loads.
const MODULES_DIR: &str = "modules";

/// In a kernel's directory: what only the measurements load, after those.
const BENCH_MODULES_DIR: &str = "modules-bench";

/// The suffix of the kernel flavour that boots fastest in a small guest.
const CLOUD: &str = "-cloud-amd64";
/// That of the flavour in which interrupts are threads and spinlocks sleep.
const REAL_TIME: &str = "-rt-amd64";
/// That of the flavour for any machine.
const GENERIC: &str = "-amd64";

/// A kernel the tests run on: a series in one of Debian's flavours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// The oldest supported: the first with the ring buffer in a Debian release.
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13.
    #[value(name = "6.12")]
    V6_12,
    /// Debian testing's.
    #[value(name = "7.2")]
    V7_2,
    /// The newest that Debian has, for its stable release.
    #[value(name = "7.3")]
    V7_3,
    /// Debian 13's for any machine.
    #[value(name = "6.12-generic")]
    Generic6_12,
    /// Debian 11's with `PREEMPT_RT`.
    #[value(name = "5.10-rt")]
    Rt5_10,
    /// Debian 12's with `PREEMPT_RT`.
    #[value(name = "6.1-rt")]
    Rt6_1,
    /// Debian 13's with `PREEMPT_RT`.
    #[value(name = "6.12-rt")]
    Rt6_12,
    /// Debian testing's with `PREEMPT_RT`.
    #[value(name = "7.2-rt")]
    Rt7_2,
}

impl Series {
    /// Those that every case runs on, oldest first.
    pub(crate) const MATRIX: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7_2];

    /// As it is written: `5.10`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
            Self::V7_3 => "7.3",
            Self::Generic6_12 => "6.12-generic",
            Self::Rt5_10 => "5.10-rt",
            Self::Rt6_1 => "6.1-rt",
            Self::Rt6_12 => "6.12-rt",
            Self::Rt7_2 => "7.2-rt",
        }
    }

    /// What its releases begin with.
    fn version(self) -> &'static str {
        let (version, _) = self.name().split_once('-').unwrap_or((self.name(), ""));
        version
    }

    /// What the names of its packages end with.
    fn flavour(self) -> &'static str {
        match self {
            Self::V5_10 | Self::V6_1 | Self::V6_12 | Self::V7_2 | Self::V7_3 => CLOUD,
            Self::Generic6_12 => GENERIC,
            Self::Rt5_10 | Self::Rt6_1 | Self::Rt6_12 | Self::Rt7_2 => REAL_TIME,
        }
    }

    /// What the names of its packages start with: image first, then, where they
    /// are apart from it, the modules.
    fn package_stems(self) -> &'static [&'static str] {
        match self {
            Self::V7_2 | Self::V7_3 | Self::Rt7_2 => &["linux-binary-", "linux-modules-"],
            _ => &["linux-image-"],
        }
    }
}

/// A kernel in the cache.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its series.
    pub(crate) series: Series,
    /// The exact release, as `uname -r` says it.
    pub(crate) release: String,
    dir: PathBuf,
}

impl Kernel {
    /// The bootable image.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The modules to load, uncompressed, in the order to load them.
    pub(crate) fn modules(&self) -> Result<Vec<PathBuf>> {
        self.modules_in(MODULES_DIR)
    }

    /// The modules to load after them where a packet filter is measured.
    pub(crate) fn bench_modules(&self) -> Result<Vec<PathBuf>> {
        self.modules_in(BENCH_MODULES_DIR)
    }

    fn modules_in(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut modules = Vec::new();
        let dir = self.dir.join(name);
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            modules.push(entry?.path());
        }
        modules.sort();
        Ok(modules)
    }

    /// The kernel in the cache, if it has all modules that guests load.
    fn cached(series: Series) -> Result<Option<Self>> {
        let dir = paths::cache_dir("kernels")?.join(series.name());
        let Ok(release) = fs::read_to_string(dir.join("release")) else {
            return Ok(None);
        };
        let kernel = Self {
            series,
            release,
            dir,
        };
        let has = |files: &[PathBuf], name: &str| {
            let end = format!("-{name}.ko");
            files.iter().any(|file| file_name(file).ends_with(&end))
        };
        let files = kernel.modules().unwrap_or_default();
        let is_whole = MODULES.iter().all(|name| has(&files, name));
        Ok(is_whole.then_some(kernel))
    }
}

/// The kernels of `wanted`, fetched where the cache has none.
pub(crate) fn fetch(wanted: impl IntoIterator<Item = Series>) -> Result<Vec<Kernel>> {
    let mut apt = None;
    let mut kernels = Vec::new();
    for series in wanted {
        let kernel = if let Some(kernel) = Kernel::cached(series)? {
            kernel
        } else {
            let apt = match &mut apt {
                Some(apt) => apt,
                none => none.insert(Apt::with_suites("kernels", &SUITES)?),
            };
            download(apt, series)?
        };
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// The kernel of the measurements; one in the cache without their modules is
/// fetched anew.
pub(crate) fn fetch_for_bench() -> Result<Kernel> {
    let cached = Kernel::cached(BENCH_SERIES)?;
    if let Some(kernel) = cached.filter(|kernel| kernel.dir.join(BENCH_MODULES_DIR).exists()) {
        return Ok(kernel);
    }
    download(&Apt::with_suites("kernels", &SUITES)?, BENCH_SERIES)
}

/// Fills the series' directory in the cache, in one rename at the end.
fn download(apt: &Apt, series: Series) -> Result<Kernel> {
    let staging = paths::cache_dir("kernels/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let unpacked = staging.join("unpacked");
    let ready = staging.join("ready");
    fs::create_dir_all(&unpacked).context("create the staging directory")?;
    fs::create_dir_all(&ready).context("create the staging directory")?;

    let release = unpack_newest(apt, series, &staging, &unpacked)?;
    let files = files_below(&unpacked)?;
    let image = files
        .iter()
        .find(|file| file_name(file).starts_with("vmlinuz"))
        .with_context(|| format!("find the image in the packages of {release}"))?;
    fs::rename(image, ready.join("vmlinuz")).context("keep the kernel image")?;
    keep_modules(&ModuleFiles::among(&files), series, &ready)?;
    fs::write(ready.join("release"), &release).context("record the kernel release")?;

    let dir = paths::cache_dir("kernels")?.join(series.name());
    paths::replace(&ready, &dir)?;
    fs::remove_dir_all(&staging).context("remove the staging directory")?;
    Ok(Kernel {
        series,
        release,
        dir,
    })
}

/// Writes the modules that guests of `series` load into `dir`.
fn keep_modules(files: &ModuleFiles, series: Series, dir: &Path) -> Result<()> {
    let mut order = Vec::new();
    append_all(&MODULES, files, &mut order)?;
    write_modules(&order, &dir.join(MODULES_DIR))?;
    if series == BENCH_SERIES {
        let every_guests = order.len();
        append_all(&BENCH_MODULES, files, &mut order)?;
        write_modules(&order.split_off(every_guests), &dir.join(BENCH_MODULES_DIR))?;
    }
    Ok(())
}

/// Writes `modules` into `dir`, under names that keep their order.
fn write_modules(modules: &[(String, Vec<u8>)], dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for (index, (name, content)) in modules.iter().enumerate() {
        let file = dir.join(format!("{index:02}-{name}.ko"));
        fs::write(file, content).context("keep the kernel modules")?;
    }
    Ok(())
}

/// Unpacks the packages of the highest release of `series` that the archive still has,
/// and returns it: lists name some for longer.
fn unpack_newest(apt: &Apt, series: Series, staging: &Path, unpacked: &Path) -> Result<String> {
    let mut last = None;
    for release in releases(apt, series)? {
        let mut stems = series.package_stems().iter();
        match stems.try_for_each(|stem| apt.unpack(&format!("{stem}{release}"), staging, unpacked))
        {
            Ok(()) => return Ok(release),
            Err(error) => last = Some(error),
        }
    }
    let lacks = || format!("find kernel {} in {}", series.name(), SUITES.join(", "));
    Err(last
        .unwrap_or_else(|| anyhow!("no package"))
        .context(lacks()))
}

/// The releases of `series` that the lists have, the highest first.
fn releases(apt: &Apt, series: Series) -> Result<Vec<String>> {
    let [stem, ..] = series.package_stems() else {
        bail!("name the packages of kernel {}", series.name());
    };
    // After the series comes a dot and a digit: the rest is a release, not a
    // package that only depends on the current one.
    let pattern = format!(
        "^{stem}{}\\.[0-9][^-]*(-[0-9]+)?{}$",
        series.version().replace('.', "\\."),
        series.flavour()
    );
    let names = apt.package_names(&pattern)?;
    let mut releases: Vec<String> = names
        .iter()
        .filter_map(|name| name.strip_prefix(stem))
        .map(str::to_owned)
        .collect();
    releases.sort_by_key(|release| numbers(release));
    releases.reverse();
    Ok(releases)
}

/// The numbers in `release`, which order releases of one series.
fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Where each module's file is, by the module's name.
struct ModuleFiles(BTreeMap<String, PathBuf>);

impl ModuleFiles {
    fn among(files: &[PathBuf]) -> Self {
        let modules = files.iter().filter_map(|file| {
            let (stem, _) = file_name(file).split_once(".ko")?;
            Some((stem.replace('-', "_"), file.clone()))
        });
        Self(modules.collect())
    }

    /// The uncompressed content of a module.
    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let file = self
            .0
            .get(name)
            .with_context(|| format!("find the kernel module {name} in its package"))?;
        if file.extension().is_some_and(|extension| extension == "xz") {
            process::run(Command::new("xz").arg("--decompress").arg(file))?;
            let file = file.with_extension("");
            return fs::read(&file).with_context(|| format!("read {}", file.display()));
        }
        fs::read(file).with_context(|| format!("read {}", file.display()))
    }
}

/// Appends `wanted` and everything they depend on that `order` lacks, each after its
/// dependencies.
fn append_all(
    wanted: &[&str],
    files: &ModuleFiles,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    for name in wanted {
        append_with_dependencies(name, files, order)?;
    }
    Ok(())
}

fn append_with_dependencies(
    name: &str,
    files: &ModuleFiles,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if order.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let content = files.read(name)?;
    for dependency in dependencies(&content) {
        append_with_dependencies(&dependency, files, order)?;
    }
    order.push((name.to_owned(), content));
    Ok(())
}

/// The names after `depends=` in a module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    module
        .split(|&byte| byte == 0)
        .find_map(|field| field.strip_prefix(b"depends="))
        .map(|list| String::from_utf8_lossy(list).into_owned())
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let newest = ["6.12.95+deb12", "6.12.107+deb13", "6.12.90+deb12.1"]
            .into_iter()
            .max_by_key(|release| numbers(release));
        assert_eq!(newest, Some("6.12.107+deb13"));
        assert!(numbers("5.10.0-9") < numbers("5.10.0-46"));
    }

    #[test]
    fn a_module_is_loaded_after_what_it_depends_on_and_once() {
        let dir = std::env::temp_dir().join(format!("load-order-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let module = |name: &str, depends: &str| {
            let path = dir.join(name);
            fs::write(&path, format!("ELF\0license=GPL\0depends={depends}\0")).unwrap();
            path
        };
        let files = ModuleFiles::among(&[
            module("tcp_diag.ko", "inet-diag"),
            module("udp_diag.ko", "inet-diag"),
            module("inet-diag.ko", ""),
        ]);
        let mut order = Vec::new();
        append_all(&["tcp_diag"], &files, &mut order).unwrap();
        append_all(&["udp_diag"], &files, &mut order).unwrap();
        let missing = append_all(&["veth"], &files, &mut order);
        fs::remove_dir_all(&dir).unwrap();

        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["inet_diag", "tcp_diag", "udp_diag"]);
        assert!(missing.unwrap_err().to_string().contains("veth"));
    }
}
