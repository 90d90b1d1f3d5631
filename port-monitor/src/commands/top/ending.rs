//! Ctrl-K: the end of a connection, as `ss -K` asks the kernel for it. Never without a word, and
//! of what somebody may need to come in again, not without a second one.

use std::{
    env, fs, io,
    net::{IpAddr, SocketAddr},
    process,
};

use rustix::io::Errno;

use crate::{
    consume::top::{Asks, Model, Ui},
    events::{decode::Direction, record::Record},
    kernel::enforcer::{EnforcerError, end_between},
    policy::rules::compile::FAILSAFE_NAME,
};

const FAILSAFE: &str = "let through by [failsafe]";
const OWN_SESSION: &str = "the ssh session that this runs in";
/// Parents that are looked at for the session.
const PARENTS: usize = 32;

/// Asks whether the connection is to end.
pub(super) fn ask(ui: &mut Ui, model: &Model, id: u64) {
    let ends = model
        .record(id)
        .filter(|_| model.is_open(id))
        .and_then(ends);
    match ends {
        Some((local, remote)) => ui.ask(Asks::End(id, format!("{local} - {remote}"))),
        None => ui.say("that is not an open connection".to_owned()),
    }
}

/// The connection that is asked about, as long as it is open.
pub(super) fn found(model: &Model, asks: &Asks) -> Option<Record> {
    let (Asks::End(id, _) | Asks::EndReally(id, _)) = asks else {
        return None;
    };
    let record = model.record(*id).filter(|_| model.is_open(*id));
    record.cloned()
}

/// Ends it, where the answer says so; how many that were.
pub(super) fn answered(ui: &mut Ui, found: Option<&Record>, asks: &Asks, text: &str) -> u64 {
    let Some((record, (local, remote))) = found.and_then(|record| Some((record, ends(record)?)))
    else {
        ui.say("it is not open any more".to_owned());
        return 0;
    };
    match asks {
        Asks::End(id, _) if matches!(text.trim(), "y" | "yes" | "Y") => {
            if let Some(why) = caution(record, session().as_deref()) {
                ui.ask(Asks::EndReally(*id, why));
                return 0;
            }
        }
        Asks::EndReally(..) if text.trim() == "end" => {}
        _ => {
            ui.say("nothing is ended".to_owned());
            return 0;
        }
    }
    let ended = end_between(record.event.netns_ino, local, remote);
    ui.say(match &ended {
        Ok(0) => "it is not open any more".to_owned(),
        Ok(_) => format!("{local} - {remote} is ended"),
        Err(error) => why_not(error),
    });
    ended.map_or(0, |count| u64::try_from(count).unwrap_or(u64::MAX))
}

fn why_not(error: &EnforcerError) -> String {
    let errno = match error {
        EnforcerError::Sockets(error) => Errno::from_io_error(error),
        _ => None,
    };
    match errno {
        Some(Errno::OPNOTSUPP) => {
            "this kernel ends no connections: it was built without CONFIG_INET_DIAG_DESTROY".into()
        }
        Some(Errno::PERM | Errno::ACCESS) => "it takes root to end a connection".to_owned(),
        _ => {
            let error: &dyn std::error::Error = error;
            let cause = error.source().map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        }
    }
}

/// Both ends, where they are known.
fn ends(record: &Record) -> Option<(SocketAddr, SocketAddr)> {
    let event = &record.event;
    Some((
        SocketAddr::new(event.local_ip.to_canonical(), event.local_port?),
        SocketAddr::new(event.remote_ip.to_canonical(), event.remote_port),
    ))
}

/// Why it takes a second word.
fn caution(record: &Record, session: Option<&str>) -> Option<&'static str> {
    let judged = record.judgement.as_ref();
    let rule = judged.and_then(|judged| judged.rule.as_deref());
    if rule.is_some_and(|rule| rule.starts_with(FAILSAFE_NAME)) {
        return Some(FAILSAFE);
    }
    let is_own = session.is_some_and(|session| is_of_session(record, session));
    is_own.then_some(OWN_SESSION)
}

