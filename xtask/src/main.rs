//! `cargo xtask`: build, test and maintain port-monitor.

#![expect(clippy::print_stdout, reason = "printing is what these commands do")]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::report::Tally;

mod apt;
mod arch;
mod artifacts;
mod bench;
mod build;
mod cross;
mod ebpf;
mod fleet;
mod fuzz;
mod guest;
mod initramfs;
mod kernels;
mod login;
mod man;
mod oracle;
mod package;
mod paths;
mod pip;
mod process;
mod prometheus;
mod report;
mod roff;
mod room;
mod run;
mod rust_tests;
mod services;
mod soak;
mod stack;
mod test;
mod test_vm;
mod tidy;
mod time;
mod tools;

/// Build, test and maintain port-monitor.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build port-monitor and run it, as root where sudo allows it
    Run(run::Args),
    /// Build port-monitor for release, for hosts of this architecture or of another
    Build(build::Args),
    /// Install what the tests need, then run every check and test
    Test,
    /// Run the checks that need neither root nor guests
    Checks,
    /// Run the kernel tests in a guest of each kernel
    TestVm(test_vm::Args),
    /// Measure cost beside the peers, in one guest boot
    Bench(bench::Args),
    /// Build the eBPF objects from source and write each beside its manifest
    BuildEbpf(ebpf::Args),
    /// Have libFuzzer run the parsers of what others write
    Fuzz(fuzz::Args),
    /// Let a service run for hours with all of its consumers, and hold it to its accounts, as root
    Soak(soak::Args),
    /// Write the table of IANA services
    Services(services::Args),
    /// Write the manual pages to target/man
    Man,
    /// Make the .deb and the .rpm, in target/package
    Package(package::Args),
    /// Install, use, upgrade and remove the .deb on a real systemd, in guests
    TestPackage(package::install::Args),
    /// Send to real clusters of a fleet's database, whose servers are killed
    TestFleet(fleet::Args),
    /// Check the rules of this code base that no lint knows
    Tidy,
    /// Note the numbers and digests of the layouts that programs share
    Layouts(tidy::layout::Args),
}

fn main() -> Result<ExitCode> {
    Ok(match Cli::parse().command {
        Command::Run(args) => match run::run(&args)? {},
        Command::Build(args) => done(build::run(args)?),
        Command::Test => exit_code(test::run()?),
        Command::Checks => exit_code(test::run_checks()?),
        Command::TestVm(args) => exit_code(test_vm::run(&args)?),
        Command::Bench(args) => done(bench::run(&args)?),
        Command::BuildEbpf(args) => done(ebpf::run(&args)?),
        Command::Fuzz(args) => exit_code(fuzz::run(&args)?),
        Command::Soak(args) => done(soak::run(&args)?),
        Command::Services(args) => done(services::run(&args)?),
        Command::Man => done(man::run()?),
        Command::Package(args) => exit_code(package::run(&args)?),
        Command::TestPackage(args) => exit_code(package::install::run(&args)?),
        Command::TestFleet(args) => exit_code(fleet::run(&args)?),
        Command::Tidy => exit_code(tidy::run()?),
        Command::Layouts(args) => done(tidy::layout::write(&args)?),
    })
}

fn exit_code(tally: Tally) -> ExitCode {
    if tally.failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// A command that has no tally: it is done, or it has failed with an error.
fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The `cargo xtask` commands of a page, each as its words, without what follows a `#`.
    fn commands(text: &str) -> impl Iterator<Item = Vec<&str>> {
        text.lines().filter_map(|line| {
            let line = line.trim_start_matches("$ ");
            let rest = line.strip_prefix("cargo ")?;
            let words = rest.split_whitespace().take_while(|word| *word != "#");
            let words: Vec<_> = words.collect();
            // A synopsis has brackets.
            (words.first() == Some(&"xtask") && !rest.contains('[')).then_some(words)
        })
    }

    #[test]
    fn commands_of_the_pages_are_those_of_the_command_line() {
        let docs = fs::read_dir(paths::workspace().join("docs")).unwrap();
        let docs = docs.map(|entry| entry.unwrap().path());
        let pages = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
        let readme = paths::workspace().join("README.md");
        let mut count = 0;
        for path in pages.chain([readme]) {
            let text = fs::read_to_string(&path).unwrap();
            for words in commands(&text) {
                count += 1;
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{}: {words:?}\n{error}", path.display());
                }
            }
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn a_command_that_does_not_exist_is_found() {
        let words = commands("$ cargo xtask tydi # all\n").next().unwrap();
        assert_eq!(words, ["xtask", "tydi"]);
        assert!(Cli::try_parse_from(words).is_err());
    }
}
