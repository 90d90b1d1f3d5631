//! What is promised of packages and units, held to the programs that judge them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{Packages, Programs, VERSION, alone, tarball};
use crate::{
    arch::Arch,
    paths, process,
    report::{self, Tally},
    tools,
};

/// How exposed a unit may be, in tenths, as `systemd-analyze security` counts it.
const EXPOSURE_MAX: [(&str, u32); 2] = [(WATCHING, 16), ("port-monitor-apply.service", 21)];

/// The unit that watches, and how exposed it may be with the drop-in that lets it enforce.
const WATCHING: &str = "port-monitor.service";
const ENFORCING_EXPOSURE_MAX: u32 = 24;

/// What only one kind of package has: beginnings of paths.
const OF_DEB: [&str; 4] = [
    "/usr/share/doc/port-monitor/changelog.Debian.gz",
    "/usr/share/doc/port-monitor/copyright",
    "/usr/share/lintian/",
    "/usr/share/zsh/vendor-completions/",
];
const OF_RPM: [&str; 2] = ["/usr/share/licenses/", "/usr/share/zsh/site-functions/"];

/// Of each library that the program is linked with, the newest version it asks for, as
/// `packaging/nfpm.yaml` says it of the .deb, if it does, and of the .rpm.
const LIBRARIES: [(&str, &str, Option<&str>); 3] = [
    ("libc.so.6", "GLIBC_2.34", Some("libc6 (>= 2.34)")),
    ("libm.so.6", "GLIBC_2.29", None),
    ("libgcc_s.so.1", "GCC_4.2.0", Some("libgcc-s1 (>= 4.2)")),
];

struct Check {
    name: &'static str,
    /// Whether it runs what is packaged, which takes a host of that architecture.
    runs: bool,
    run: fn(&Subject<'_>) -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "packages that are made again are the same",
        runs: false,
        run: are_reproducible,
    },
    Check {
        name: "the tarball's program is linked with nothing",
        runs: false,
        run: |it| alone::is_linked_with_nothing(it.programs.arch, &it.whole),
    },
    Check {
        name: "the tarball's program loads nothing",
        runs: true,
        run: |it| alone::loads_nothing(&it.whole),
    },
    Check {
        name: "the tarball's program runs in an empty root",
        runs: true,
        run: |it| alone::runs_in_an_empty_root(&it.whole),
    },
    Check {
        name: "both kinds hold the same files",
        runs: false,
        run: hold_the_same_files,
    },
    Check {
        name: "dependencies are what the program is linked with",
        runs: false,
        run: name_every_library,
    },
    Check {
        name: "lintian has nothing to say",
        runs: false,
        run: |it| {
            let mut lintian = Command::new("lintian");
            lintian.args(["--no-cfg", "--allow-root", "--fail-on=error,warning"]);
            process::run(lintian.arg(&it.packages.deb))
        },
    },
    Check {
        name: "rpm and rpmlint have nothing to say",
        runs: false,
        run: is_a_good_rpm,
    },
    Check {
        name: "units are no more exposed than they need be",
        runs: false,
        run: are_confined,
    },
    Check {
        name: "units are well-formed, and their pages exist",
        runs: false,
        run: are_well_formed,
    },
];

/// What is checked.
struct Subject<'a> {
    programs: &'a Programs,
    /// The program of the tarball.
    whole: PathBuf,
    /// Where packages are made.
    dir: PathBuf,
    packages: Packages,
}

/// Makes packages of `programs` and checks them; tells each failure by `on_failure`.
pub(crate) fn run(programs: &Programs, mut on_failure: impl FnMut(String)) -> Result<Tally> {
    tools::ensure(&tools::PACKAGE_PACKAGES)?;
    let dir = paths::workspace()
        .join("target/package-check")
        .join(programs.arch.name());
    let packages = Packages::make(programs, &dir.join("first"), VERSION)?;
    let tarball = packages.tarball.as_ref();
    let tarball = tarball.context("name a program without shared libraries by --static-binary")?;
    let stem = tarball::stem(programs.arch, VERSION);
    let subject = Subject {
        programs,
        whole: alone::unpack(tarball, &stem, &dir.join("alone"))?,
        packages,
        dir,
    };
    let mut total = Tally::default();
    for check in CHECKS {
        if check.runs && programs.arch != Arch::HOST {
            println!(
                "package: {} ... only on {}",
                check.name,
                programs.arch.name()
            );
            continue;
        }
        let result = (check.run)(&subject);
        if let Err(error) = &result {
            println!("{error:#}");
            on_failure(report::failed(&format!("package: {}", check.name)));
        }
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("package: {} ... {verdict}", check.name);
        total += Tally::one(result.is_ok());
    }
    Ok(total)
}

