//! `history --by`: connections counted by what they have in common.

use std::io::Write;

use super::{
    Args,
    form::write,
    list::ListArgs,
    place::{Here, missing_of, unreadable},
};
use crate::{
    base::exit_code::{ExitCode, Failure},
    consume::history::{
        read::{By, Counted, Sort},
        told::sheet::{Fact, SUMS, Sheet, column, sums, word},
    },
};

/// What is counted together.
#[derive(Debug, clap::Args)]
pub(super) struct GroupArgs {
    /// Count connections by what they have in common, instead of listing each
    #[arg(long, value_name = "KEY")]
    by: Option<By>,
    /// What to sort the counts by: the greatest first [default: count]
    #[arg(long, value_name = "SUM", requires = "by")]
    sort: Option<Sort>,
}

impl GroupArgs {
    /// What to count by, if that is wanted, and what to sort by.
    pub(super) fn chosen(&self) -> Option<(By, Sort)> {
        Some((self.by?, self.sort.unwrap_or_default()))
    }
}

/// Counts connections.
pub(super) fn run(
    args: &Args,
    (by, sort): (By, Sort),
    here: &Here,
    out: impl Write,
) -> Result<ExitCode, Failure> {
    let ListArgs {
        span,
        limit,
        output,
        ..
    } = &args.list;
    let span = span.span(here)?;
    let form = output.sheet()?;
    let reader = args.file.open()?;
    let wanted = args.filters.wanted(span, &reader)?;
    let counted = Counted {
        by,
        sort,
        most: *limit,
        first_ns: None,
    };
    let groups = reader.groups(&wanted, counted).map_err(unreadable)?;
    let rows = groups.iter().map(|group| {
        let mut row = vec![Fact::key(&group.key)];
        row.extend(sums(&group.sums, &here.zone));
        row
    });
    let mut columns = vec![column(word(by))];
    columns.extend(SUMS);
    let sheet = Sheet {
        columns,
        rows: rows.collect(),
    };
    let missing = missing_of(&reader, (wanted.since_ns, wanted.until_ns), here)?;
    write(sheet, form, &missing, out)
}
