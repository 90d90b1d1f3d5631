//! `policy test`: connections made up in a file, and what is expected of each.

use std::{
    io::{self, Write},
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use port_monitor_common::policy::{Direction, Transport, Verdict};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{
    Dir, Executable, FileArgs, TransportArg, expect_apart, explained::ReasonReport, json_line,
};
use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::{load::load, told::written},
    host::users,
    policy::{
        Environment as _, Explanation, Facts, FileError, Host, Policy, Reason, read_bytes,
        text::{problem::Problem, toml_1_0},
    },
    ports::services::{self, closest},
};

/// The file's name where none is given, beside the policy.
const DEFAULT_NAME: &str = "policy.test.toml";

/// What a case calls the default where a rule has its name.
const DEFAULT: &str = "default";

/// More cases than anybody writes by hand.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    #[serde(default)]
    case: Vec<Spanned<Case>>,
}

/// A connection, and what the policy is to say of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    name: String,
    direction: Dir,
    #[serde(default)]
    proto: TransportArg,
    /// Left out, and only then, of what listens.
    peer: Option<String>,
    port: Port,
    user: Option<User>,
    unit: Option<String>,
    cgroup: Option<String>,
    exe: Option<PathBuf>,
    /// The kernel itself acts.
    #[serde(default)]
    kernel: bool,
    #[serde(default)]
    peer_is_self: bool,
    expect: Expect,
    /// The rule that is to decide, or [`DEFAULT`].
    rule: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a port or the name of a service")]
