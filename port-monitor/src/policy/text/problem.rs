//! Everything that can be wrong with the text of a policy, in words.

use std::borrow::Cow;

use port_monitor_common::policy::MAX_RULES;
use thiserror::Error;

use super::newer::Newer;
use crate::{
    base::duration::DurationError,
    policy::limits::{MAX_NETWORKS, TooMany},
    ports::services::closest,
};

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy holds, but probably not as meant.
    Warning,
}

/// One thing wrong with a policy. The text says what; [`Problem::help`] says
/// what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// The TOML parser's own words.
    #[error("{0}")]
    Syntax(String),
    /// A backslash in a basic string with nothing behind it that makes an escape.
    #[error("`{}` is no escape", .0)]
    NoEscape(String),
    /// Syntax of TOML 1.1.
    #[error("{} is TOML 1.1, and this file is TOML 1.0", .0.what())]
    NewerToml(Newer),
    /// A key this table does not have.
    #[error("unknown key `{}`", key.escape_debug())]
    UnknownKey {
        /// As written.
        key: String,
        /// The keys of the table.
        known: &'static [&'static str],
    },
    /// A key that policies may have one day.
    #[error("`{key}` is not supported in this version: {reason}")]
    Unsupported {
        /// As written.
        key: &'static str,
        /// Why, and what to use.
        reason: &'static str,
    },
    /// A key that must be there.
    #[error("`{0}` is missing")]
    MissingKey(&'static str),
    /// A value of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the key takes.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A word that is none of the choices.
    #[error("expected {}, found `{}`", choices.join(" or "), value.escape_debug())]
    NotAChoice {
        /// As written.
        value: String,
        /// What the key takes.
        choices: Vec<Cow<'static, str>>,
    },
    /// A value that a flag of the command line refuses too, in the words it does that in.
    #[error("{0}")]
    Flag(String),
    /// A list without entries.
    #[error("empty list matches nothing")]
    EmptyList,
    /// A policy for another program version.
    #[error("unknown version {0}, this program reads version 1")]
    Version(String),
    /// A port that does not exist.
    #[error("port {0} is not between 1 and 65535")]
    PortOutOfRange(String),
    /// A range whose end lies before its start.
    #[error("port range {first}-{last} runs backwards")]
    ReversedRange {
        /// As written.
        first: u16,
        /// As written.
        last: u16,
    },
    /// Text that is no port.
    #[error("`{}` is neither a port, a range such as \"8000-8100\" nor a class", .0.escape_debug())]
    NotAPort(String),
    /// A service name in place of a port.
    #[error("`{0}` is a service, not a port")]
    ServiceAsPort(String),
    /// An entry of `[services]` without its transport.
    #[error("`{}` is not a port with its transport", .0.escape_debug())]
    NotAServicePort(String),
    /// A service neither the policy nor the registry has.
    #[error("unknown TCP service `{}`", name.escape_debug())]
    UnknownService {
        /// As written.
        name: String,
        /// A name that is close.
        nearest: Option<String>,
    },
    /// Both ways to say which port.
    #[error("`service` and `port` in one rule")]
    ServiceAndPort,
    /// `from` on an outbound rule, or `to` on an inbound one.
    #[error("`{key}` does not apply where direction is \"{direction}\"")]
    WrongSide {
        /// As written.
        key: &'static str,
        /// The rule's.
        direction: &'static str,
        /// The key that does.
        instead: Option<&'static str>,
    },
    /// Text that is no address.
    #[error("`{}` is neither an address nor a CIDR", .0.escape_debug())]
    NotANetwork(String),
    /// A number of an address or a prefix length with a zero before it.
    #[error("`{}` has a number that begins with 0, which some programs read as octal", .0.escape_debug())]
    LeadingZero(String),
    /// An address of one interface.
    #[error("`{}` names an interface, and rules do not ask for one", .0.escape_debug())]
    Zone(String),
    /// The address that stands for any, as a peer.
    #[error("`{}` is judged as {judged}, which is what a connection to it reaches", text.escape_debug())]
    Unspecified {
        /// As written.
        text: String,
        /// The address it leads to.
        judged: String,
    },
    /// IPv4 as a network of IPv6.
    #[error("`{}` means all of IPv4", .0.escape_debug())]
    AllOfIpv4(String),
    /// A network of NAT64 that holds no address anybody reaches by it.
    #[error(
        "`{}` matches no connection through NAT64: that is judged by the IPv4 address it leads to",
        .0.escape_debug()
    )]
    Nat64Never(String),
    /// A network of NAT64 that is one of IPv4.
    #[error(
        "`{}` means {judged}, reached through NAT64 or straight",
        cidr.escape_debug()
    )]
    Nat64AsIpv4 {
        /// As written.
        cidr: String,
        /// The network of IPv4.
        judged: String,
    },
    /// A network around NAT64's.
    #[error(
        "`{}` matches nothing that NAT64 carries: such a connection is judged by the IPv4 \
         address it leads to",
        .0.escape_debug()
    )]
    Nat64Without(String),
    /// A file with networks that cannot be read.
    #[error("{path}: {error}")]
    ListFile {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// A file without a network.
    #[error("{0} has no network")]
    EmptyListFile(String),
    /// What is not told of a file one by one.
    #[error("{path} has {more} more like the last")]
    MoreInList {
        /// The file.
        path: String,
        /// How many.
        more: usize,
    },
    /// What is not told of a list one by one.
    #[error("{0} more of this list are like one of those told")]
    MoreInRule(usize),
    /// What is not told of a policy one by one.
    #[error("there are {0} more errors from here on: mend those above first")]
    MoreErrors(usize),
    /// More networks than the tables hold.
    #[error("{0} different networks are more than the {MAX_NETWORKS} a policy may have")]
    TooManyNetworks(usize),
    /// A rule whose networks hold nothing that NAT64 translates, and nothing else that it
    /// could be for.
    #[error("rule `{name}` matches no connection through NAT64, which its networks are for")]
    NoPeer {
        /// The rule's.
        name: String,
    },
    /// Text that is no peer.
    #[error("`{}` is neither a network of this policy, an address, a CIDR nor `self`", text.escape_debug())]
    NotAPeer {
        /// As written.
        text: String,
        /// A network's name that is close.
        nearest: Option<String>,
    },
    /// A CIDR with a bad prefix length.
    #[error("`{}`: prefix length is not between 0 and {longest}", cidr.escape_debug())]
    PrefixTooLong {
        /// As written.
        cidr: String,
        /// For this family.
        longest: u8,
    },
    /// A CIDR whose address is not the first of its network.
    #[error("`{cidr}` has bits set beyond its prefix")]
    HostBits {
        /// As written.
        cidr: String,
        /// What was probably meant.
        network: String,
    },
    /// A user this host does not have.
    #[error("unknown user `{}`", name.escape_debug())]
    UnknownUser {
        /// As written.
        name: String,
        /// A name that is close.
        nearest: Option<String>,
    },
    /// A number that is no uid.
    #[error("uid {0} is not between 0 and 4294967294")]
    UidOutOfRange(String),
    /// Text that names no unit, or one in which nothing runs.
    #[error("`{}` is not a unit name", .0.escape_debug())]
    NotAUnit(String),
    /// A unit this host does not have.
    #[error("no unit `{0}` on this host now")]
    UnknownUnit(String),
    /// A cgroup this host does not have.
    #[error("no cgroup `{}` on this host now", path.escape_debug())]
    UnknownCgroup {
        /// As written.
        written: String,
        /// As the kernel would spell it.
        path: String,
    },
    /// A cgroup by a name that the kernel has not for it.
    #[error("`{}` is taken for the cgroup `{}`", written.escape_debug(), path.escape_debug())]
    CgroupSpelling {
        /// As written.
        written: String,
        /// As the kernel spells it.
        path: String,
    },
    /// An executable that is not there.
    #[error("executable `{}`: {error}: the rule matches nothing until it is there", path.escape_debug())]
    NoExecutable {
        /// As written.
        path: String,
        /// Why it is not.
        error: String,
    },
    /// A path that does not start at the root.
    #[error("`{}` is not an absolute path", .0.escape_debug())]
    RelativePath(String),
    /// A name that does not fit in a column.
    #[error("`{}` is not a name", .0.escape_debug())]
    BadName(String),
    /// A name that reports have for something else.
    #[error(
        "a rule cannot be named `{0}`: reports and cases call what decides without a rule that"
    )]
    ReservedName(String),
    /// A name that an earlier rule has.
    #[error("rule name `{name}` is taken")]
    DuplicateName {
        /// As written.
        name: String,
        /// Where it was first.
        line: usize,
    },
    /// Two services whose names differ by case alone.
    #[error("service `{}` is there already: the names of services have no case", name.escape_debug())]
    DuplicateService {
        /// As written.
        name: String,
        /// Where it was first.
        line: usize,
    },
    /// Text that is no point in time.
    #[error("`{}` is not a point in time", .0.escape_debug())]
    NotATime(String),
    /// A time whose zone is unknown, or has another offset then.
    #[error("`{}` is no point in time: {reason}", time.escape_debug())]
    ZoneDisagrees {
        /// As written.
        time: String,
        /// What does not agree.
        reason: String,
    },
    /// Text that is no duration.
    #[error(transparent)]
    NotADuration(#[from] DurationError),
    /// A time within which nobody can show that he follows the policy, or none to wait for.
    #[error("`{}` is not within 3 s and 24 h", .0.escape_debug())]
    ExitTime(String),
    /// A rule whose time is over.
    #[error("rule `{name}` expired and matches nothing")]
    Expired {
        /// The rule's.
        name: String,
    },
    /// More rules than the decision can hold.
    #[error("{0} rules are more than the {MAX_RULES} a policy may have")]
    TooManyRules(usize),
    /// More of something than the kernel's tables hold.
    #[error("{0}")]
    TooMany(TooMany),
    /// Lists longer than the decision should search.
    #[error("its lists make more than {0} entries over all rules")]
    TooManyEntries(usize),
    /// An analysis that would take too long.
    #[error("too many rules overlap to tell whether all of them can decide")]
    NotAnalysed,
    /// A rule that never decides.
    #[error("rule `{name}` never decides: all it matches is covered by {by}")]
    Shadowed {
        /// The rule's.
        name: String,
        /// The rules before it that cover it, with their lines.
        by: String,
        /// A connection it matches and what decides it.
        witness: Option<String>,
    },
    /// A rule that loses some connections to one that says the opposite.
    #[error(
        "rule `{name}` loses a part of what it matches to `{earlier}`, which says the opposite"
    )]
    Overlap {
        /// The rule's.
        name: String,
        /// The rule before it.
        earlier: String,
        /// A connection both match and what decides it.
        witness: String,
    },
    /// A rule about UDP that is not judged.
    #[error(
        "rule `{name}` has no effect: UDP is judged only where this host sends it, and only if a \
         rule for `out` has `proto = \"udp\"`"
    )]
    NotWatched {
        /// The rule's.
        name: String,
    },
    /// A rule for inbound connections that asks for an executable.
    #[error(
        "rule `{name}` asks for the executable of an inbound connection: the monitor judges by \
         it, but `apply` refuses the policy"
    )]
    InboundExe {
        /// The rule's.
        name: String,
    },
    /// A rule whose services have other transports than it names.
    #[error("rule `{name}` has no effect: its services have no port of the transport it names")]
    NoPort {
        /// The rule's.
        name: String,
    },
    /// Rules that cannot deny anything, and no default that would.
    #[error("no {0} connection can break this policy: its rules only allow, and it has no default")]
    OnlyAllows(&'static str),
}

