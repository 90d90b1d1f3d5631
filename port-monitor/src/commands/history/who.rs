//! `history who`: who has used a port, and with whom.

use std::io::Write;

use super::{
    filters::FilterArgs,
    form::{FormArgs, write},
    place::{FileArgs, Here, SpanArgs, missing_of, unreadable},
};
use crate::{
    base::exit_code::{ExitCode, Failure},
    consume::history::told::sheet::{Fact, SUMS, Sheet, column, sums},
    events::decode::Direction,
    ports::port_set::PortSet,
};

/// Arguments of `history who`.
#[derive(Debug, clap::Args)]
pub(super) struct WhoArgs {
    /// The service's ports, remote ones outbound and local ones inbound: numbers, ranges
    /// a-b, service names, or a class
    #[arg(value_name = "PORTS")]
    ports: PortSet,
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    span: SpanArgs,
    /// Only the first N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    form: FormArgs,
}

/// Tells who it was.
pub(super) fn run(args: &WhoArgs, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    let span = args.span.span(here)?;
    let form = args.form.sheet()?;
    let reader = args.file.open()?;
    let mut wanted = args.filters.wanted(span, &reader)?;
    wanted.service_ports = Some(args.ports.clone());
    let talks = reader.talks(&wanted, args.limit).map_err(unreadable)?;
    let mut sheet = Sheet {
        columns: ["process", "direction", "remote"].map(column).to_vec(),
        rows: Vec::new(),
    };
    sheet.columns.extend(SUMS);
    for talk in talks {
        let direction = match talk.direction {
            Direction::Inbound => "in",
            Direction::Outbound => "out",
        };
        let mut row = vec![
            Fact::key(&talk.process),
            Fact::text(Some(direction.to_owned())),
            Fact::key(&talk.remote),
        ];
        row.extend(sums(&talk.sums, &here.zone));
        sheet.rows.push(row);
    }
    let missing = missing_of(&reader, (wanted.since_ns, wanted.until_ns), here)?;
    write(sheet, form, &missing, out)
}
