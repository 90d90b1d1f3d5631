//! Fields that have a value nobody could find out, and why.

use super::line::Line;
use crate::events::{decode::Direction, record::Process, wire::words::Reason};

/// Appends `missing` of an event with this process, if anything is: whether the event has an
/// `owner`, and which way it goes, if its local port is `unchosen`.
pub(crate) fn push(
    line: &mut Line<'_>,
    process: &Process,
    has_owner: bool,
    unchosen: Option<Direction>,
) {
    let mut separator = r#","missing":{"#;
    let mut put = |line: &mut Line<'_>, field: &str, reason: Reason| {
        line.raw(separator);
        line.raw(field);
        line.word(reason);
        separator = ",";
    };
    let exe = process.exe.missing().map(Reason::from);
    if has_owner {
        if let Some(reason) = exe {
            put(line, r#""process.executable":""#, reason);
        }
    } else {
        let reason = exe.unwrap_or(Reason::NoOwner);
        put(line, r#""process.pid":""#, reason);
    }
    if has_owner && process.user.is_none() {
        let reason = process.user_missing;
        let reason = reason.map_or(Reason::UnknownUser, Reason::from);
        put(line, r#""user.name":""#, reason);
    }
    if let Some(direction) = unchosen {
        let field = match direction {
            Direction::Outbound => r#""source.port":""#,
            Direction::Inbound => r#""destination.port":""#,
        };
        put(line, field, Reason::NotChosen);
    }
    if has_owner && process.cgroup.is_none() {
        let reason = process.cgroup_missing();
        let reason = reason.map_or(Reason::NotFound, Reason::from);
        put(line, r#""port_monitor.cgroup.path":""#, reason);
    }
    if let Some(reason) = process.container_missing.filter(|_| has_owner) {
        put(line, r#""container.id":""#, reason.into());
    }
    if separator == "," {
        line.raw("}");
    }
}
