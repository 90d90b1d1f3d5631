//! Connections counted by what they have in common, in one of the forms.

use std::io::Write;

use super::place::{Here, unreadable};
use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::told::{note, written},
    consume::history::{
        read::{By, Reader, Sort, Sums, Wanted},
        told::{
            Grid,
            groups::{HEADINGS, SUMS, cells, csv_line, json_line},
            missing,
        },
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

/// In what form sums are written.
pub(super) enum SumsForm {
    Table { width: Option<usize>, color: bool },
    Json,
    Csv,
}

impl SumsForm {
    /// Writes sums with what they are of, which has these names, and what is missing.
    pub(super) fn write(
        &self,
        names: &[&str],
        rows: impl Iterator<Item = (Vec<Option<String>>, Sums)>,
        here: &Here,
        missing: &[String],
        mut out: impl Write,
    ) -> Result<ExitCode, Failure> {
        let mut text = Vec::new();
        match self {
            Self::Table { width, color } => {
                let mut grid = Grid::new(*width, *color, &[names, &HEADINGS].concat());
                for (of, sums) in rows {
                    let of = of.into_iter().map(|text| text.unwrap_or("-".to_owned()));
                    grid.row(of.chain(cells(&sums, &here.zone)));
                }
                grid.write(&mut text, missing);
            }
            Self::Json => rows.for_each(|(of, sums)| {
                let of: Vec<_> = names.iter().copied().zip(of).collect();
                json_line(&mut text, &of, &sums);
            }),
            Self::Csv => {
                text.extend_from_slice([names, &SUMS].concat().join(",").as_bytes());
                text.push(b'\n');
                rows.for_each(|(of, sums)| csv_line(&mut text, &of, &sums));
            }
        }
        if !matches!(self, Self::Table { .. }) {
            missing.iter().for_each(note);
        }
        written(out.write_all(&text))
    }
}

/// What is missing from the time that is asked for.
pub(super) fn missing_of(
    reader: &Reader,
    wanted: &Wanted,
    here: &Here,
) -> Result<Vec<String>, Failure> {
    let watched = reader.watched(wanted.since_ns, wanted.until_ns, here.now_ns);
    Ok(missing(&watched.map_err(unreadable)?, &here.zone))
}
