//! `history stats`: connections and failures over time.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context as _;
use clap::builder::{PathBufValueParser, TypedValueParser as _};

use super::{
    filters::FilterArgs,
    form::{FormArgs, write},
    place::{FileArgs, Here, Span, SpanArgs, unreadable},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    consume::{
        history::{
            read::Spans,
            told::{
                missing,
                plot::{self, Plot},
            },
        },
        output::args::new_path,
    },
};

const SECOND_NS: i128 = 1_000_000_000;
const DAY_NS: i128 = 86_400 * SECOND_NS;
/// How long a span may be, in seconds: what people count time in.
const STEPS: [i128; 14] = [
    1, 10, 60, 300, 600, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800, 2_592_000,
    31_536_000,
];
/// As many spans are told at most.
const SPANS: i128 = 48;

/// Arguments of `history stats`.
#[derive(Debug, clap::Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    span: SpanArgs,
    /// Draw it into FILE too, which is written anew
    #[arg(
        long,
        value_name = "FILE",
        allow_hyphen_values = true,
        value_parser = PathBufValueParser::new().try_map(new_path)
    )]
    svg: Option<PathBuf>,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    form: FormArgs,
}

/// Tells how many there were.
pub(super) fn run(args: &StatsArgs, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    let form = args.form.sheet()?;
    let span = args.span.span(here)?;
    let until_ns = span.until_ns.unwrap_or(here.now_ns).min(here.now_ns);
    let since_ns = span.since_ns.unwrap_or(until_ns - DAY_NS);
    if since_ns >= until_ns {
        return Err(Failure::usage(
            "--since is in the future: nothing has begun there",
        ));
    }
    let reader = args.file.open()?;
    let wanted = args.filters.wanted(
        Span {
            since_ns: Some(since_ns),
            until_ns: Some(until_ns),
        },
        &reader,
    )?;
    let spans = spans(since_ns, until_ns, here);
    let tallies = reader.tallies(&wanted, spans).map_err(unreadable)?;
    let watched = reader.watched(Some(since_ns), Some(until_ns), here.now_ns);
    let watched = watched.map_err(unreadable)?;
    let plot = Plot {
        spans,
        tallies: &tallies,
        watched: &watched,
        since_ns,
        until_ns,
        zone: &here.zone,
    };
    if let Some(path) = &args.svg {
        fs::write(path, plot::svg(&plot))
            .with_context(|| format!("write {}", path.display()))
            .or_exit(ExitCode::OutputFailed)?;
    }
    let mut remarks = vec![plot.legend()];
    remarks.extend(missing(&watched, &here.zone));
    write(plot.sheet(form), form, &remarks, out)
}

/// Spans that begin at full hours or days, or whatever they count, where people live.
fn spans(since_ns: i128, until_ns: i128, here: &Here) -> Spans {
    let length = until_ns - since_ns;
    let steps = STEPS.into_iter().map(|step| step * SECOND_NS);
    let fitting = steps.clone().find(|step| length <= step * SPANS);
    let step_ns = fitting.unwrap_or(length / SPANS + 1);
    let zone_ns = here.offset_ns(since_ns);
    let from_ns = (since_ns + zone_ns).div_euclid(step_ns) * step_ns - zone_ns;
    let count = (until_ns - from_ns + step_ns - 1) / step_ns;
    Spans {
        from_ns,
        step_ns,
        count: usize::try_from(count).unwrap_or(0),
    }
}
