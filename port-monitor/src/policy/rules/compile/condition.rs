//! One rule: its conditions, resolved to numbers. Every condition is read even
//! after one is wrong, and a rule with a wrong one is left out.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use port_monitor_common::policy::{
    Accepts, Action, Direction, OwnerCondition, Peer, PortRange, Rule, Transport,
};

use super::{ACTIONS, Compiler};
use crate::{
    events::alert::Alert,
    policy::{
        rules::{info::RuleInfo, table::append},
        text::{
            network,
            parse::{Schema, Section, Value, items, text, word},
            problem::Problem,
            until,
            value::{self, SELF},
        },
    },
    ports::services::closest,
};

/// The keys of a rule before those of its owner, and after them.
const BEFORE_OWNER: [&str; 7] = [
    "name",
    "direction",
    "service",
    "port",
    "proto",
    "from",
    "to",
];
const AFTER_OWNER: [&str; 3] = ["until", "action", "alert"];

/// The keys of a rule.
const KEYS: [&str; BEFORE_OWNER.len() + OwnerCondition::COUNT + AFTER_OWNER.len()] = {
    let mut keys = [""; BEFORE_OWNER.len() + OwnerCondition::COUNT + AFTER_OWNER.len()];
    let owner = BEFORE_OWNER.len();
    let after = owner + OwnerCondition::COUNT;
    let mut n = 0;
    while n < keys.len() {
        keys[n] = if n < owner {
            BEFORE_OWNER[n]
        } else if n < after {
            OwnerCondition::ALL[n - owner].key()
        } else {
            AFTER_OWNER[n - after]
        };
        n += 1;
    }
    keys
};

const RULE: Schema = Schema {
    known: &KEYS,
    unsupported: &[
        ("comm", "any process can rename itself; use `exe` or `unit`"),
        (
            "domain",
            "which addresses a name has is a guess; use `to` with its networks",
        ),
        ("container", "use `cgroup` with the container's path"),
        (
            "except",
            "write a rule with the other action before this one",
        ),
    ],
};

const ALERTS: [(&str, Option<Alert>); 3] = [
    ("none", Some(Alert::None)),
    ("low", Some(Alert::Low)),
    ("high", Some(Alert::High)),
];

/// What decides where no rule does, as reports and cases call it: no rule's name.
const DEFAULT: &str = "default";

/// Entries of all lists together but for those of peers: what is named in every rule must
/// not fill the memory.
const MAX_ENTRIES: usize = 1 << 21;
/// Peers of all rules together; rules that name the same list of networks share it.
pub(crate) const MAX_PEERS: usize = 1 << 21;

/// The entries a condition accepts; `None` accepts all.
type Entries<T> = Option<Vec<T>>;

/// The peers a condition accepts; `None` accepts all.
type Peers = Option<Rc<[Peer]>>;

