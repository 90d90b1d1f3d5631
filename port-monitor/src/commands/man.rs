//! `port-monitor man`: the manual, one page for the whole program, or one for each
//! command in a directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{
    Command,
    builder::{PathBufValueParser, TypedValueParser as _},
};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    consume::{
        lines::fields::FIELDS,
        output::{args::new_path, target::print},
    },
};

/// What the foot of a page names.
const SOURCE: &str = concat!("port-monitor ", env!("CARGO_PKG_VERSION"));

/// Where the manual goes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write a page for each command into this directory, for packages
    #[arg(
        long,
        value_name = "DIR",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(new_path)
    )]
    dir: Option<PathBuf>,
}

/// Prints the page, or writes all of them.
pub fn run(args: &Args, program: Command) -> Result<ExitCode, Failure> {
    let whole = page(program.clone()).or_exit(ExitCode::OutputFailed)?;
    let Some(dir) = &args.dir else {
        return print(&whole);
    };
    write_pages(dir, &whole, program).or_exit(ExitCode::OutputFailed)?;
    Ok(ExitCode::Ok)
}

/// Writes `whole` and a page for each command below `dir`, which is made where it is missing.
fn write_pages(dir: &Path, whole: &[u8], program: Command) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    write_page(dir, "port-monitor.1", whole)?;
    let mut command = program.disable_help_subcommand(true);
    command.build();
    let commands = command.get_subcommands();
    commands
        .into_iter()
        .try_for_each(|nested| write_below(dir, nested))
}

/// Writes the page of a command, and of each of its own.
fn write_below(dir: &Path, command: &Command) -> anyhow::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let man = Man::new(command.clone()).source(SOURCE);
    let mut page = Vec::new();
    man.render(&mut page)?;
    exit_status(&mut page)?;
    let see = [roman("port-monitor(1), port-monitor-policy(5)")];
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"])
        .text(see)
        .to_writer(&mut page)?;
    write_page(dir, &man.get_filename(), &page)?;
    let mut commands = command.get_subcommands();
    commands.try_for_each(|nested| write_below(dir, nested))
}

fn write_page(dir: &Path, name: &str, page: &[u8]) -> anyhow::Result<()> {
    let path = dir.join(name);
    fs::write(&path, page).with_context(|| format!("write {}", path.display()))
}

/// The page, in roff.
fn page(command: Command) -> io::Result<Vec<u8>> {
    let mut command = command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help);
    command.build();
    let mut page = Vec::new();
    let man = Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    for subcommand in command.get_subcommands() {
        // Its options are the program's own, above.
        if subcommand.get_name() != "watch" {
            render_subcommand(&mut page, subcommand)?;
        }
    }
    let fields = FIELDS
        .iter()
        .map(|field| (field.name.to_owned(), field.help()));
    list(&mut page, "FIELDS", fields)?;
    exit_status(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

/// One `--help` in the page is enough.
fn without_help(command: Command) -> Command {
    command
        .disable_help_flag(true)
        .mut_subcommands(without_help)
}

/// A section for a subcommand and one for each of its own.
fn render_subcommand(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    Roff::new().control("SH", [name]).to_writer(page)?;
    let man = Man::new(command.clone());
    let mut sections = Vec::new();
    man.render_description_section(&mut sections)?;
    man.render_synopsis_section(&mut sections)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut sections)?;
    }
    // Below the subcommand's own heading.
    let sections = String::from_utf8_lossy(&sections).replace("\n.SH ", "\n.SS ");
    page.extend_from_slice(sections.as_bytes());
    command
        .get_subcommands()
        .try_for_each(|nested| render_subcommand(page, nested))
}

/// The section of exit codes.
fn exit_status(page: &mut Vec<u8>) -> io::Result<()> {
    let codes = ExitCode::ALL.map(|(code, meaning)| ((code as u8).to_string(), meaning.to_owned()));
    list(page, "EXIT STATUS", codes)
}

/// A section of terms and their meanings.
fn list(
    page: &mut Vec<u8>,
    title: &str,
    entries: impl IntoIterator<Item = (String, String)>,
) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, meaning) in entries {
        roff.control("TP", [])
            .text([bold(term)])
            .text([roman(meaning)]);
    }
    roff.to_writer(page)
}