fn are_reproducible(it: &Subject<'_>) -> Result<()> {
    let again = Packages::make(it.programs, &it.dir.join("second"), VERSION)?;
    let pairs = [
        (&it.packages.deb, &again.deb),
        (&it.packages.rpm, &again.rpm),
    ];
    let tarballs = it.packages.tarball.iter().zip(&again.tarball);
    for (first, second) in pairs.into_iter().chain(tarballs) {
        let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
        ensure!(
            read(first)? == read(second)?,
            "{} and {} differ",
            first.display(),
            second.display()
        );
    }
    Ok(())
}

fn hold_the_same_files(it: &Subject<'_>) -> Result<()> {
    let of_deb = process::output(
        Command::new("dpkg-deb")
            .arg("--contents")
            .arg(&it.packages.deb),
    )?;
    let of_deb = of_deb.lines().filter_map(|line| line.split(" ./").nth(1));
    let of_deb = of_deb.filter(|path| !path.ends_with('/'));
    let of_deb: BTreeSet<String> = of_deb.map(|path| format!("/{path}")).collect();
    let mut query = Command::new("rpm");
    query.args(["--query", "--list", "--package"]);
    let of_rpm = process::output(query.arg(&it.packages.rpm))?;
    let of_rpm: BTreeSet<String> = of_rpm.lines().map(str::to_owned).collect();
    let alone = |path: &&String, known: &[&str]| !known.iter().any(|it| path.starts_with(it));
    let only_deb = of_deb.difference(&of_rpm);
    let only_rpm = of_rpm.difference(&of_deb);
    let odd: Vec<_> = only_deb
        .filter(|path| alone(path, &OF_DEB))
        .chain(only_rpm.filter(|path| alone(path, &OF_RPM)))
        .collect();
    ensure!(odd.is_empty(), "only in one of them: {odd:?}");
    Ok(())
}

fn name_every_library(it: &Subject<'_>) -> Result<()> {
    let headers = process::output(
        Command::new(format!("{}-objdump", it.programs.arch.gnu()))
            .arg("--private-headers")
            .arg(&it.programs.dynamic),
    )?;
    let needed = needed(&headers, it.programs.arch);
    let known: BTreeSet<_> = LIBRARIES.iter().map(|(library, ..)| *library).collect();
    ensure!(
        needed == known,
        "linked with {needed:?}, known are {known:?}"
    );
    let path = paths::workspace().join("packaging/nfpm.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    for (library, version, of_deb) in LIBRARIES {
        let newest = newest_version(&headers, library);
        ensure!(
            newest == Some(version),
            "{library}: the program asks for {newest:?}, known is {version}"
        );
        let of_rpm = format!("{library}({version})(64bit)");
        for dependency in of_deb.into_iter().chain([&*of_rpm]) {
            ensure!(
                text.contains(&format!("- {dependency}\n")),
                "{} lacks {dependency}",
                path.display()
            );
        }
    }
    Ok(())
}

/// The libraries that a program for `arch` is linked with, but for the loader, which comes with
/// the C library.
fn needed(headers: &str, arch: Arch) -> BTreeSet<&str> {
    let libraries = headers.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("NEEDED")?.trim();
        (name != arch.loader()).then_some(name)
    });
    libraries.collect()
}

/// The newest version that a program asks for, of those listed under `required from LIBRARY:`.
fn newest_version<'a>(headers: &'a str, library: &str) -> Option<&'a str> {
    let title = format!("required from {library}:");
    let below = headers.lines().skip_while(|line| line.trim() != title);
    let versions = below
        .skip(1)
        .map_while(|line| line.split_whitespace().nth(3));
    versions
        .filter(|version| version.contains('_'))
        .max_by_key(|version| numbers(version))
}

