//! The flags that say where the events go and how they look, and the opening of
//! what they say.

use std::path::{Path, PathBuf};

use clap::{
    ValueEnum,
    builder::{PathBufValueParser, TypedValueParser as _},
};

use super::{
    file::Limits,
    target::{Target, Terminal},
    writer::Output,
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure, OrExit as _},
        zone,
    },
    consume::{
        Shown, Sink, SinkKind,
        lines::{
            color::ColorWhen,
            fields::{self, Field},
            json::Json,
            table::{Options, Table},
        },
        listeners::{ListenerSink, Listing},
    },
};

/// When rows that repeat become one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AggregateWhen {
    /// On a terminal, in a second of more rows than a person reads
    #[default]
    Auto,
    /// In any output, in such a second
    Always,
    /// Never: a row for every event
    Never,
}

/// The flags of every command that writes a stream of events.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Output")]
pub struct Args {
    /// Where to, and in what form.
    #[command(flatten)]
    pub destination: Destination,
    /// Columns of the table, in this order (JSON lines always carry all)
    #[arg(
        long,
        value_name = "FIELD,…",
        value_delimiter = ',',
        value_parser = fields::parser()
    )]
    pub fields: Vec<&'static Field>,
    /// When to count identical rows of a second instead of showing each
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub aggregate: AggregateWhen,
}

/// The flags of every command that writes a table or JSON lines.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = "Output")]
pub struct Destination {
    /// What to write
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: SinkKind,
    /// When to colour the table
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorWhen,
    /// Append to FILE instead of writing to standard output (`-`); SIGHUP opens it again
    ///
    /// So logrotate can move it away and send SIGHUP, or empty it (copytruncate).
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(new_path)
    )]
    output_file: Option<PathBuf>,
    /// Put the output file aside before it is larger than this (64K, 100M, 2G): the latest
    /// is FILE.1.gz
    #[arg(long, value_name = "BYTES", value_parser = parse_size, requires = "output_file")]
    pub rotate_size: Option<u64>,
    /// How many old output files to keep
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = parse_keep,
        requires = "rotate_size"
    )]
    pub rotate_keep: u32,
    /// Begin the table with a list of what cannot be seen, instead of a count
    #[arg(long)]
    pub verbose: bool,
}

/// The path of what will be made. It does not begin as an option does: a path that was
/// forgotten must not make the option behind it one.
pub fn new_path(path: PathBuf) -> Result<PathBuf, &'static str> {
    if path.as_os_str().as_encoded_bytes().starts_with(b"--") {
        return Err("an option, not a path: the path is missing, or begins with `./`");
    }
    Ok(path)
}

impl Destination {
    /// The file to write to; `None` for the standard output.
    pub fn output_file(&self) -> Option<&Path> {
        let file = self.output_file.as_deref();
        file.filter(|path| *path != Path::new("-"))
    }
}

impl Args {
    /// The output tells who is at the other end.
    pub fn names_peers(&self) -> bool {
        match self.destination.output {
            SinkKind::Json => true,
            SinkKind::Table => self.fields.iter().any(|field| field.name == "peer"),
        }
    }

    /// Opens the destination and starts writing to it. An option that would be without effect
    /// beside another one is refused.
    ///
    /// To be called before anything is attached: a file that cannot be written
    /// must not cost a connection its events.
    pub fn open(&self) -> Result<Shown, Failure> {
        if self.destination.output == SinkKind::Json && !self.fields.is_empty() {
            return Err(Failure::usage(
                "--fields chooses columns of the table: drop it, or -o json, whose lines carry all",
            ));
        }
        if self.destination.output == SinkKind::Json && self.aggregate == AggregateWhen::Always {
            return Err(Failure::usage(
                "--aggregate always counts rows of the table: drop it, or -o json, which has a \
                 line for every event",
            ));
        }
        self.destination.open(|form| match form {
            Form::Json => Box::new(Json::new()),
            Form::Table { width, color } => Box::new(Table::new(Options {
                width,
                color,
                verbose: self.destination.verbose,
                aggregate: match self.aggregate {
                    AggregateWhen::Auto => width.is_some(),
                    AggregateWhen::Always => true,
                    AggregateWhen::Never => false,
                },
                fields: self.fields.clone(),
                zone: zone::local(),
            })),
        })
    }
}

/// What an opened destination takes.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    Table { width: Option<usize>, color: bool },
}

impl Destination {
    /// Opens it, as [`Args::open`] does, for the table of listeners.
    pub fn open_listeners(&self, listing: Listing) -> Result<Shown, Failure> {
        self.open(|form| match form {
            Form::Json => Box::new(ListenerSink::json(listing)),
            Form::Table { width, color } => {
                Box::new(ListenerSink::table(listing, width, color, self.verbose))
            }
        })
    }

    fn open(&self, sink: impl FnOnce(Form) -> Box<dyn Sink>) -> Result<Shown, Failure> {
        self.without_effect()
            .map_or(Ok(()), |mistake| Err(Failure::usage(mistake)))?;
        let target = match self.output_file() {
            Some(path) => Target::file(path, self.limits()),
            None => Target::stdout(),
        }
        .or_exit(ExitCode::OutputFailed)?;
        let width = target.terminal().as_ref().map(Terminal::width);
        let form = match self.output {
            SinkKind::Json => Form::Json,
            SinkKind::Table => Form::Table {
                width,
                color: self
                    .color
                    .enabled(width.is_some(), |name| std::env::var_os(name)),
            },
        };
        let output = Output::to(target).or_exit(ExitCode::OutputFailed)?;
        Ok(Shown::new(sink(form), output))
    }

