//! The account's details at the end of a table: by hook, by consumer, and what else was
//! counted.

use super::{Table, plural};
use crate::events::record::{Account, Dropped, Summary};

/// The account of the consumer of that name, in words.
pub fn account_lines(name: &str, account: &Account) -> Vec<String> {
    let (delivered, taken, hidden) = (account.delivered, account.taken, account.hidden);
    let dropped = account.dropped.total();
    let mut lines = vec![format!(
        "{name}: delivered {delivered} = taken {taken} + hidden {hidden} + dropped {dropped}"
    )];
    if dropped > 0 {
        let Dropped {
            queue_full,
            failed,
            unfinished,
        } = account.dropped;
        lines.push(format!(
            "{name} dropped: queue full {queue_full}, failed {failed}, unfinished {unfinished}"
        ));
    }
    lines.extend(
        account
            .error
            .as_ref()
            .map(|error| format!("{name} failed: {error}")),
    );
    lines
}

impl Table {
    /// The rows behind an account that does not add up.
    pub(crate) fn hooks(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        self.comment(out, format_args!("the account does not add up, by hook:"));
        for (hook, count) in &summary.hooks {
            self.comment(
                out,
                format_args!(
                    "  {}: hit {}, filtered {}, ring full {}, submitted {}, skipped {}",
                    hook,
                    count.hit,
                    count.filtered,
                    count.reserve_failed,
                    count.submitted,
                    count.skipped
                ),
            );
        }
        let (received, hidden) = (summary.received, summary.hidden);
        self.comment(out, format_args!("  received {received}, hidden {hidden}"));
    }

    /// The accounts of several consumers: that of one is the table's own.
    pub(crate) fn consumers(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        if summary.consumers.len() < 2 {
            return;
        }
        for (name, account) in &summary.consumers {
            for line in account_lines(name, account) {
                self.comment(out, format_args!("{line}"));
            }
        }
    }

    /// What is worth a line only when it happened.
    pub(crate) fn remarks(&mut self, out: &mut Vec<u8>, summary: &Summary) {
        let preattach = summary.accept_preattach;
        if preattach > 0 {
            let accepts = plural(preattach, "accept");
            self.comment(
                out,
                format_args!("{preattach} {accepts} seen by the second hook only"),
            );
        }
        if summary.gave_up() > 0 || !summary.adds_up() {
            let (entered, not_ours) = (summary.entered(), summary.not_ours);
            let (gave_up, seen) = (summary.gave_up(), summary.seen());
            self.comment(
                out,
                format_args!(
                    "entered {entered} = not ours {not_ours} + gave up {gave_up} + seen {seen}"
                ),
            );
        }
        for failed in &summary.failures {
            let (site, errno) = (failed.site.name(), failed.errno_name());
            let times = plural(failed.count, "time");
            self.comment(
                out,
                format_args!(
                    "failed in the kernel: {site}, {errno}, {} {times}",
                    failed.count
                ),
            );
        }
        let table_full = summary.table_full();
        if table_full > 0 {
            let times = plural(table_full, "time");
            self.comment(
                out,
                format_args!(
                    "kernel table full {table_full} {times}: outcomes, ends or owners are missing"
                ),
            );
        }
        match summary.command_status {
            None => {}
            Some(status @ 129..) => {
                let signal = status - 128;
                self.comment(out, format_args!("command killed by signal {signal}"));
            }
            Some(status) => {
                self.comment(out, format_args!("command exited with status {status}"));
            }
        }
    }
}
