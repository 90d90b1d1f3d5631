//! The sessions of the pages that need root: run here, they print what is shown, but for
//! what differs by nature.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use crate::pages::{blocks, commands, sessions, workspace};

/// A server that listens at the ports of the audit that the pages show, and connects to
/// the first of them from two addresses until its standard input ends.
const SERVER: &str = r#"
import os, select, socket, sys
ports = [("0.0.0.0", 80), ("127.0.0.1", 23), ("127.0.0.1", 5432)]
listeners = [socket.create_server(at) for at in ports]
print(os.getpid(), flush=True)
while not select.select([sys.stdin], [], [], 0.1)[0]:
    for source in ["127.0.0.1", "127.0.0.2"]:
        with socket.create_connection(("127.0.0.1", 80), source_address=(source, 0)):
            listeners[0].accept()[0].close()
"#;

/// The program runs where there is nothing but a loopback interface.
fn on_loopback(program: &str) -> Command {
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script, program]);
    command.current_dir(workspace());
    command
}

/// The server of an audit, and its process id.
fn server() -> (Child, String) {
    let mut child = on_loopback("python3")
        .args(["-c", SERVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pid = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut pid).unwrap();
    (child, pid.trim().to_owned())
}

/// Every kind of line that a session prints, without what differs by nature.
fn kinds_of_line(output: &str) -> BTreeSet<String> {
    output.lines().map(masked).collect()
}

/// A line without times, counts, process ids, sizes and ports that the kernel chose; of the
/// line about the machine, what is the same on every one.
fn masked(line: &str) -> String {
    if let Some((program, _)) = line.split_once(" on kernel ") {
        return program.to_owned();
    }
    let words: Vec<_> = line.split_whitespace().map(masked_word).collect();
    words.join(" ")
}

fn masked_word(word: &str) -> String {
    let is_chosen = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 32_767);
    if let Some((address, port)) = word.rsplit_once(':')
        && is_chosen(port)
    {
        return format!("{address}:*");
    }
    let number = word.trim_end_matches(['s', 'm', 'µ', 'K', 'M']);
    let count = |mark| number.matches(mark).count();
    let is_number = number.starts_with(|c: char| c.is_ascii_digit())
        && number
            .bytes()
            .all(|b| b.is_ascii_digit() || b".:".contains(&b));
    // An address has more points than a number, and fewer colons than a time of day.
    if is_number && (count(":") == 2 || count(":") == 0 && count(".") <= 1) {
        return "N".to_owned();
    }
    word.to_owned()
}

#[test]
fn what_the_pages_show_is_what_is_printed() {
    let mut count = 0;
    for block in blocks().iter().filter(|block| block.kind == "console") {
        for (command, shown) in sessions(block) {
            let Some(args) = command.strip_prefix("sudo port-monitor ") else {
                continue;
            };
            count += 1;
            let mut args = commands(args).remove(0);
            let mut watched = None;
            if let Some(pid) = args.iter().position(|arg| arg == "--pid") {
                let (child, id) = server();
                args[pid + 1] = id;
                watched = Some(child);
            }
            let output = on_loopback(env!("CARGO_BIN_EXE_port-monitor"))
                .args(&args)
                .output()
                .unwrap();
            if let Some(mut child) = watched {
                drop(child.stdin.take());
                assert!(child.wait().unwrap().success());
            }
            let printed = String::from_utf8(output.stdout).unwrap();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success(), "{command}: {errors}{printed}");
            assert_eq!(
                kinds_of_line(&printed),
                kinds_of_line(&shown),
                "{}: {command}\n{printed}",
                block.place
            );
        }
    }
    assert!(count >= 2, "{count}");
}

#[test]
fn what_differs_by_nature_is_masked_and_nothing_else() {
    let line = "  11:50:23  x   13708  curl  [::1]:42450  [::1]:80 http  4.5ms 69 out 1.3K in";
    assert_eq!(
        masked(line),
        "N x N curl [::1]:* [::1]:80 http N N out N in"
    );
    assert_eq!(masked("! 127.0.0.1:23 telnet"), "! 127.0.0.1:23 telnet");
    assert_ne!(masked("refused  no-telnet-out"), masked("ok 3ms"));
}
