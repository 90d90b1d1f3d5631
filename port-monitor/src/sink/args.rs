//! The flags that say where the events go and how they look, and the opening of
//! what they say.

use std::path::PathBuf;

use jiff::tz::TimeZone;

use super::{
    Sink, SinkKind,
    color::ColorWhen,
    fields::{self, Field},
    json::Json,
    table::{Options, Table},
    target::Target,
    writer::Output,
};
use crate::exit_code::{ExitCode, Failure, OrExit as _};

/// The flags of every command that writes a stream of events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to write
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    pub output: SinkKind,
    /// Columns of the table, in this order (JSON lines always carry all)
    #[arg(
        long,
        value_name = "FIELD,…",
        value_delimiter = ',',
        value_parser = fields::parser()
    )]
    pub fields: Vec<&'static Field>,
    /// When to colour the table
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorWhen,
    /// Write to FILE instead of standard output, replacing what is in it
    #[arg(long, value_name = "FILE")]
    pub output_file: Option<PathBuf>,
}

impl Args {
    /// Opens the destination and starts writing to it.
    ///
    /// To be called before anything is attached: a file that cannot be written
    /// must not cost a connection its events.
    pub fn open(self) -> Result<(Box<dyn Sink>, Output), Failure> {
        if self.output == SinkKind::Json && !self.fields.is_empty() {
            return Err(Failure::usage(
                "--fields chooses columns of the table: drop it, or -o json, whose lines carry all",
            ));
        }
        let target = match &self.output_file {
            Some(path) => Target::file(path),
            None => Target::stdout(),
        }
        .or_exit(ExitCode::OutputFailed)?;
        let width = target.terminal_width();
        let sink: Box<dyn Sink> = match self.output {
            SinkKind::Json => Box::new(Json::new()),
            SinkKind::Table => Box::new(Table::new(Options {
                width,
                color: self
                    .color
                    .enabled(width.is_some(), |name| std::env::var_os(name)),
                fields: self.fields,
                zone: TimeZone::system(),
            })),
        };
        let output =
            Output::start(target.name().to_owned(), target).or_exit(ExitCode::OutputFailed)?;
        Ok((sink, output))
    }
}
