//! What a verdict costs: ours by the number of rules, nftables' beside it, and the
//! least it can cost.

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rustix::{io::Errno, net::connect};

use super::{
    Bench, Row,
    cost::{CONNECTIONS, SETTLE},
    each,
    tool::{Running, Subject, Tool},
};
use crate::{
    bpf,
    enforce::{Enforced, expect_success},
    flood,
    socket::{Refusing, V4, open},
};

/// No rule is about a port that the kernel would choose for a listener.
const FIRST_PORT: u16 = 20_000;
const LIMIT: &str = "/bench/limit.bpf.o";

/// What holds connects to something.
#[derive(Clone, Copy, Debug)]
enum Held {
    Free,
    Policy(u16),
    /// A policy with so many rules, and one about inbound connections.
    Inbound(u16),
    List(u16),
    Set(u16),
    /// A set of so many ports, asked at input.
    InputSet(u16),
    C(&'static str),
}

const SUBJECTS: [(&str, Held); 21] = [
    ("none", Held::Free),
    ("C empty", Held::C("verdict-empty")),
    ("C hash", Held::C("verdict-hash")),
    ("C limit", Held::C("verdict-full")),
    ("0 rules", Held::Policy(0)),
    ("1 rule", Held::Policy(1)),
    ("10 rules", Held::Policy(10)),
    ("100 rules", Held::Policy(100)),
    ("1,000 rules", Held::Policy(1_000)),
    ("1,024 rules", Held::Policy(1_024)),
    (WITH_INBOUND, Held::Inbound(1_000)),
    ("none again", Held::Free),
    ("nft list 0", Held::List(0)),
    ("nft list 1", Held::List(1)),
    ("nft list 10", Held::List(10)),
    ("nft list 100", Held::List(100)),
    ("nft list 1,000", Held::List(1_000)),
    ("nft set 1", Held::Set(1)),
    ("nft set 100", Held::Set(100)),
    ("nft set 1,000", Held::Set(1_000)),
    (INPUT_SET, Held::InputSet(1_000)),
];

/// What its goals are about, of the subjects that have programs.
const QUICK: [&str; 4] = ["C empty", "C limit", "1,000 rules", WITH_INBOUND];
const WITH_INBOUND: &str = "1,000 rules, one inbound";
const INPUT_SET: &str = "nft input set 1,000";

/// What an established connection carries: bytes one way, and a request and its answer again and
/// again.
const CARRIED: usize = 64 << 20;
const REQUESTS: u64 = 20_000;

/// Rules that deny connects to ports nobody connects to, in some network.
fn policy(rules: u16) -> String {
    let mut text = "version = 1\nmode = \"enforce\"\n".to_owned();
    for port in (FIRST_PORT..).take(rules.into()) {
        let _ = write!(
            text,
            "[[rule]]\nname = \"r{port}\"\ndirection = \"out\"\naction = \"deny\"\nport = \
             {port}\nto = \"127.0.0.0/8\"\n"
        );
    }
    text
}

/// A rule that denies what nobody tries to come in by.
const INBOUND: &str =
    "[[rule]]\nname = \"inbound\"\ndirection = \"in\"\naction = \"deny\"\nport = 19999\n";

fn ruleset(held: Held) -> String {
    let mut text = "flush ruleset\n".to_owned();
    let hook = if matches!(held, Held::InputSet(_)) {
        "input"
    } else {
        "output"
    };
    let chain = format!("chain o {{\ntype filter hook {hook} priority 0;\n");
    let ports = |count: u16| (FIRST_PORT..).take(count.into());
    match held {
        Held::List(count) => {
            let _ = writeln!(text, "table inet t {{\n{chain}");
            for port in ports(count) {
                let _ = writeln!(text, "tcp dport {port} drop");
            }
            text.push_str("}\n}\n");
        }
        Held::Set(count) | Held::InputSet(count) => {
            let all: Vec<_> = ports(count).map(|port| port.to_string()).collect();
            let all = all.join(", ");
            let _ = writeln!(
                text,
                "table inet t {{\nset s {{ type inet_service; elements = {{ {all} }} }}\n{chain}tcp \
                 dport @s drop\n}}\n}}"
            );
        }
        Held::Free | Held::Policy(_) | Held::Inbound(_) | Held::C(_) => {}
    }
    text
}

/// Holds connects to what the subject says, for as long as this lives.
#[derive(Debug)]
enum Holding<'l> {
    Nothing,
    Policy(Enforced<'l>),
    Rules(PathBuf),
    Program(Running),
}

impl<'l> Holding<'l> {
    fn new(bench: &'l Bench, held: Held) -> Result<Self> {
        Ok(match held {
            Held::Free => Self::Nothing,
            Held::Policy(rules) => Self::Policy(Enforced::new(&bench.lab, &policy(rules))?),
            Held::Inbound(rules) => {
                let text = policy(rules - 1) + INBOUND;
                Self::Policy(Enforced::new(&bench.lab, &text)?)
            }
            Held::List(_) | Held::Set(_) | Held::InputSet(_) => {
                let path = bench.lab.new_path("nft");
                fs::write(&path, ruleset(held))?;
                nft(&path)?;
                let nothing = bench.lab.new_path("nft");
                fs::write(&nothing, ruleset(Held::Free))?;
                Self::Rules(nothing)
            }
            Held::C(what) => {
                let subject = Subject::new(what, Tool::C(what, LIMIT));
                Self::Program(subject.start(bench)?.context("nobody")?)
            }
        })
    }

