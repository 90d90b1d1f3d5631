//! `history unused`: the listeners that nobody used.

use std::io::Write;

use super::{
    form::{FormArgs, write},
    place::{FileArgs, Here, missing_of, unreadable},
};
use crate::{
    base::{
        exit_code::{ExitCode, Failure},
        time,
        when::{self, When},
    },
    consume::history::{
        read::Key,
        told::sheet::{Fact, Sheet, column},
    },
};

/// Arguments of `history unused`.
#[derive(Debug, clap::Args)]
pub(super) struct UnusedArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Those that no connection used that began then or later, written as for `history`
    #[arg(long, value_name = "TIME", value_parser = when::parse, default_value = "30d")]
    since: When,
    #[command(flatten)]
    form: FormArgs,
}

/// Tells which listeners.
pub(super) fn run(args: &UnusedArgs, here: &Here, out: impl Write) -> Result<ExitCode, Failure> {
    let since_ns = args.since.wall_ns(here.now_ns, &here.zone);
    let form = args.form.sheet()?;
    let reader = args.file.open()?;
    let listeners = reader.listeners(since_ns).map_err(unreadable)?;
    let names = ["port", "local", "process", "user", "unit", "listens_since"];
    let mut sheet = Sheet {
        columns: names.map(column).to_vec(),
        rows: Vec::new(),
    };
    for listener in &listeners.unused {
        sheet.rows.push(vec![
            Fact::key(&Key::Port(listener.port)),
            Fact::key(&Key::Ip(listener.ip)),
            Fact::key(&listener.process),
            Fact::key(&listener.user),
            Fact::key(&listener.unit),
            Fact::time(listener.since_ns, &here.zone),
        ]);
    }
    let since = time::local(since_ns, &here.zone);
    let (unused, all) = (listeners.unused.len(), listeners.all);
    let mut remarks = vec![format!("{unused} of {all} listeners unused since {since}")];
    remarks.extend(missing_of(&reader, (Some(since_ns), None), here)?);
    write(sheet, form, &remarks, out)
}
