//! Addresses that are not what they seem: NAT on this host, and the network stack in user
//! space of a rootless container. What a policy in force says of them, and what an exported
//! ruleset says.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use super::{Enforced, enter, expect_success, this_program};
use crate::{lab::Lab, process::say, report::Verdict, scenarios::places::enter_loopback_netns};

/// Where a server listens.
const SERVER: &str = "0.0.0.0:8080";
/// The address of a container's gateway, and of a neighbour.
const GATEWAY: &str = "192.0.2.1";

/// Where and how to connect.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    cgroup: String,
    /// For nft
    #[arg(long)]
    ruleset: Vec<PathBuf>,
    #[arg(long, value_enum)]
    who: Who,
}

/// For who gets no answer.
const ONE_RETRY: &str = "echo 1 > /proc/sys/net/ipv4/tcp_syn_retries";

/// Who connects, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Who {
    /// A program, to 198.51.100.9:80
    Program,
    /// The neighbour, to the server
    Neighbour,
    /// A container of pasta's, to its gateway
    Container,
}

/// In a network namespace of its own, which leads nowhere, starts a server and has somebody
/// connect; tells what came of it.
pub(crate) fn connect(args: &Args) -> Result<()> {
    enter(&args.cgroup)?;
    enter_loopback_netns()?;
    ip("link add name near type veth peer name far")?;
    ip("address add 192.0.2.5/24 dev near")?;
    ip("link set near up")?;
    for ruleset in &args.ruleset {
        run(Command::new("nft").arg("-f").arg(ruleset))?;
    }
    let _server = TcpListener::bind(SERVER).context("listen")?;
    say(match args.who {
        Who::Program => by_program()?,
        Who::Neighbour => by_neighbour()?,
        Who::Container => by_container()?,
    })
}

fn by_program() -> Result<&'static str> {
    ip("route add local 198.51.100.0/24 dev lo")?;
    match TcpStream::connect("198.51.100.9:80") {
        Ok(_) => Ok("connected"),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok("denied"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok("refused"),
        Err(error) => bail!("connect: {error}"),
    }
}

/// The other end of the cable is in another network namespace.
fn by_neighbour() -> Result<&'static str> {
    // For the address NAT makes of the neighbour's.
    ip(&format!("route add default via {GATEWAY}"))?;
    let mut neighbour = Command::new("unshare")
        .args(["--net", "bash", "-c"])
        .arg(format!(
            "echo ready; read; ip address add {GATEWAY}/24 dev far && ip link set far up && \
             {ONE_RETRY} && exec 3<>/dev/tcp/192.0.2.5/8080 && echo connected"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start a neighbour")?;
    let mut ready = [0; 6];
    let stdout = neighbour.stdout.as_mut().context("no stdout")?;
    stdout.read_exact(&mut ready)?;
    ip(&format!("link set far netns {}", neighbour.id()))?;
    let mut stdin = neighbour.stdin.take().context("no stdin")?;
    stdin.write_all(b"\n")?;
    told(&neighbour.wait_with_output()?)
}

/// pasta takes addresses and routes from an interface that has some.
fn by_container() -> Result<&'static str> {
    ip("link set far up")?;
    ip(&format!("route add default via {GATEWAY}"))?;
    // pasta does not answer where its own connection is refused.
    let output = Command::new("pasta")
        .args(["--runas", "0", "--config-net", "--", "bash", "-c"])
        .arg(format!(
            "{ONE_RETRY} && exec 3<>/dev/tcp/{GATEWAY}/8080 && echo connected"
        ))
        .output()
        .context("run pasta")?;
    told(&output)
}

/// What bash told of a connection.
fn told(output: &Output) -> Result<&'static str> {
    let error = String::from_utf8_lossy(&output.stderr);
    match &*output.stdout {
        b"connected\n" => Ok("connected"),
        _ if error.contains("Connection refused") => Ok("refused"),
        _ if error.contains("Connection timed out") => Ok("unanswered"),
        _ => bail!("{error}"),
    }
}

fn ip(words: &str) -> Result<()> {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    expect_success(&output).with_context(|| format!("{command:?}"))
}

/// What came of a connection.
fn outcome(lab: &Lab, who: &str, rulesets: &[&Path]) -> Result<String> {
    let mut child = this_program()?;
    child
        .args(["translated", "--cgroup", &lab.cgroups.held()])
        .args(["--who", who]);
    for ruleset in rulesets {
        child.arg("--ruleset").arg(ruleset);
    }
    let output = child.output().context("start one who connects")?;
    expect_success(&output)?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn policy(rules: &str) -> String {
    format!("version = 1\nmode = \"enforce\"\n{rules}")
}

fn rule(name: &str, direction: &str, action: &str, conditions: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ndirection = \"{direction}\"\naction = \"{action}\"\n{conditions}\n"
    )
}