enum Port {
    /// 0 is one that is not known, as `explain` takes it.
    Number(i64),
    Service(String),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a user name or a uid")]
enum User {
    Id(i64),
    Name(String),
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

impl Expect {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// The answer of `policy test`.
#[derive(Serialize)]
struct Report {
    cases: usize,
    as_expected: usize,
    failures: Vec<FailureReport>,
}

/// A case that did not come out as expected.
#[derive(Serialize)]
pub(super) struct FailureReport {
    name: String,
    file: String,
    line: usize,
    expected: &'static str,
    expected_rule: Option<String>,
    decided: &'static str,
    decided_by: ReasonReport,
}

/// Runs the cases; exit code 1 if one does not come out as expected.
pub(super) fn run(
    policy: &FileArgs,
    cases: Option<&Path>,
    out: impl Write,
) -> Result<ExitCode, Failure> {
    let path = cases.map_or_else(|| policy.path.with_file_name(DEFAULT_NAME), Path::to_owned);
    expect_apart(&policy.path, &path)?;
    let compiled = load(&policy.path)?;
    let text = read(&path)?;
    let cases = parse(&path, &text)?;
    let mut report = Report {
        cases: cases.len(),
        as_expected: 0,
        failures: Vec::new(),
    };
    for case in &cases {
        let line = line_of(&text, case.span().start);
        let failure = try_case(case.get_ref(), &compiled, &policy.path)
            .map_err(|error| Failure::usage(format!("{}:{line}: {error}", path.display())))?;
        match failure {
            Some(failure) => report.failures.push(FailureReport {
                file: path.display().to_string(),
                line,
                ..failure
            }),
            None => report.as_expected += 1,
        }
    }
    written(if policy.json {
        json_line(&report, out)
    } else {
        report.write(&path, out)
    })?;
    Ok(if report.failures.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Violation
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let refuse = |error: &dyn std::fmt::Display| {
        Failure::usage(format!("read cases from {}: {error}", path.display()))
    };
    let bytes = read_bytes(path, MAX_BYTES).map_err(|error| match error {
        FileError::Missing => refuse(&"no such file (name one with --cases)"),
        FileError::Directory => refuse(&"is a directory, not a file with cases"),
        FileError::TooLarge => refuse(&"more than 1 MiB"),
        error => refuse(&error),
    })?;
    String::from_utf8(bytes).map_err(|_| refuse(&"is not text"))
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Spanned<Case>>, Failure> {
    let refuse = |start: usize, problem: &str| {
        let line = line_of(text, start);
        let problem = problem.replace('\n', "; ");
        Failure::usage(format!("{}:{line}: {problem}", path.display()))
    };
    let (_, problems) = toml_1_0::parse(text);
    if let Some((place, problem)) = problems.first() {
        return Err(refuse(place.start, &problem.with_help()));
    }
    let cases: Cases = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        refuse(start, error.message())
    })?;
    if cases.case.is_empty() {
        let path = path.display();
        return Err(Failure::usage(format!(
            "{path}: no [[case]] in it, so nothing would be tested"
        )));
    }
    Ok(cases.case)
}

/// Counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    before.filter(|&&byte| byte == b'\n').count() + 1
}

/// What differs from what is expected; the file and line are left open. The error
/// says what is wrong with the case itself.
pub(super) fn try_case(
    case: &Case,
    policy: &Policy,
    policy_path: &Path,
) -> Result<Option<FailureReport>, String> {
    let direction = case.direction.into();
    let peer = match (direction, &case.peer) {
        (Direction::Listen, None) => Ipv6Addr::UNSPECIFIED.into(),
        (Direction::Inbound | Direction::Outbound, Some(peer)) => super::address(peer)?,
        (Direction::Listen, Some(_)) => return Err("what listens has no `peer`".to_owned()),
        _ => return Err("`peer` is missing".to_owned()),
    };
    let user = case.user.as_ref().map(uid).transpose()?;
    if case.kernel && (case.unit.is_some() || case.exe.is_some()) {
        let problem = "the kernel itself has no `unit` and no `exe`: give its `cgroup`, if any";
        return Err(problem.to_owned());
    }
    let unit = case.unit.as_deref().map(|unit| super::unit(unit, &Host));
    let cgroup = case.cgroup.as_deref();
    let cgroup = cgroup.map(|cgroup| super::cgroup(cgroup, &Host));
    let (unit, cgroup) = (unit.transpose()?, cgroup.transpose()?);
    let path = case.exe.as_deref().map(absolute).transpose()?;
    let exe = path.map(|path| {
        let exe = Executable::at(path, &Host);
        exe.note(path);
        exe
    });
    expect_known(case.rule.as_deref(), policy)?;
    let transport = case.proto.into();
    let port = port(&case.port, policy, transport)?;
    let explanation = policy.explain(&Facts {
        peer_is_self: case.peer_is_self,
        uid: user,
        unit: unit.as_deref(),
        cgroup: cgroup.as_deref(),
        exe: exe.as_ref().map(|exe| &*exe.path),
        exe_id: exe.as_ref().and_then(Executable::id),
        is_kernel: case.kernel,
        now_ns: Host.now_ns(),
        ..Facts::new(direction, transport, port, peer)
    });
    let decided = decided(&explanation);
    let by = match &explanation.reason {
        Reason::Rule(rule) => &*rule.name,
        Reason::Default(_) | Reason::Loopback | Reason::Kernel | Reason::Unjudged => DEFAULT,
    };
    // No rule is called as the default is, in whatever letters.
    let is_meant = |rule: &str| match by {
        DEFAULT => rule.eq_ignore_ascii_case(DEFAULT),
        by => rule == by,
    };
    if decided == case.expect && case.rule.as_deref().is_none_or(is_meant) {
        return Ok(None);
    }
    Ok(Some(FailureReport {
        name: case.name.clone(),
        file: String::new(),
        line: 0,
        expected: case.expect.word(),
        expected_rule: case.rule.clone(),
        decided: decided.word(),
        decided_by: ReasonReport::of(&explanation.reason, direction, policy_path),
    }))
}

/// As in a policy: whatever directory the program is run in.
fn absolute(exe: &Path) -> Result<&Path, String> {
    if exe.is_absolute() {
        return Ok(exe);
    }
    Err(Problem::RelativePath(exe.display().to_string()).to_string())
}

/// A case that expects a rule which the policy does not have could never come out.
fn expect_known(rule: Option<&str>, policy: &Policy) -> Result<(), String> {
    let Some(rule) = rule.filter(|rule| !rule.eq_ignore_ascii_case(DEFAULT)) else {
        return Ok(());
    };
    if policy.rule_names().any(|name| name == rule) {
        return Ok(());
    }
    let help = closest(rule, policy.rule_names().chain([DEFAULT])).map_or_else(
        || format!("name one of its rules, or `{DEFAULT}`"),
        |nearest| format!("did you mean `{nearest}`?"),
    );
    let rule = rule.escape_debug();
    Err(format!("the policy has no rule `{rule}`: {help}"))
}

/// Text is a name and a number is a uid, as in a policy.
fn uid(user: &User) -> Result<u32, String> {
    let name = match user {
        User::Id(id) => {
            let uid = u32::try_from(*id).ok().filter(|&uid| uid != u32::MAX);
            return uid.ok_or_else(|| Problem::UidOutOfRange(id.to_string()).to_string());
        }
        User::Name(name) => name,
    };
    users::uid_of_name(name).ok_or_else(|| {
        let names = users::names();
        let problem = Problem::UnknownUser {
            name: name.clone(),
            nearest: closest(name, names.iter().map(String::as_str)).map(str::to_owned),
        };
        problem.with_help()
    })
}

const fn decided(explanation: &Explanation) -> Expect {
    match explanation.verdict {
        Verdict::Allow => Expect::Allow,
        Verdict::Deny | Verdict::AuditDeny => Expect::Deny,
    }
}

/// A service must have one port, or the case would not say which it means.
fn port(port: &Port, policy: &Policy, transport: Transport) -> Result<u16, String> {
    let name = match port {
        Port::Number(number) => {
            let port = u16::try_from(*number);
            return port.map_err(|_| format!("port {number} is not between 0 and 65535"));
        }
        Port::Service(name) => name,
    };
    let own = policy.service_ports(name, transport);
    let ports = own.unwrap_or_else(|| services::ports_named(name).collect());
    match *ports {
        [port] => Ok(port),
        [] => {
            let help = services::suggest(name).map_or_else(String::new, |nearest| {
                format!(": did you mean `{nearest}`?")
            });
            Err(format!("unknown service `{}`{help}", name.escape_debug()))
        }
        _ => Err(format!(
            "`{name}` has the ports {ports:?}: give one of them"
        )),
    }
}

impl Report {
    fn write(&self, path: &Path, mut out: impl Write) -> io::Result<()> {
        for failure in &self.failures {
            let rule = failure.expected_rule.as_ref();
            let expected = rule.map_or_else(
                || failure.expected.to_owned(),
                |rule| format!("{} by {rule}", failure.expected),
            );
            writeln!(
                out,
                "{}:{}: {}: expected {expected}, decided by {}",
                failure.file,
                failure.line,
                failure.name.escape_debug(),
                failure.decided_by.text()
            )?;
        }
        writeln!(
            out,
            "{}: {} of {} as expected",
            path.display(),
            self.as_expected,
            self.cases
        )
    }
}