    /// What says that an option would be without effect beside another one, if one would.
    fn without_effect(&self) -> Option<&'static str> {
        let is_json = self.output == SinkKind::Json;
        if is_json && self.color == ColorWhen::Always {
            Some(
                "--color always colours the table: drop it, or -o json, whose lines have no colours",
            )
        } else if is_json && self.verbose {
            Some(
                "--verbose is about the beginning of the table: drop it, or -o json, whose first \
                 line always lists what cannot be seen",
            )
        } else if self.rotate_size.is_some() && self.output_file().is_none() {
            Some("--rotate-size needs a file: `--output-file -` is the standard output")
        } else {
            None
        }
    }

    /// What SIGHUP asks for.
    pub fn on_hangup(&self) -> OnHangup {
        match self.output_file() {
            Some(_) => OnHangup::Reopen,
            None => OnHangup::Stop,
        }
    }

    fn limits(&self) -> Option<Limits> {
        let keep = self.rotate_keep;
        self.rotate_size.map(|size| Limits { size, keep })
    }
}

/// What SIGHUP asks a run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHangup {
    /// The terminal is gone: the run ends in good order.
    Stop,
    /// The output file was moved away: it is opened again.
    Reopen,
    /// The configuration was changed: it is read again.
    Reload,
}

/// How many old files may be kept.
pub(in crate::consume) fn parse_keep(text: &str) -> Result<u32, &'static str> {
    let count = text.parse().ok();
    let count = count.filter(|count| (1..=1_000).contains(count));
    count.ok_or("not a number of files: write 1 to 1000")
}

/// A number of bytes with an optional K, M or G (KiB, MiB, GiB).
pub(in crate::consume) fn parse_size(text: &str) -> Result<u64, &'static str> {
    const HELP: &str = "not a size: write 65536, 64K, 100M or 2G";
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err(HELP),
    };
    let count: u64 = digits.parse().map_err(|_| HELP)?;
    match count.checked_mul(factor) {
        Some(size @ 4_096..) => Ok(size),
        Some(_) => Err("too small: write 4K or more"),
        None => Err(HELP),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::consume::output::args::*;
    use crate::{
        consume::{
            consumer::Consumer as _,
            lines::sample::{connected, header},
        },
        events::record::Item,
    };

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<Args, String> {
        Program::try_parse_from([&["program"], flags].concat())
            .map(|program| program.args)
            .map_err(|error| error.to_string())
    }

    /// What the sink that `flags` choose writes to a file.
    fn written(flags: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let file = ["--output-file", path.to_str().unwrap()];
        let mut shown = parse(&[flags, &file].concat()).unwrap().open().unwrap();
        shown.take(Item::Header(&header()));
        shown.take(Item::Event(&connected()));
        let account = shown.account();
        assert_eq!((account.taken, account.adds_up()), (1, true));
        shown.finish().unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn fields_choose_the_columns_and_their_order() {
        let text = written(&["--fields", "service,pid"]);
        let last_two: Vec<_> = text.lines().rev().take(2).collect();
        assert_eq!(last_two, ["  https        1469", "  SERVICE      PID"]);
    }

    #[test]
    fn a_file_gets_plain_text_unless_colour_is_asked_for() {
        assert!(!written(&[]).contains('\x1b'));
        assert!(written(&["--color", "always"]).contains('\x1b'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = written(&["-o", "json"]);
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_and_the_list() {
        let error = parse(&["--fields", "pid,proces"]).unwrap_err();
        assert!(error.contains("'proces'"), "{error}");
        assert!(error.contains("'process'"), "{error}");
        assert!(error.contains("remote_port"), "{error}");
    }

    #[test]
    fn fields_do_not_go_with_json() {
        let args = parse(&["-o", "json", "--fields", "pid"]).unwrap();
        let failure = args.open().err().unwrap();
        assert_eq!(failure.code, ExitCode::Usage);
    }

    #[test]
    fn json_lines_are_never_aggregated() {
        let args = parse(&["-o", "json", "--aggregate", "always"]).unwrap();
        let failure = args.open().err().unwrap();
        assert_eq!(failure.code, ExitCode::Usage);
        for when in ["auto", "never"] {
            let text = written(&["-o", "json", "--aggregate", when]);
            assert_eq!(text.lines().count(), 2);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [
            ("65536", 65_536),
            ("64K", 65_536),
            ("100MiB", 100 << 20),
            ("2gb", 2 << 30),
        ] {
            assert_eq!(parse_size(text), Ok(size));
        }
        for wrong in ["", "K", "1T", "-4096", "4095", "1.5M", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse(&["--rotate-size", "1M"]).is_err());
        assert!(parse(&["--output-file", "x", "--rotate-keep", "2"]).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_output_failure_naming_it() {
        let args = parse(&["--output-file", "/no/such/dir/out"]).unwrap();
        let failure = args.open().err().unwrap();
        assert_eq!(failure.code, ExitCode::OutputFailed);
        let message = format!("{:#}", failure.error);
        assert!(
            message.starts_with("output file /no/such/dir/out: "),
            "{message}"
        );
    }

    #[test]
    fn a_full_disk_fails_the_output_and_drops_what_was_not_written() {
        let args = parse(&["--output-file", "/dev/full"]).unwrap();
        let mut shown = args.open().unwrap();
        shown.take(Item::Event(&connected()));
        shown.take(Item::Event(&connected()));
        let account = shown.account();
        assert_eq!((account.taken, account.dropped.failed), (0, 2));
        let message = shown.finish().unwrap_err().to_string();
        assert!(
            message.starts_with("write /dev/full: No space left"),
            "{message}"
        );
    }
}
