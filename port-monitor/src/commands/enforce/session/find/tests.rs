//! Sessions that are found, or not, on hosts made up for it.

use super::super::tree::tests::{FakeProc, PTS, TTY};
use crate::commands::enforce::session::find::*;

const UNIT: &str = "/system.slice/ssh.service";

fn socket(local: &str, remote: &str, inode: u64) -> OpenConnection {
    let at = |text: &str| text.parse().unwrap();
    OpenConnection::made_up(at(local), at(remote), inode)
}

/// A namespace with sshd's listener at port 22 and these connections to it.
fn host(peers: &[(&str, u64)]) -> Sockets {
    let mut listener = socket("0.0.0.0:22", "0.0.0.0:0", 1);
    listener.uid = 7;
    listener.cgroup = Some(UNIT.to_owned());
    let accepted = |&(peer, inode): &(&str, u64)| {
        let mut connection = socket("192.0.2.1:22", peer, inode);
        connection.is_inbound = true;
        connection
    };
    Sockets {
        listeners: vec![listener],
        connections: peers.iter().map(accepted).collect(),
    }
}

/// Process 900 is applying a policy, under sudo, in a session of sshd.
fn logged_in() -> FakeProc {
    let proc = FakeProc::new();
    proc.add(1, 0, "/usr/lib/systemd/systemd", 0)
        .add(700, 1, "/usr/sbin/sshd", 0)
        .hold(700, 3, 1)
        .add(811, 700, "/usr/sbin/sshd", 0)
        .hold(811, 4, 42)
        .add(812, 811, "/usr/sbin/sshd", 0)
        .hold(812, 4, 42)
        .add(813, 812, "/bin/bash", PTS)
        .add(814, 813, "/usr/bin/sudo", PTS)
        .add(900, 814, "/usr/bin/port-monitor", PTS);
    proc
}

fn peers(found: &Found) -> Vec<String> {
    let mut peers: Vec<_> = found
        .sessions
        .iter()
        .map(|session| session.peer.to_string())
        .collect();
    peers.sort();
    peers
}

#[test]
fn a_session_is_found_without_any_variable_and_belongs_to_who_listens() {
    let proc = logged_in();
    let sockets = [host(&[
        ("198.51.100.7:5000", 42),
        ("198.51.100.8:5000", 43),
    ])];
    let found = Found::look(&proc.proc, 900, &sockets);
    assert_eq!(found.doubt, None);
    let [session] = &found.sessions[..] else {
        panic!("{found:?}");
    };
    assert_eq!(session.peer, "198.51.100.7:5000".parse().unwrap());
    let listener = Owner {
        uid: Some(7),
        cgroup: Some(UNIT.to_owned()),
    };
    assert_eq!(session.owners, [listener]);
    assert_eq!(
        session.to_string(),
        "this ssh session, from 198.51.100.7 to port 22"
    );
}

#[test]
fn a_listener_at_the_very_address_is_the_one_that_is_asked() {
    let mut sockets = host(&[("198.51.100.7:5000", 42)]);
    let mut exact = socket("192.0.2.1:22", "0.0.0.0:0", 2);
    exact.uid = 8;
    let others = ["192.0.2.9:22", "0.0.0.0:23", "[::]:22"];
    let others = others.map(|at| socket(at, "0.0.0.0:0", 3));
    sockets.listeners.extend(others);
    let connection = sockets.connections[0].clone();
    assert_eq!(listeners(&connection, &sockets).len(), 2);
    sockets.listeners.push(exact);
    let found = listeners(&connection, &sockets);
    assert_eq!(found.iter().map(|found| found.uid).collect::<Vec<_>>(), [8]);
}

#[test]
fn where_nobody_listens_any_more_the_first_connection_is_the_session() {
    let proc = logged_in();
    proc.hold(812, 9, 44);
    let mut sockets = host(&[("198.51.100.7:5000", 42)]);
    sockets.listeners.clear();
    sockets.connections[0].is_inbound = false;
    let forwarded = socket("192.0.2.1:40000", "10.0.0.1:5432", 44);
    sockets.connections.insert(0, forwarded);
    let found = Found::look(&proc.proc, 900, &[sockets]);
    assert_eq!(peers(&found), ["198.51.100.7:5000"]);
}

#[test]
fn every_session_that_leads_here_is_found() {
    // From elsewhere to this host, and on to this host again.
    let proc = logged_in();
    proc.add(820, 700, "/usr/sbin/sshd", 0)
        .hold(820, 4, 52)
        .add(821, 820, "/bin/bash", PTS)
        .add(850, 821, "/usr/bin/ssh", PTS)
        .hold(850, 3, 61);
    let mut sockets = host(&[("198.51.100.9:6000", 52), ("127.0.0.1:7000", 42)]);
    sockets.connections[1].local = "127.0.0.1:22".parse().unwrap();
    let client = socket("127.0.0.1:7000", "127.0.0.1:22", 61);
    sockets.connections.push(client);
    let found = Found::look(&proc.proc, 900, &[Sockets::default(), sockets]);
    assert_eq!(peers(&found), ["127.0.0.1:7000", "198.51.100.9:6000"]);
}