impl Compiler<'_> {
    /// Reads one `[[rule]]`. `names` has the lines of the names in use.
    pub(crate) fn rule(&mut self, value: &Value<'_>, names: &mut HashMap<String, usize>) {
        let Some(section) = Section::open(value, &RULE, &mut self.diagnostics) else {
            return;
        };
        let name = self.rule_name(&section, names);
        let directions = Direction::ALL.map(|direction| (spelled(direction), direction));
        let direction = section.required_word("direction", &directions, &mut self.diagnostics);
        let action = section.required_word("action", &ACTIONS, &mut self.diagnostics);
        let alert = section.word_or("alert", None, &ALERTS, &mut self.diagnostics);
        let until_ns = match section.get("until") {
            Some(until) => self.diagnostics.check(until.span(), until::time_ns(until)),
            None => Some(i64::MAX),
        };
        let conditions = self.conditions(&section, direction);
        let (Some(name), Some(action), Some(alert), Some(until_ns), Some(conditions)) =
            (name, action, alert, until_ns, conditions)
        else {
            return;
        };
        let rule = Rule {
            action,
            until_ns,
            ..conditions
        };
        self.warn_of_no_effect(&section, &name, &rule);
        self.push(&section, &name, alert, rule);
    }

    /// Reads one entry of `[failsafe]`: an allow rule.
    pub(crate) fn failsafe_rule(
        &mut self,
        section: &Section<'_, '_>,
        direction: Direction,
        name: &str,
    ) {
        if let Some(rule) = self.conditions(section, Some(direction)) {
            self.push(section, name, None, rule);
        }
    }

    fn push(&mut self, section: &Section<'_, '_>, name: &str, alert: Option<Alert>, rule: Rule) {
        self.tables.rules.push(rule);
        self.rules.push(RuleInfo {
            name: name.into(),
            line: self.diagnostics.source().line_at(section.span.start),
            alert,
            span: section.span.clone(),
        });
    }

    fn rule_name(
        &mut self,
        section: &Section<'_, '_>,
        names: &mut HashMap<String, usize>,
    ) -> Option<String> {
        let value = section.required("name", &mut self.diagnostics)?;
        let name = text(value).and_then(value::name).and_then(|name| {
            // Reports, cases and counters call the default that.
            if name.eq_ignore_ascii_case(DEFAULT) {
                return Err(Problem::ReservedName(name.to_owned()));
            }
            Ok(name)
        });
        let name = self.diagnostics.check(value.span(), name)?;
        let line = self.diagnostics.source().line_at(value.span().start);
        if let Some(&line) = names.get(name) {
            let name = name.to_owned();
            self.diagnostics
                .report(value.span(), Problem::DuplicateName { name, line });
            return None;
        }
        names.insert(name.to_owned(), line);
        Some(name.to_owned())
    }

    /// Everything a rule asks of a connection, as an allow rule of `direction`.
    fn conditions(
        &mut self,
        section: &Section<'_, '_>,
        direction: Option<Direction>,
    ) -> Option<Rule> {
        let ports = self.ports(section, direction);
        let peers = self.peers(section, direction);
        let owners = OwnerCondition::ALL.map(|condition| {
            let read = |compiler: &mut Self, item: &Value<'_>| compiler.owner(condition, item);
            self.list(section, condition.key(), read)
        });
        let (ports, peers) = (ports?, self.shared(section, peers?)?);
        let are_read = owners.iter().all(Option::is_some);
        let direction = direction?;
        // Without a condition it cannot read, the rule would be another one.
        if !are_read || !section.sound || self.tables.entries() > MAX_ENTRIES {
            return None;
        }
        let tables = &mut self.tables;
        let rule = Rule {
            direction,
            action: Action::Allow,
            ports: append(&mut tables.ports, ports),
            peers,
            owners: owners.map(|entries| append(&mut tables.owners, entries.flatten())),
            until_ns: i64::MAX,
        };
        if tables.entries() > MAX_ENTRIES {
            self.diagnostics
                .report(section.span.clone(), Problem::TooManyEntries(MAX_ENTRIES));
            return None;
        }
        Some(rule)
    }

    /// Reads every entry of the list under `key`; `None` if one is wrong.
    fn list<T>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        read: impl Fn(&mut Self, &Value<'_>) -> Result<T, Problem>,
    ) -> Option<Entries<T>> {
        let Some(value) = section.get(key) else {
            return Some(None);
        };
        let items = self.diagnostics.check(value.span(), items(value))?;
        let mark = self.diagnostics.mark();
        let entries: Vec<Option<T>> = items
            .iter()
            .map(|item| {
                let entry = read(self, item);
                self.diagnostics.check(item.span(), entry)
            })
            .collect();
        self.diagnostics.cut(mark, &section.key_span(key));
        entries.into_iter().collect::<Option<Vec<T>>>().map(Some)
    }

    /// The ports a rule names, of the transports it names; `None` are all that are judged.
    fn ports(
        &mut self,
        section: &Section<'_, '_>,
        direction: Option<Direction>,
    ) -> Option<Entries<PortRange>> {
        let protos = self.list(section, "proto", |_, item| {
            word(
                item,
                &Transport::ALL.map(|transport| (transport.name(), transport)),
            )
        });
        let services = self.list(section, "service", Self::service_ports);
        let ports = self.list(section, "port", Self::port);
        let (protos, services, ports) = (protos?, services?, ports?);
        let judged = self.tables.view().transports(direction?);
        let named = |transport: &Transport| {
            protos
                .as_ref()
                .is_none_or(|protos| protos.contains(transport))
        };
        let transports: Vec<Transport> = judged.iter().copied().filter(named).collect();
        let is_any = transports.len() == judged.len();
        let ranges = match (services, ports) {
            (Some(_), Some(_)) => {
                let span = section.key_span("port");
                self.diagnostics.report(span, Problem::ServiceAndPort);
                return None;
            }
            (Some(services), None) => services.concat(),
            (None, Some(ports)) => of_all(&ports),
            (None, None) if is_any => return Some(None),
            (None, None) => of_all(&[Transport::Tcp.ports()]),
        };
        // Before they are joined: ranges of two transports may touch.
        let mut ranges = ranges;
        ranges.retain(|range| transports.contains(&Transport::of(range.first).0));
        Some(Some(value::joined(ranges)))
    }

    fn service_ports(&mut self, item: &Value<'_>) -> Result<Vec<PortRange>, Problem> {
        let name = text(item)?;
        let ports = self.ports_of(name);
        if ports.is_none() && self.unread.contains(&"services") {
            return Ok(Vec::new());
        }
        ports.ok_or_else(|| Problem::UnknownService {
            name: name.to_owned(),
            nearest: self.suggestion(|known| {
                closest(name, known.services.keys().map(String::as_str))
                    .map(str::to_owned)
                    .or_else(|| known.env.nearest_service(name))
            }),
        })
    }

    /// The ports of a service: the policy's own names come first. The others are those
    /// of the registry, which gives a service the same port of each transport.
    fn ports_of(&self, service: &str) -> Option<Vec<PortRange>> {
        if let Some(ports) = self.services.get(&service.to_ascii_lowercase()) {
            return Some(ports.clone());
        }
        let ports = self.env.service_ports(service);
        let ports: Vec<PortRange> = ports.into_iter().map(value::only).collect();
        (!ports.is_empty()).then(|| of_all(&ports))
    }

    fn port(&mut self, item: &Value<'_>) -> Result<PortRange, Problem> {
        value::ports(item).map_err(|problem| match problem {
            Problem::NotAPort(text) if self.ports_of(&text).is_some() => {
                Problem::ServiceAsPort(text)
            }
            _ => problem,
        })
    }

    fn peers(&mut self, section: &Section<'_, '_>, direction: Option<Direction>) -> Option<Peers> {
        let from = self.list(section, "from", Self::peer);
        let to = self.list(section, "to", Self::peer);
        let direction = direction?;
        let (peers, instead, wrong): (_, _, &[_]) = match direction {
            Direction::Inbound => (from, Some("from"), &["to"]),
            Direction::Outbound => (to, Some("to"), &["from"]),
            Direction::Listen => (Some(None), None, &["from", "to"]),
        };
        let mut sound = true;
        for &key in wrong.iter().filter(|&&key| section.get(key).is_some()) {
            sound = false;
            let problem = Problem::WrongSide {
                key,
                direction: spelled(direction),
                instead,
            };
            self.diagnostics.report(section.key_span(key), problem);
        }
        match peers.filter(|_| sound)? {
            None => Some(None),
            Some(lists) => self.joined(section, &lists).map(Some),
        }
    }

    /// The networks of all of these lists: joined once for all rules that name the same.
    fn joined(&mut self, section: &Section<'_, '_>, lists: &[Rc<[Peer]>]) -> Option<Rc<[Peer]>> {
        if let [list] = lists {
            return Some(Rc::clone(list));
        }
        // Networks that a rule itself spells out are lists of their own each time.
        let (short, long): (Vec<_>, Vec<_>) = lists.iter().partition(|list| list.len() == 1);
        let mut short: Vec<Peer> = short.into_iter().flat_map(|list| list.to_vec()).collect();
        short = network::merged(short);
        // A list that is named a thousand times counts once.
        let mut places: Vec<*const Peer> = long.iter().map(|list| list.as_ptr()).collect();
        places.sort_unstable();
        places.dedup();
        let key = (places, short);
        if let Some(joined) = self.joined_peers.get(&key) {
            return Some(Rc::clone(joined));
        }
        let mut seen = HashSet::new();
        let different = long.iter().filter(|list| seen.insert(list.as_ptr()));
        let different: Vec<&Rc<[Peer]>> = different.copied().collect();
        let count = different.iter().map(|list| list.len()).sum::<usize>() + key.1.len();
        self.count_peers(section, count)?;
        let peers = different.into_iter().flat_map(|list| list.iter().copied());
        let peers: Rc<[Peer]> = network::merged(peers.chain(key.1.iter().copied())).into();
        self.joined_peers.insert(key, Rc::clone(&peers));
        Some(peers)
    }

    /// Counts peers of rules; tells once where there are too many, and reads none then.
    fn count_peers(&mut self, section: &Section<'_, '_>, count: usize) -> Option<()> {
        let had_room = self.peers_read <= MAX_PEERS;
        self.peers_read = self.peers_read.saturating_add(count);
        if self.peers_read <= MAX_PEERS {
            return Some(());
        }
        if had_room {
            self.diagnostics
                .report(section.span.clone(), Problem::TooManyEntries(MAX_PEERS));
        }
        None
    }

    /// Where the peers are in the list of all rules: once for all that name the same.
    fn shared(&mut self, section: &Section<'_, '_>, peers: Peers) -> Option<Accepts> {
        let Some(peers) = peers else {
            return Some(Accepts::Any);
        };
        if let Some((_, accepts)) = self.shared_peers.get(&peers.as_ptr()) {
            return Some(*accepts);
        }
        self.count_peers(section, peers.len())?;
        let accepts = append(&mut self.tables.peers, Some(peers.to_vec()));
        // It is kept, so that no other list has its place in memory.
        let place = peers.as_ptr();
        self.shared_peers.insert(place, (peers, accepts));
        Some(accepts)
    }

    fn peer(&mut self, item: &Value<'_>) -> Result<Rc<[Peer]>, Problem> {
        let text = text(item)?;
        if text == SELF {
            return Ok(Rc::new([Peer::ThisHost]));
        }
        if let Some(networks) = self.networks.get(text) {
            return Ok(Rc::clone(networks));
        }
        match self.network(text, item.span()) {
            Ok(network) => Ok(Rc::new([Peer::Network(network)])),
            Err(Problem::NotANetwork(_)) if self.unread.contains(&"networks") => Ok(Rc::new([])),
            Err(Problem::NotANetwork(text)) => {
                let nearest = self.suggestion(|known| {
                    let names = known.networks.keys().map(String::as_str);
                    closest(&text, names.chain([SELF])).map(str::to_owned)
                });
                Err(Problem::NotAPeer { text, nearest })
            }
            Err(problem) => Err(problem),
        }
    }

    /// The key of the rule's peers, where none of them ever is one.
    fn never_matching(&self, section: &Section<'_, '_>, rule: &Rule) -> Option<&'static str> {
        let peers = rule.peers.of(&self.tables.peers)?;
        let never = |peer: &Peer| match peer {
            Peer::Network(network) => network::never_matches(network),
            Peer::ThisHost => false,
        };
        let is_never = !peers.is_empty() && peers.iter().all(never);
        let mut keys = ["to", "from"].into_iter();
        keys.find(|key| is_never && section.get(key).is_some())
    }

    /// What the rule's transports and services have no port of is judged.
    fn has_other_ports(&self, section: &Section<'_, '_>, direction: Direction) -> bool {
        let protos = section.get("proto").and_then(|value| items(value).ok());
        let is_tcp = |item: &Value<'_>| text(item) == Ok(Transport::Tcp.name());
        let are_all_judged = self.tables.view().transports(direction).len() > 1;
        are_all_judged || protos.is_some_and(|protos| protos.iter().all(is_tcp))
    }

    /// Notes what has no effect.
    fn warn_of_no_effect(&mut self, section: &Section<'_, '_>, name: &str, rule: &Rule) {
        let name = name.to_owned();
        let (key, problem) = if i128::from(rule.until_ns) <= self.env.now_ns() {
            ("until", Problem::Expired { name })
        } else if !self.has_names {
            // What was not read would be what has no effect.
            return;
        } else if let Some(key) = self.never_matching(section, rule) {
            (key, Problem::NoPeer { name })
        } else if rule
            .ports
            .of(&self.tables.ports)
            .is_some_and(<[_]>::is_empty)
        {
            if self.has_other_ports(section, rule.direction) {
                ("service", Problem::NoPort { name })
            } else {
                ("name", Problem::NotWatched { name })
            }
        } else if rule.direction == Direction::Inbound && section.get("exe").is_some() {
            ("exe", Problem::InboundExe { name })
        } else {
            return;
        };
        self.diagnostics.report(section.key_span(key), problem);
    }
}

/// These ports, which are of no transport yet, of every transport.
fn of_all(ports: &[PortRange]) -> Vec<PortRange> {
    let transports = Transport::ALL.into_iter();
    transports
        .flat_map(|transport| {
            ports
                .iter()
                .map(move |range| value::carried_by(transport, *range))
        })
        .collect()
}

/// The direction as the policy spells it.
pub(crate) fn spelled(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Listen => "listen",
    }
}