    fn end(self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Policy(enforced) => {
                drop(enforced);
                Ok(())
            }
            Self::Rules(nothing) => nft(&nothing),
            Self::Program(running) => running.stop().map(drop),
        }
    }
}

fn nft(path: &PathBuf) -> Result<()> {
    let output = Command::new("nft")
        .arg("-f")
        .arg(path)
        .stdin(Stdio::null())
        .output();
    expect_success(&output.context("run nft")?)
}

/// Connects under each, none of which is denied, and one that is.
pub(super) fn measure(bench: &Bench) -> Result<()> {
    for run in 0..bench.runs {
        for (name, held) in SUBJECTS {
            connects(bench, run, name, held)?;
        }
    }
    for run in 0..bench.runs {
        program_time(bench, run, &SUBJECTS)?;
    }
    for run in 0..bench.runs {
        refused(bench, run)?;
    }
    for run in 0..bench.runs {
        requests(bench, run)?;
        bulk(bench, run)?;
    }
    Ok(())
}

/// What repeats from boot to boot, and goals are about.
pub(super) fn measure_quickly(bench: &Bench) -> Result<()> {
    let subjects = SUBJECTS.map(|subject| QUICK.contains(&subject.0).then_some(subject));
    let subjects: Vec<_> = subjects.into_iter().flatten().collect();
    for run in 0..bench.runs {
        program_time(bench, run, &subjects)?;
        requests(bench, run)?;
    }
    Ok(())
}

fn connects(bench: &Bench, run: u32, name: &str, held: Held) -> Result<()> {
    thread::sleep(SETTLE);
    let holding = Holding::new(bench, held)?;
    flood::connect(&flood::Args::of_one_thread(20))?;
    let begin = Instant::now();
    let connections = flood::connect(&flood::Args::of_one_thread(CONNECTIONS))?;
    let elapsed = u64::try_from(begin.elapsed().as_nanos())?;
    let row = Row {
        group: "connect",
        subject: name,
        run,
    };
    row.tell("per connection", "instructions", each(elapsed, connections))?;
    holding.end().with_context(|| name.to_owned())
}

/// Under whom a connection is open where what comes in is judged.
const OPEN: [(&str, Held); 3] = [
    ("none", Held::Free),
    (WITH_INBOUND, Held::Inbound(1_000)),
    (INPUT_SET, Held::InputSet(1_000)),
];

/// Requests and answers of a connection that is open already.
fn requests(bench: &Bench, run: u32) -> Result<()> {
    established(bench, run, "per request", |mut client, mut server| {
        for _ in 0..REQUESTS {
            let mut message = [1; 64];
            client.write_all(&message)?;
            server.read_exact(&mut message)?;
            server.write_all(&message)?;
            client.read_exact(&mut message)?;
        }
        Ok(REQUESTS)
    })
}

