//! The connections of a history, one by one.

use std::io::{self, Write};

use jiff::tz::TimeZone;

use super::{
    Args,
    form::{FormArg, FormArgs},
    groups::GroupArgs,
    place::{Here, SpanArgs, unreadable},
};
use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::told::{note, written},
    consume::{
        history::{
            read::{Kept, ReadError, Reader, Wanted},
            told::{Csv, Json, Table, is_kept, missing, sheet::SheetForm},
        },
        lines::fields::{self, Field},
    },
    pipeline::{classify::Classifier, ephemeral_range},
};

/// Bytes that are written at once.
const CHUNK: usize = 1 << 16;

/// What of the history, and in what form.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) span: SpanArgs,
    /// Only the latest N; with --by, the first N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
    #[command(flatten)]
    pub(super) groups: GroupArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

/// In what form.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    #[command(flatten)]
    form: FormArgs,
    /// Columns of the table or of the CSV, in this order (JSON lines always carry all)
    #[arg(
        long,
        value_name = "FIELD,…",
        value_delimiter = ',',
        value_parser = fields::parser()
    )]
    fields: Vec<&'static Field>,
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
        Ok(match self.form.output {
            FormArg::Json if !fields.is_empty() => {
                return Err(Failure::usage(
                    "--fields chooses columns: drop it, or -o json, whose lines carry all",
                ));
            }
            FormArg::Json => Form::Json,
            FormArg::Csv => Form::Csv(Csv::new(fields, zone)),
            FormArg::Table => {
                let (width, color) = self.form.terminal()?;
                Form::Table(Box::new(Table::new(width, color, fields, zone)))
            }
        })
    }

    /// The form of sums, which have columns of their own.
    pub(super) fn sheet(&self) -> Result<SheetForm, Failure> {
        if !self.fields.is_empty() {
            return Err(Failure::usage(
                "--fields chooses columns of connections: sums have their own",
            ));
        }
        self.form.sheet()
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
    match list(&reader, (&wanted, args.list.limit), form, here, out) {
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