/// NAT, and the two addresses of one connection through it.
struct Nat {
    chain: &'static str,
    who: &'static str,
    /// Of a rule that names the address programs see.
    seen: [&'static str; 2],
    /// Of one that names the address NAT made of it, or made it of.
    unseen: [&'static str; 2],
    /// What a policy in force does to a connection it denies.
    denied: &'static str,
}

const NATS: [Nat; 2] = [
    Nat {
        chain: "type nat hook output priority -100; ip daddr 198.51.100.9 tcp dport 80 redirect to :8080",
        who: "program",
        seen: ["out", "to = \"198.51.100.9\"\nport = 80"],
        unseen: ["out", "to = \"127.0.0.0/8\"\nport = 8080"],
        denied: "denied",
    },
    Nat {
        chain: "type nat hook input priority 100; tcp dport 8080 snat ip to 198.51.100.7",
        who: "neighbour",
        seen: ["in", "from = \"198.51.100.7\"\nport = 8080"],
        unseen: ["in", "from = \"192.0.2.1\"\nport = 8080"],
        // One cgroup's policy does not answer: in it is who would.
        denied: "unanswered",
    },
];

/// A policy judges the addresses programs see, and its export does too. The same rules at
/// the usual priority of a filter judge the others.
pub(crate) fn is_seen_through(lab: &Lab) -> Result<Verdict> {
    for nat in &NATS {
        let file = lab.new_path("nft");
        fs::write(
            &file,
            format!("table inet nat {{\nchain c {{\n{}\n}}\n}}\n", nat.chain),
        )?;
        let without = outcome(lab, nat.who, &[&file])?;
        ensure!(without == "connected", "{without} without a policy");
        for (names, is_denied) in [(nat.seen, true), (nat.unseen, false)] {
            let [direction, conditions] = names;
            let policy = policy(&rule("r", direction, "deny", conditions));
            let in_force = {
                let _enforced = Enforced::new(lab, &policy)?;
                outcome(lab, nat.who, &[&file])?
            };
            let ruleset = exported(lab, &policy)?;
            let at_filter = moved(lab, &ruleset)?;
            let [exported, at_filter] =
                [ruleset, at_filter].map(|ruleset| outcome(lab, nat.who, &[&file, &ruleset]));
            let outcomes = [in_force, exported?, at_filter?];
            let expected = if is_denied {
                [nat.denied, "refused", "connected"]
            } else {
                ["connected", "connected", "refused"]
            };
            ensure!(
                outcomes == expected,
                "{outcomes:?}, not {expected:?}: {}: {policy}",
                nat.chain
            );
        }
    }
    Ok(Verdict::pass())
}

/// The policy for nft.
fn exported(lab: &Lab, policy: &str) -> Result<PathBuf> {
    let [path, ruleset] = ["toml", "nft"].map(|kind| lab.new_path(kind));
    fs::write(&path, policy)?;
    let output = Command::new(&lab.program)
        .args(["policy", "export", "nft", "--policy"])
        .arg(&path)
        .output()?;
    expect_success(&output)?;
    fs::write(&ruleset, &output.stdout)?;
    Ok(ruleset)
}

/// These rules, in chains at the usual priority.
fn moved(lab: &Lab, ruleset: &Path) -> Result<PathBuf> {
    let mut text = fs::read_to_string(ruleset)?;
    for priority in ["priority 110;", "priority mangle;"] {
        ensure!(text.contains(priority), "no {priority} in {text}");
        text = text.replace(priority, "priority filter;");
    }
    let path = lab.new_path("nft");
    fs::write(&path, text)?;
    Ok(path)
}

/// What a rootless container sends to its gateway, pasta sends to this host's loopback: the
/// default spares it there, a rule for pasta or `loopback = "filter"` does not.
pub(crate) fn reaches_loopback_by_pasta(lab: &Lab) -> Result<Verdict> {
    let default = |loopback| {
        let default = format!("action = \"deny\", loopback = \"{loopback}\"");
        format!("[default]\noutbound = {{ {default} }}\n")
    };
    let allows_gateway = rule("gateway", "out", "allow", &format!("to = \"{GATEWAY}\""));
    // It goes on as another file where the processor has AVX2.
    let programs = ["/usr/bin/passt", "/usr/bin/passt.avx2"];
    let programs: Vec<_> = programs
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    let closed = format!("exe = {programs:?}\nto = [\"127.0.0.0/8\", \"::1\"]");
    let closing = rule("pasta", "out", "deny", &closed);
    for (rules, decides, expected) in [
        (
            default("allow") + &allows_gateway,
            "default, loopback",
            "connected",
        ),
        (
            default("allow") + &closing + &allows_gateway,
            "pasta",
            "unanswered",
        ),
        (
            default("filter") + &allows_gateway,
            "default outbound",
            "unanswered",
        ),
    ] {
        let enforced = Enforced::new(lab, &policy(&rules))?;
        let outcome = outcome(lab, "container", &[])?;
        ensure!(outcome == expected, "{outcome}, not {expected}: {rules}");
        for decides in ["gateway", decides] {
            ensure!(
                enforced.hits(decides)? > 0,
                "{decides} did not decide: {rules}"
            );
        }
    }
    Ok(Verdict::pass())
}