/// Bytes of a connection that is open already, one way.
fn bulk(bench: &Bench, run: u32) -> Result<()> {
    established(bench, run, "per KiB", |mut client, mut server| {
        let writer = thread::spawn(move || {
            let portion = vec![1; 64 << 10];
            (0..CARRIED / portion.len()).try_for_each(|_| client.write_all(&portion))
        });
        let mut portion = vec![0; 64 << 10];
        let mut carried = 0;
        while carried < CARRIED {
            carried += server.read(&mut portion)?;
        }
        writer.join().ok().context("the writer panicked")??;
        Ok(CARRIED as u64 >> 10)
    })
}

/// What it costs that `carry` uses both ends of a connection; it says how often.
fn established(
    bench: &Bench,
    run: u32,
    metric: &str,
    carry: impl Fn(TcpStream, TcpStream) -> Result<u64>,
) -> Result<()> {
    for (subject, held) in OPEN {
        thread::sleep(SETTLE);
        let holding = Holding::new(bench, held)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let begin = Instant::now();
        let count = carry(client, server)?;
        let elapsed = u64::try_from(begin.elapsed().as_nanos())?;
        let row = Row {
            group: "established",
            subject,
            run,
        };
        row.tell(metric, "instructions", each(elapsed, count))?;
        holding.end()?;
    }
    Ok(())
}

/// The time of the programs alone, by the kernel's own measure: of the one that decides at each
/// connect, and of those that judge what comes in.
fn program_time(bench: &Bench, run: u32, subjects: &[(&'static str, Held)]) -> Result<()> {
    for &(subject, held) in subjects {
        if matches!(
            held,
            Held::Free | Held::List(_) | Held::Set(_) | Held::InputSet(_)
        ) {
            continue;
        }
        let holding = Holding::new(bench, held)?;
        let measuring = bpf::measure()?;
        let connections = flood::connect(&flood::Args::of_one_thread(CONNECTIONS))?;
        let programs = bpf::programs(&bpf::all()?)?;
        drop(measuring);
        let time = |names: &[&str]| {
            let those = programs.iter().filter(|program| {
                names.iter().any(|name| program.name.starts_with(name)) && program.runs > 0
            });
            those.fold((0, 0), |(time_ns, runs), program| {
                (time_ns + program.run_time_ns, runs + program.runs)
            })
        };
        let row = Row {
            group: "connect",
            subject,
            run,
        };
        let (time_ns, runs) = time(&["pm_connect4", "limit_"]);
        row.tell("BPF time per connect", "instructions", each(time_ns, runs))?;
        let (time_ns, runs) = time(&["pm_ingress", "pm_lookup", "pm_unlisted"]);
        if runs > 0 {
            let per_connection = each(time_ns, connections);
            row.tell("BPF time of inbound", "instructions", per_connection)?;
            row.tell("runs of inbound", "", each(runs, connections))?;
        }
        holding.end()?;
    }
    Ok(())
}

/// A connect that is refused: by a policy, and where nobody listens.
fn refused(bench: &Bench, run: u32) -> Result<()> {
    let port = Refusing::new(V4)?;
    let denied = format!(
        "version = 1\nmode = \"enforce\"\n[[rule]]\nname = \"r\"\ndirection = \"out\"\naction = \
         \"deny\"\nport = {}\n",
        port.at.port()
    );
    let policies = [("closed port", None), ("denied", Some(denied))];
    for (name, policy) in policies {
        let enforced = policy
            .map(|policy| Enforced::new(&bench.lab, &policy))
            .transpose()?;
        let expected = if enforced.is_some() {
            Errno::PERM
        } else {
            Errno::CONNREFUSED
        };
        let begin = Instant::now();
        for _ in 0..CONNECTIONS {
            match connect(&open(V4)?, &port.at) {
                Err(error) if error == expected => {}
                other => bail!("{name}: {other:?}"),
            }
        }
        let elapsed = u64::try_from(begin.elapsed().as_nanos())?;
        let row = Row {
            group: "refused",
            subject: name,
            run,
        };
        row.tell("per connection", "instructions", each(elapsed, CONNECTIONS))?;
    }
    Ok(())
}
