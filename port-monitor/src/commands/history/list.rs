//! The connections of a history, one by one.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    Args,
    place::{Here, SpanArgs, unreadable},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::told::{note, written},
    consume::{
        history::{
            read::{Kept, ReadError, Reader, Wanted},
            told::{Csv, Json, Table, is_kept, missing},
        },
        lines::{
            color::ColorWhen,
            fields::{self, Field},
        },
        output::target::{Target, Terminal},
    },
    pipeline::{classify::Classifier, ephemeral_range},
};

/// Bytes that are written at once.
const CHUNK: usize = 1 << 16;

/// What of the history, and in what form.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    span: SpanArgs,
    /// Only the latest N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    output: OutputArgs,
}

/// In what form.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// What to write
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: FormArg,
    /// Columns of the table or of the CSV, in this order (JSON lines always carry all)
    #[arg(
        long,
        value_name = "FIELD,…",
        value_delimiter = ',',
        value_parser = fields::parser()
    )]
    fields: Vec<&'static Field>,
    /// When to colour the table
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum FormArg {
    /// A table for people
    #[default]
    Table,
    /// JSON lines, a connection each, named as those of `watch -o json`
    Json,
    /// Comma-separated values, with a line of names
    Csv,
}

/// A form that connections are told in.
enum Form {
    Table(Box<Table>),
    Json,
    Csv(Csv),
}

impl OutputArgs {
    fn form(&self, zone: &TimeZone) -> Result<Form, Failure> {
        if let Some(field) = self.fields.iter().find(|field| !is_kept(field)) {
            return Err(Failure::usage(format!(
                "--fields {}: a history does not keep that",
                field.name
            )));
        }
        let (fields, zone) = (self.fields.clone(), zone.clone());
        Ok(match self.output {
            FormArg::Json if !fields.is_empty() => {
                return Err(Failure::usage(
                    "--fields chooses columns: drop it, or -o json, whose lines carry all",
                ));
            }
            FormArg::Json => Form::Json,
            FormArg::Csv => Form::Csv(Csv::new(fields, zone)),
            FormArg::Table => {
                let target = Target::stdout().or_exit(ExitCode::OutputFailed)?;
                let width = target.terminal().as_ref().map(Terminal::width);
                let color = self
                    .color
                    .enabled(width.is_some(), |name| std::env::var_os(name));
                Form::Table(Box::new(Table::new(width, color, fields, zone)))
            }
        })
    }
}

impl Form {
    fn begin(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Table(table) => table.begin(out),
            Self::Json => {}
            Self::Csv(csv) => csv.begin(out),
        }
    }

    fn connection(&mut self, out: &mut Vec<u8>, kept: &Kept) {
        match self {
            Self::Table(table) => table.connection(out, kept),
            Self::Json => Json::connection(out, kept),
            Self::Csv(csv) => csv.connection(out, kept),
        }
    }

    /// Says what is missing: at the foot of a table, else beside the lines.
    fn end(&mut self, out: &mut Vec<u8>, missing: &[String]) {
        match self {
            Self::Table(table) => table.end(out, missing),
            Self::Json | Self::Csv(_) => missing.iter().for_each(note),
        }
    }
}

/// What a list may fail of.
enum Fault {
    Read(ReadError),
    Write(io::Error),
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Lists the connections.
pub(super) fn run(args: &Args, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    let span = args.list.span.span(here)?;
    let form = args.list.output.form(&here.zone)?;
    let reader = args.file.open()?;
    let wanted = args.filters.wanted(span, &reader)?;
    let listed = list(&reader, (&wanted, args.list.limit), form, here, out);
    match listed {
        Ok(()) => Ok(ExitCode::Ok),
        Err(Fault::Read(error)) => Err(unreadable(error)),
        Err(Fault::Write(error)) => written(Err(error)),
    }
}

fn list(
    reader: &Reader,
    (wanted, latest): (&Wanted, Option<u32>),
    mut form: Form,
    here: &Here,
    mut out: impl Write,
) -> Result<(), Fault> {
    let mut classifier = Classifier::new(ephemeral_range());
    let mut chunk = Vec::new();
    form.begin(&mut chunk);
    reader.connections::<Fault>(wanted, latest, |mut kept| {
        kept.record.ports = classifier.ports(&kept.record.event);
        form.connection(&mut chunk, &kept);
        if chunk.len() >= CHUNK {
            out.write_all(&chunk)?;
            chunk.clear();
        }
        Ok(())
    })?;
    let watched = reader.watched(wanted.since_ns, wanted.until_ns, here.now_ns)?;
    form.end(&mut chunk, &missing(&watched, &here.zone));
    out.write_all(&chunk)?;
    out.flush()?;
    Ok(())
}
