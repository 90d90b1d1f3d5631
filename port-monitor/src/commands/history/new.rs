//! `history new`: what was never seen before.

use std::io::Write;

use super::{
    filters::FilterArgs,
    form::{FormArgs, write},
    place::{FileArgs, Here, Span, missing_of, unreadable},
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        time,
        when::{self, When},
    },
    consume::history::{
        read::{By, Counted, Sort},
        told::sheet::{Fact, SUMS, Sheet, column, sums, word},
    },
};

/// What may be new.
const KINDS: [By; 3] = [By::Process, By::Service, By::Remote];

/// Arguments of `history new`.
#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    #[command(flatten)]
    file: FileArgs,
    /// What was first seen then or later, written as for `history`
    #[arg(long, value_name = "TIME", value_parser = when::parse, default_value = "1d")]
    since: When,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    form: FormArgs,
}

/// Tells what is new.
pub(super) fn run(args: &NewArgs, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    let since_ns = args.since.wall_ns(here.now_ns, &here.zone);
    let form = args.form.sheet()?;
    let reader = args.file.open()?;
    let wanted = args.filters.wanted(Span::default(), &reader)?;
    let mut sheet = Sheet {
        columns: ["kind", "new"].map(column).to_vec(),
        rows: Vec::new(),
    };
    sheet.columns.extend(SUMS);
    for by in KINDS {
        let counted = Counted {
            by,
            sort: Sort::First,
            most: None,
            first_ns: Some(since_ns),
        };
        for group in reader.groups(&wanted, counted).map_err(unreadable)? {
            let mut row = vec![Fact::text(Some(word(by).to_owned())), Fact::key(&group.key)];
            row.extend(sums(&group.sums, &here.zone));
            sheet.rows.push(row);
        }
    }
    let mut remarks = Vec::new();
    // What nobody watched may have been there before.
    if let Some(began_ns) = reader.begins_ns().map_err(unreadable)?
        && began_ns > since_ns
    {
        let began = time::local(began_ns, &here.zone);
        remarks.push(format!("all of it is new: the history begins {began}"));
    }
    remarks.extend(missing_of(&reader, (None, None), here)?);
    write(sheet, form, &remarks, out)
}
