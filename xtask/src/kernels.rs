//! The guest kernels: Debian's cloud kernels, unpacked into the cache, never
//! installed.
//!
//! Debian replaces exact versions as it moves, so the newest of each series is
//! taken once, recorded, and kept until the cache is removed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{apt::Apt, paths, process};

/// The suites that carry the series below.
const SUITES: [&str; 5] = [
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "trixie",
    "forky",
];

/// Modules every guest has loaded; what they depend on comes along.
const MODULES: [&str; 2] = ["tcp_diag", "veth"];

/// The suffix of the kernel flavour that boots fastest in a small guest.
const FLAVOUR: &str = "-cloud-amd64";

/// A kernel series the tests run on.
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
    /// The newest that Debian has.
    #[value(name = "7.2")]
    V7_2,
}

impl Series {
    /// All of them, oldest first.
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7_2];

    /// As it is written: `5.10`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7_2 => "7.2",
        }
    }

    /// What the names of its packages start with: image first, then, where they
    /// are apart from it, the modules.
    fn package_stems(self) -> &'static [&'static str] {
        match self {
            Self::V5_10 | Self::V6_1 | Self::V6_12 => &["linux-image-"],
            Self::V7_2 => &["linux-binary-", "linux-modules-"],
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
        let mut modules = Vec::new();
        let dir = self.dir.join("modules");
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            modules.push(entry?.path());
        }
        modules.sort();
        Ok(modules)
    }

    fn cached(series: Series) -> Result<Option<Self>> {
        let dir = paths::cache_dir("kernels")?.join(series.name());
        Ok(fs::read_to_string(dir.join("release"))
            .ok()
            .map(|release| Self {
                series,
                release,
                dir,
            }))
    }
}

/// The kernels of `wanted`, fetched where the cache has none.
pub(crate) fn fetch(wanted: &[Series]) -> Result<Vec<Kernel>> {
    let mut apt = None;
    let mut kernels = Vec::new();
    for &series in wanted {
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

/// Fills the series' directory in the cache, in one rename at the end.
fn download(apt: &Apt, series: Series) -> Result<Kernel> {
    let staging = paths::cache_dir("kernels/staging")?;
    fs::remove_dir_all(&staging).context("empty the staging directory")?;
    let unpacked = staging.join("unpacked");
    let ready = staging.join("ready");
    fs::create_dir_all(&unpacked).context("create the staging directory")?;
    fs::create_dir_all(ready.join("modules")).context("create the staging directory")?;

    let release = newest_release(apt, series)?;
    for stem in series.package_stems() {
        apt.unpack(&format!("{stem}{release}"), &staging, &unpacked)?;
    }
    let files = files_below(&unpacked)?;
    let image = files
        .iter()
        .find(|file| file_name(file).starts_with("vmlinuz"))
        .with_context(|| format!("find the image in the packages of {release}"))?;
    fs::rename(image, ready.join("vmlinuz")).context("keep the kernel image")?;
    let modules = load_order(&MODULES, &ModuleFiles::among(&files))?;
    for (index, (name, content)) in modules.iter().enumerate() {
        let file = ready.join(format!("modules/{index:02}-{name}.ko"));
        fs::write(file, content).context("keep the kernel modules")?;
    }
    fs::write(ready.join("release"), &release).context("record the kernel release")?;

    let dir = paths::cache_dir("kernels")?.join(series.name());
    fs::rename(&ready, &dir).with_context(|| format!("fill {}", dir.display()))?;
    fs::remove_dir_all(&staging).context("remove the staging directory")?;
    Ok(Kernel {
        series,
        release,
        dir,
    })
}

/// The highest release of `series` that the lists have.
fn newest_release(apt: &Apt, series: Series) -> Result<String> {
    let [stem, ..] = series.package_stems() else {
        bail!("name the packages of kernel {}", series.name());
    };
    // After the series comes a dot and a digit: the rest is a release, not a
    // package that only depends on the current one.
    let pattern = format!(
        "^{stem}{}\\.[0-9][^-]*(-[0-9]+)?{FLAVOUR}$",
        series.name().replace('.', "\\.")
    );
    apt.package_names(&pattern)?
        .iter()
        .filter_map(|name| name.strip_prefix(stem))
        .max_by_key(|release| numbers(release))
        .map(str::to_owned)
        .with_context(|| format!("find kernel {} in {}", series.name(), SUITES.join(", ")))
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

/// `wanted` and everything they depend on, each after its dependencies.
fn load_order(wanted: &[&str], files: &ModuleFiles) -> Result<Vec<(String, Vec<u8>)>> {
    let mut order = Vec::new();
    for name in wanted {
        append_with_dependencies(name, files, &mut order)?;
    }
    Ok(order)
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
        let order = load_order(&["tcp_diag", "udp_diag"], &files).unwrap();
        let missing = load_order(&["veth"], &files);
        fs::remove_dir_all(&dir).unwrap();

        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["inet_diag", "tcp_diag", "udp_diag"]);
        assert!(missing.unwrap_err().to_string().contains("veth"));
    }
}