impl Problem {
    /// How bad it is.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::UnknownUnit(_)
            | Self::UnknownCgroup { .. }
            | Self::CgroupSpelling { .. }
            | Self::NoExecutable { .. }
            | Self::Unspecified { .. }
            | Self::AllOfIpv4(_)
            | Self::Nat64Never(_)
            | Self::Nat64AsIpv4 { .. }
            | Self::Nat64Without(_)
            | Self::MoreInList { .. }
            | Self::MoreInRule(_)
            | Self::Expired { .. }
            | Self::Overlap { .. }
            | Self::NotWatched { .. }
            | Self::InboundExe { .. }
            | Self::NoPort { .. }
            | Self::OnlyAllows(_)
            | Self::NotAnalysed => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// What to do about it, where the text alone does not say.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::UnknownKey { key, known } => Some(
                closest(key, known.iter().copied())
                    .map_or_else(|| format!("known here: {}", known.join(", ")), did_you_mean),
            ),
            Self::NotAChoice { value, choices } => {
                closest(value, choices.iter().map(|choice| &**choice)).map(did_you_mean)
            }
            Self::UnknownService {
                nearest: Some(nearest),
                ..
            }
            | Self::NotAPeer {
                nearest: Some(nearest),
                ..
            }
            | Self::UnknownUser {
                nearest: Some(nearest),
                ..
            }
            | Self::HostBits {
                network: nearest, ..
            } => Some(did_you_mean(nearest)),
            Self::UnknownUser { name, .. } if is_number(name) => Some(format!(
                "in quotes it is a name: `user = {name}` is the uid"
            )),
            Self::ReversedRange { first, last } => Some(format!("write \"{last}-{first}\"")),
            Self::DuplicateName { line, .. } | Self::DuplicateService { line, .. } => {
                Some(format!("first used in line {line}"))
            }
            Self::UnknownCgroup { written, path } if written != path => Some(format!(
                "`{}` is taken for it: a cgroup is named by its path below the mount point, as in \
                 /proc/PID/cgroup",
                written.escape_debug()
            )),
            Self::CgroupSpelling { path, .. } => Some(format!(
                "write \"{}\": a path below the mount point, as in /proc/PID/cgroup",
                path.escape_debug()
            )),
            Self::Shadowed { witness, .. } => witness.clone(),
            Self::Overlap { witness, .. } => Some(witness.clone()),
            Self::WrongSide {
                instead: Some(instead),
                ..
            } => Some(format!("the peer of such a rule is `{instead}`")),
            _ => self
                .help_from_elsewhere()
                .or_else(|| self.fixed_help().map(str::to_owned)),
        }
    }

    /// Of what other firewalls write: a range, a list, a transport, a number.
    fn help_from_elsewhere(&self) -> Option<String> {
        match self {
            Self::NotAPort(text) if is_range(text) => {
                Some(format!("write \"{}\"", text.replace(':', "-")))
            }
            Self::NotAPort(text) if text.contains(',') => {
                Some("write a list: [22, 80, \"8000-8100\"]".to_owned())
            }
            Self::NotAPort(text) if text.ends_with("/tcp") || text.ends_with("/udp") => {
                Some("the transport goes under `proto`".to_owned())
            }
            Self::UnknownService { name, .. } if name.contains(',') => {
                Some("write a list: [\"ssh\", \"https\"]".to_owned())
            }
            Self::UnknownService { name, .. } if is_number(name) => {
                Some("ports go under `port`".to_owned())
            }
            _ => None,
        }
    }

    /// What is wrong and what to do about it, in one line.
    pub fn with_help(&self) -> String {
        match self.help() {
            Some(help) => format!("{self}: {help}"),
            None => self.to_string(),
        }
    }

    fn fixed_help(&self) -> Option<&'static str> {
        match self {
            Self::MissingKey("version") => Some("start the file with `version = 1`"),
            Self::NewerToml(newer) => Some(newer.instead()),
            Self::NoEscape(_) => Some(
                "where the backslash is part of the text, write '\u{2026}' in single quotes, or \
                 `\\\\`; an escape is one of \\b \\t \\n \\f \\r \\\" \\\\ \\uHHHH \\UHHHHHHHH",
            ),
            Self::EmptyList => Some("leave the key out, or give it an entry"),
            Self::NotAPort(_) => Some("classes are well-known, registered, dynamic"),
            Self::ServiceAsPort(_) => Some("names go under `service`"),
            Self::NotAServicePort(_) => Some("write \"5432/tcp\" or \"8000-8100/udp\""),
            Self::UnknownService { .. } => Some("define it under [services]"),
            Self::ServiceAndPort => Some("keep one of them, or write two rules"),
            Self::LeadingZero(_) => Some("write the numbers without it"),
            Self::Zone(_) => Some("leave out the `%` and what follows it"),
            Self::AllOfIpv4(_) => Some("write 0.0.0.0/0 if that is meant, else leave it out"),
            Self::Nat64Never(_) | Self::Nat64Without(_) => {
                Some("write the networks of IPv4 that are meant, 0.0.0.0/0 for all of them")
            }
            Self::ListFile { .. } => Some("the path is relative to the policy's directory"),
            Self::EmptyListFile(_) => Some("one that is being written is not applied"),
            Self::TooManyNetworks(_) => {
                Some("those within others and those that touch count as one")
            }
            Self::NoPeer { .. } => Some("write networks that can match, or delete the rule"),
            Self::UnknownUser { .. } => Some("for a user of no name, write the uid as a number"),
            Self::BadName(_) => Some(
                "names are letters, digits, `.`, `_`, `-`: at most 64, one letter at least, not \"self\"",
            ),
            Self::UnknownCgroup { .. } => {
                Some("the rule matches nothing until it is there; `apply --follow` looks again")
            }
            Self::ReservedName(_) => Some("give the rule another name"),
            Self::NotAUnit(_) => Some(
                "write the unit that the processes run in, such as \"app.service\"; a pattern has \
                 its type too, as in \"app*.service\"",
            ),
            Self::NotATime(_) => Some("write it with its offset: 2027-01-31T00:00:00Z"),
            Self::ZoneDisagrees { .. } => {
                Some("leave the zone away: the offset alone says which time is meant")
            }
            Self::ExitTime(_) => Some("`apply --follow` gives a sign every second"),
            Self::InboundExe { .. } => Some("use `user`, `unit` or `cgroup`"),
            Self::Expired { .. } => Some("delete it, or move its `until`"),
            Self::TooManyRules(_) => Some("join rules that differ in one value into a list"),
            Self::TooManyEntries(_) => Some(
                "rules that name the same lists share them: name lists that are joined under one name",
            ),
            Self::TooMany(_) => Some("name what these lie in, such as a larger network or a slice"),
            Self::OnlyAllows(_) => Some("give the direction a default under [default]"),
            _ => None,
        }
    }
}

fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|uid| uid.to_string() == text)
}

/// `1:1024`.
fn is_range(text: &str) -> bool {
    let ends = text.split_once(':');
    ends.is_some_and(|(first, last)| is_number(first) && is_number(last))
}

fn did_you_mean(name: impl AsRef<str>) -> String {
    format!("did you mean `{}`?", name.as_ref())
}
