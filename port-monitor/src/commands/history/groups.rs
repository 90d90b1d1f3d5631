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
    by: Option<ByArg>,
    /// What to sort the counts by: the greatest first [default: count]
    #[arg(long, value_name = "SUM", requires = "by")]
    sort: Option<SortArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ByArg {
    /// The name of the process
    Process,
    /// The executable
    Exe,
    /// The user
    User,
    /// The systemd unit
    Unit,
    /// The container
    Container,
    /// The service: the remote port outbound, the local one inbound
    Service,
    /// The address of the other end
    Remote,
    /// The policy rule that decided
    Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SortArg {
    /// How many connections
    Count,
    /// How many failed
    Failed,
    /// How many broke the policy
    Violations,
    /// Payload bytes, both ways
    Bytes,
    /// When the first one began
    First,
    /// When the last one began
    Last,
    /// What they have in common, from A to Z
    Name,
}

impl GroupArgs {
    /// What to count by, if that is wanted, and what to sort by.
    pub(super) fn chosen(&self) -> Option<(By, Sort)> {
        let by = match self.by? {
            ByArg::Process => By::Process,
            ByArg::Exe => By::Exe,
            ByArg::User => By::User,
            ByArg::Unit => By::Unit,
            ByArg::Container => By::Container,
            ByArg::Service => By::Service,
            ByArg::Remote => By::Remote,
            ByArg::Rule => By::Rule,
        };
        let sort = match self.sort {
            None | Some(SortArg::Count) => Sort::Count,
            Some(SortArg::Failed) => Sort::Failed,
            Some(SortArg::Violations) => Sort::Violations,
            Some(SortArg::Bytes) => Sort::Bytes,
            Some(SortArg::First) => Sort::First,
            Some(SortArg::Last) => Sort::Last,
            Some(SortArg::Name) => Sort::Name,
        };
        Some((by, sort))
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
