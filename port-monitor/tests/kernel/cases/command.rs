//! `-- CMD`: the command, its descendants, and nobody else.

use anyhow::{Result, ensure};

use crate::{backend::Backend, check::Stream, lab::Lab, monitor::Watch, report::Verdict};

pub(super) fn tree(lab: &Lab, backend: Backend) -> Result<Verdict> {
    // The first workload of the tree waits until the stranger is done.
    let names = ["parent-and-child", "descendants"];
    let observed = lab.observe_tree(Watch::json(lab, backend), &names, |monitor| {
        let mut stranger = lab.workload("connect-ipv4")?;
        stranger.hear("done")?;
        monitor.tell_command("go\n")
    })?;
    let mut stream = Stream::of(&observed.run)?;
    for name in names {
        stream.check(&observed.facts(name)?, backend.sight())?;
    }
    stream.expect_nothing_else()?;
    let summary = stream.summary();
    ensure!(
        summary.command_status == Some(0),
        "the command ended well, yet {summary:?}"
    );
    // The stranger's listener, attempt and accept; where it is told first and asked about
    // then, the end of that too; and on a shared machine other people's.
    let others = if backend.sight().acceptors { 3 } else { 4 };
    ensure!(
        summary.filtered == others || lab.native && summary.filtered > others,
        "{others} records were not for us, yet {summary:?}"
    );
    Ok(Verdict::pass())
}