#[test]
fn a_process_that_serves_one_connection_is_a_session_and_a_daemon_is_not() {
    let proc = FakeProc::new();
    proc.add(1, 0, "/sbin/init", 0)
        .hold(1, 3, 43)
        .add(50, 1, "/usr/bin/webd", 0)
        .hold(50, 4, 1)
        .hold(50, 5, 42)
        .add(60, 50, "/usr/bin/socat", 0)
        .hold(60, 5, 44)
        .add(61, 60, "/bin/sh", 0);
    let sockets = [host(&[
        ("198.51.100.7:5000", 42),
        ("198.51.100.8:5000", 43),
        ("198.51.100.9:5000", 44),
    ])];
    let found = Found::look(&proc.proc, 61, &sockets);
    assert_eq!(peers(&found), ["198.51.100.9:5000"]);
    assert_eq!(
        found.sessions[0].to_string(),
        "this session of socat[60], from 198.51.100.9 to port 22"
    );
    let found = Found::look(&proc.proc, 50, &sockets);
    assert_eq!((found.sessions.len(), found.doubt), (0, None));
}

#[test]
fn a_pseudo_terminal_that_leads_nowhere_is_in_doubt_and_a_console_is_not() {
    let proc = FakeProc::new();
    proc.add(1, 0, "/sbin/init", 0)
        .add(30, 1, "/usr/bin/tmux", 0)
        .add(31, 30, "/bin/bash", PTS)
        .add(40, 1, "/usr/bin/login", TTY)
        .add(41, 40, "/usr/bin/sudo", TTY)
        .add(42, 41, "/bin/bash", PTS)
        .add(50, 1, "/usr/sbin/cron", 0)
        .add(60, 99, "/bin/bash", PTS);
    let sockets = [host(&[("198.51.100.7:5000", 42)])];
    let doubt = |pid| Found::look(&proc.proc, pid, &sockets).doubt;
    assert_eq!(doubt(31), Some(Doubt::Terminal));
    assert_eq!(doubt(42), None);
    assert_eq!(doubt(50), None);
    // Whoever started it is gone or hidden.
    assert_eq!(doubt(60), Some(Doubt::Terminal));
}

#[test]
fn a_server_of_logins_without_its_connection_is_in_doubt() {
    let proc = logged_in();
    let found = Found::look(&proc.proc, 900, &[]);
    assert_eq!(found.doubt, Some(Doubt::Server("sshd".to_owned(), 812)));
}

#[test]
fn variables_count_where_the_kernel_confirms_them_or_they_are_our_own() {
    let open = "SSH_CONNECTION=198.51.100.7 5000 192.0.2.1 22";
    let past = "SSH_CONNECTION=198.51.100.66 5000 192.0.2.1 22";
    let sockets = [host(&[("198.51.100.7:5000", 42)])];
    let in_tmux = |server: &str, own: &str| {
        let proc = FakeProc::new();
        proc.add(1, 0, "/sbin/init", 0)
            .add(30, 1, "/usr/bin/tmux", 0)
            .set(30, server)
            .add(31, 30, "/bin/bash", PTS)
            .set(31, own);
        Found::look(&proc.proc, 31, &sockets)
    };
    let found = in_tmux(open, "A=1");
    assert_eq!((peers(&found).len(), found.doubt), (1, None));
    assert_eq!(found.sessions[0].owners[0].uid, Some(7));
    let found = in_tmux(past, "A=1");
    assert_eq!(
        (peers(&found).len(), found.doubt),
        (0, Some(Doubt::Terminal))
    );
    let found = in_tmux("A=1", past);
    assert_eq!(peers(&found), ["198.51.100.66:5000"]);
    assert!(!found.sessions[0].is_open);
    assert_eq!(found.doubt, Some(Doubt::Terminal));
}

#[test]
fn whoever_has_left_the_tree_is_still_in_the_session() {
    let scope = "/user.slice/user-1000.slice/session-3.scope";
    let proc = logged_in();
    proc.put(811, scope)
        .add(950, 1, "/usr/bin/port-monitor", 0)
        .put(950, scope);
    let sockets = [host(&[("198.51.100.7:5000", 42)])];
    let found = Found::look(&proc.proc, 950, &sockets);
    assert_eq!((peers(&found).len(), found.doubt), (1, None));
}

#[test]
fn the_kernels_word_on_a_session_wins_over_its_variable() {
    let proc = logged_in();
    proc.set(900, "SSH_CONNECTION=198.51.100.7 5000 192.0.2.1 22");
    let sockets = [host(&[("198.51.100.7:5000", 42)])];
    let found = Found::look(&proc.proc, 900, &sockets);
    assert_eq!(found.sessions.len(), 1);
    assert_eq!(found.sessions[0].owners[0].uid, Some(7));
}