/// `SSH_CONNECTION` of sshd: the client's address and port, and the server's.
fn is_of_session(record: &Record, session: &str) -> bool {
    let mut words = session.split(' ');
    let mut end = || -> Option<(IpAddr, u16)> {
        let ip = words.next()?;
        // A link-local one has its interface behind it.
        let ip = ip.split('%').next()?.parse::<IpAddr>().ok()?;
        Some((ip.to_canonical(), words.next()?.parse().ok()?))
    };
    let (Some(client), Some(server)) = (end(), end()) else {
        return false;
    };
    let Some((local, remote)) = ends(record) else {
        return false;
    };
    let [local, remote] = [local, remote].map(|end| (end.ip(), end.port()));
    match record.event.direction() {
        Direction::Inbound => (local, remote) == (server, client),
        // The other end of it, where the client is on this host.
        Direction::Outbound => (local, remote) == (client, server),
    }
}

/// The ssh session that this runs in, as it or a parent was told. sudo forgets it.
fn session() -> Option<String> {
    if let Ok(session) = env::var("SSH_CONNECTION") {
        return Some(session);
    }
    let mut pid = process::id();
    for _ in 0..PARENTS {
        pid = parent(pid)?;
        if let Ok(found) = fs::read(format!("/proc/{pid}/environ"))
            && let Some(session) = variable(&found)
        {
            return Some(session);
        }
    }
    None
}

fn variable(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|&byte| byte == 0);
    let session = variables.find_map(|one| one.strip_prefix(b"SSH_CONNECTION="))?;
    String::from_utf8(session.to_vec()).ok()
}

fn parent(pid: u32) -> Option<u32> {
    let status: io::Result<String> = fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().filter(|&pid| pid != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        consume::lines::sample::{accepted, connected, violation},
        events::record::Judgement,
    };

    fn ui() -> Ui {
        Ui::new(Box::new(|_| Ok(Arc::new(|_: &Record| true))))
    }

    #[test]
    fn what_somebody_may_need_to_come_in_again_takes_a_second_word() {
        let (mut inbound, outbound) = (accepted(), connected());
        let of = |client: (IpAddr, u16), server: (IpAddr, u16)| {
            format!("{} {} {} {}", client.0, client.1, server.0, server.1)
        };
        let (local, remote) = ends(&inbound).unwrap();
        let (local, remote) = ((local.ip(), local.port()), (remote.ip(), remote.port()));
        let own = of(remote, local);
        assert_eq!(caution(&inbound, Some(&own)), Some(OWN_SESSION));
        assert_eq!(caution(&inbound, Some(&of((remote.0, 1), local))), None);
        assert_eq!(caution(&inbound, Some(&of(local, remote))), None);
        assert_eq!(caution(&outbound, Some(&own)), None);
        for text in ["", "x", "10.0.0.1 22", "10.0.0.1 x 10.0.0.2 22"] {
            assert_eq!(caution(&inbound, Some(text)), None);
        }
        inbound.judgement = Some(Judgement {
            rule: Some("failsafe:inbound:1".into()),
            ..violation().judgement.unwrap()
        });
        assert_eq!(caution(&inbound, None), Some(FAILSAFE));
        let mut ui = ui();
        let asks = Asks::End(7, String::new());
        assert_eq!(answered(&mut ui, Some(&inbound), &asks, "y"), 0);
        assert_eq!(ui.asks(), Some(&Asks::EndReally(7, FAILSAFE)));
        for (asks, text) in [(asks, "n"), (Asks::EndReally(7, FAILSAFE), "y")] {
            answered(&mut ui, Some(&inbound), &asks, text);
            assert_eq!(ui.said(), Some("nothing is ended"));
        }
    }

    #[test]
    fn a_session_is_found_where_it_was_told() {
        let found = variable(b"A=1\0SSH_CONNECTION=10.0.0.1 5 10.0.0.2 22\0B=2\0");
        assert_eq!(found.as_deref(), Some("10.0.0.1 5 10.0.0.2 22"));
        assert_eq!(variable(b"XSSH_CONNECTION=1\0"), None);
        assert_eq!(
            parent(process::id()),
            Some(std::os::unix::process::parent_id())
        );
    }

    #[test]
    fn why_a_connection_is_not_ended_is_said_plainly() {
        for (errno, expected) in [
            (Errno::OPNOTSUPP, "CONFIG_INET_DIAG_DESTROY"),
            (Errno::PERM, "takes root"),
        ] {
            let said = why_not(&EnforcerError::Sockets(errno.into()));
            assert!(said.contains(expected), "{said}");
        }
    }
}