/// The numbers of a version: 2 and 34 of `GLIBC_2.34`.
fn numbers(version: &str) -> Vec<u32> {
    let (_, numbers) = version.split_once('_').unwrap_or_default();
    numbers.split('.').map_while(|it| it.parse().ok()).collect()
}

fn is_a_good_rpm(it: &Subject<'_>) -> Result<()> {
    process::run(Command::new("rpm").arg("--checksig").arg(&it.packages.rpm))?;
    let config = paths::workspace().join("packaging/rpmlint.toml");
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.arg("--config").arg(config).arg(&it.packages.rpm);
    let said = process::output(&mut rpmlint)?;
    ensure!(said.contains(" 0 errors, 0 warnings"), "{said}");
    Ok(())
}

fn are_confined(it: &Subject<'_>) -> Result<()> {
    let units = EXPOSURE_MAX.map(|(unit, most)| (unit_file(unit), most));
    let enforcing = (with_drop_in(it)?, ENFORCING_EXPOSURE_MAX);
    for (path, most) in units.into_iter().chain([enforcing]) {
        let mut security = Command::new("systemd-analyze");
        security
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(format!("--threshold={most}"))
            .arg(path);
        process::output(&mut security)?;
    }
    Ok(())
}

/// The unit that watches, with the drop-in that lets it enforce.
fn with_drop_in(it: &Subject<'_>) -> Result<PathBuf> {
    let dir = it.dir.join("enforcing");
    let drop_ins = dir.join(format!("{WATCHING}.d"));
    fs::create_dir_all(&drop_ins).with_context(|| format!("create {}", drop_ins.display()))?;
    let unit = dir.join(WATCHING);
    for (from, to) in [
        (WATCHING, unit.clone()),
        ("port-monitor-enforce.conf", drop_ins.join("enforce.conf")),
    ] {
        fs::copy(unit_file(from), &to).with_context(|| format!("copy {from}"))?;
    }
    Ok(unit)
}

fn are_well_formed(it: &Subject<'_>) -> Result<()> {
    let dir = it.dir.join("units");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for (unit, _) in EXPOSURE_MAX {
        let path = unit_file(unit);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for page in text
            .split_whitespace()
            .filter_map(|word| word.split_once("man:"))
        {
            let (name, section) = page.1.split_once('(').context("read the name of a page")?;
            let section = section.trim_end_matches(')');
            let page = it.dir.join(format!("first/made/man/{name}.{section}.gz"));
            ensure!(page.exists(), "{unit}: {} does not exist", page.display());
        }
        // The program is not where it will be.
        let program = it
            .programs
            .native
            .canonicalize()
            .context("find the program")?;
        let text = text.replace("/usr/bin/port-monitor", &program.to_string_lossy());
        let unit = dir.join(unit);
        super::write(&unit, &text)?;
        let mut verify = Command::new("systemd-analyze");
        verify.args(["verify", "--man=no"]).arg(&unit);
        let output = verify.output().context("start systemd-analyze")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success() && said.is_empty(), "{said}");
    }
    Ok(())
}

fn unit_file(name: &str) -> PathBuf {
    paths::workspace().join("packaging").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &str = "Dynamic Section:
  NEEDED               libc.so.6
  NEEDED               ld-linux-x86-64.so.2
  INIT                 0x0000000000001000

Version References:
  required from libm.so.6:
    0x06969189 0x00 08 GLIBC_2.29
  required from libc.so.6:
    0x09691a75 0x00 03 GLIBC_2.2.5
    0x069691b4 0x00 02 GLIBC_2.34
    0x0d696917 0x00 15 GLIBC_2.7

";

    #[test]
    fn newest_version_of_each_library_is_found_by_its_numbers() {
        assert_eq!(newest_version(HEADERS, "libc.so.6"), Some("GLIBC_2.34"));
        assert_eq!(newest_version(HEADERS, "libm.so.6"), Some("GLIBC_2.29"));
        assert_eq!(newest_version(HEADERS, "libz.so.1"), None);
    }

    #[test]
    fn loader_is_no_library_to_depend_on() {
        assert_eq!(needed(HEADERS, Arch::X86_64), BTreeSet::from(["libc.so.6"]));
    }
}
