//! Policy text to compiled rules: the sections of the file, in order. What is
//! wrong is noted and the reading goes on, so that one run names everything.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use port_monitor_common::policy::{
    Accepts, Action, DefaultAction, Defaults, Direction, MAX_RULES, Mode, Network, Peer, PortRange,
};

use super::{
    compile::condition::MAX_PEERS,
    environment::Environment,
    info::RuleInfo,
    intent::{Established, Intent, OnDaemonExit, Refusal},
    table::{Scopes, Tables},
};
use crate::{
    base::duration,
    host::units::Units,
    policy::{
        limits::MAX_NETWORKS,
        text::{
            diagnostic::{Diagnostics, Source},
            network,
            network_list::ListFile,
            parse::{Schema, Section, Value, integer, items, table, text, word, wrong_type},
            problem::Problem,
            toml_1_0, value,
        },
    },
};

pub(crate) mod condition;
mod limits;
mod lists;

const ROOT: Schema = Schema::of(&[
    "version", "mode", "default", "apply", "failsafe", "networks", "services", "rule",
]);
const DEFAULT: Schema = Schema::of(&["inbound", "outbound", "listen"]);
const DEFAULT_PEERS: Schema = Schema::of(&["action", "style", "loopback"]);
const DEFAULT_LISTEN: Schema = Schema::of(&["action", "style"]);
const APPLY: Schema = Schema::of(&["established", "on_daemon_exit", "confirm"]);
const FAILSAFE: Schema = Schema::of(&["inbound", "outbound"]);
const FAILSAFE_ENTRY: Schema = Schema::of(&["service", "port", "proto", "from", "to"]);

/// How the names of `[failsafe]` entries begin; no rule's name has a colon.
pub(crate) const FAILSAFE_NAME: &str = "failsafe:";

/// The directions as `[default]` and `[failsafe]` spell them.
const DEFAULT_KEYS: [(&str, Direction); 3] = [
    ("inbound", Direction::Inbound),
    ("outbound", Direction::Outbound),
    ("listen", Direction::Listen),
];

pub(crate) const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("deny", Action::Deny)];

const ALLOW: DefaultAction = DefaultAction {
    action: Action::Allow,
    filters_loopback: false,
};

/// What rules join: lists by where they are in memory, and what is named beside them.
type Joined = (Vec<*const Peer>, Vec<Peer>);

/// A policy being compiled.
pub(crate) struct Compiler<'e> {
    pub(crate) env: &'e dyn Environment,
    pub(crate) diagnostics: Diagnostics,
    pub(crate) networks: BTreeMap<String, Rc<[Peer]>>,
    /// The peers of rules and where they are in `tables`, by where they are in memory.
    pub(crate) shared_peers: HashMap<*const Peer, (Rc<[Peer]>, Accepts)>,
    /// What was joined before.
    pub(crate) joined_peers: HashMap<Joined, Rc<[Peer]>>,
    /// Peers that were joined or kept for rules.
    pub(crate) peers_read: usize,
    pub(crate) lists: Vec<ListFile>,
    /// The paths of all that are named, whether they can be read or not.
    pub(crate) list_paths: Vec<PathBuf>,
    /// The ports of the names under `[services]`, by the name in small letters: the
    /// registry's names have no case either.
    pub(crate) services: BTreeMap<String, Vec<PortRange>>,
    /// The tables of names that were not read, so that any name may be in them.
    pub(crate) unread: Vec<&'static str>,
    /// All that names stand for was read.
    pub(crate) has_names: bool,
    /// What the rules stand for is known, so that they can be compared.
    pub(crate) can_be_analysed: bool,
    pub(crate) tables: Tables,
    pub(crate) rules: Vec<RuleInfo>,
    pub(crate) scopes: Scopes,
    pub(crate) intent: Intent,
    units: OnceCell<Units>,
    /// The users that suggestions may name.
    users: OnceCell<Vec<String>>,
    /// How many known names like an unknown one were searched for.
    suggestions: usize,
}

/// Searches for a known name like an unknown one, in one policy: each looks at all that
/// are known.
const MAX_SUGGESTIONS: usize = 100;

impl<'e> Compiler<'e> {
    /// What `search` finds, unless there were too many searches before.
    pub(crate) fn suggestion(
        &mut self,
        search: impl FnOnce(&Self) -> Option<String>,
    ) -> Option<String> {
        self.suggestions += 1;
        (self.suggestions <= MAX_SUGGESTIONS)
            .then(|| search(self))
            .flatten()
    }

    /// The users of this host that suggestions may name.
    pub(crate) fn users(&self) -> &[String] {
        self.users.get_or_init(|| self.env.users())
    }

    /// Compiles the text; the diagnostics tell whether it holds.
    pub(crate) fn run(source: &Arc<Source>, env: &'e dyn Environment) -> Self {
        let mut compiler = Self {
            env,
            diagnostics: Diagnostics::new(Arc::clone(source)),
            networks: BTreeMap::new(),
            shared_peers: HashMap::new(),
            joined_peers: HashMap::new(),
            peers_read: 0,
            lists: Vec::new(),
            list_paths: Vec::new(),
            services: BTreeMap::new(),
            unread: Vec::new(),
            has_names: true,
            can_be_analysed: false,
            tables: Tables {
                defaults: Defaults {
                    inbound: ALLOW,
                    outbound: ALLOW,
                    listen: ALLOW,
                },
                judges_udp: false,
                rules: Vec::new(),
                ports: Vec::new(),
                peers: Vec::new(),
                owners: Vec::new(),
            },
            rules: Vec::new(),
            scopes: Scopes::default(),
            intent: Intent::default(),
            units: OnceCell::new(),
            users: OnceCell::new(),
            suggestions: 0,
        };
        let (document, problems) = toml_1_0::parse(&source.text);
        // What comes out of it then is not judged: the parser's guess would only raise
        // false alarms.
        if !problems.is_empty() {
            for (place, problem) in problems {
                compiler.diagnostics.report(place, problem);
            }
            return compiler;
        }
        let root = Section::root(&document, &ROOT, &mut compiler.diagnostics);
        compiler.document(&root);
        compiler
    }

    /// Of this host, looked at once.
    pub(crate) fn units(&self) -> &Units {
        self.units.get_or_init(|| self.env.units())
    }

    fn document(&mut self, root: &Section<'_, '_>) {
        self.version(root);
        if let Some(mode) = root.get("mode") {
            self.mode(mode);
        }
        if let Some(apply) = root.get("apply") {
            self.apply(apply);
        }
        if let Some(default) = root.get("default") {
            self.defaults(default);
        }
        self.tables.judges_udp = names_udp(root);
        self.networks(root);
        self.services(root);
        // A broken network or service would make rules look narrower than they
        // are, so what they cover is not judged then.
        let sound = !self.diagnostics.has_errors();
        let unread = ["networks", "services"].into_iter();
        self.unread = unread.filter(|key| root.is_unread(key)).collect();
        self.has_names = sound;
        if let Some(failsafe) = root.get("failsafe") {
            self.failsafe(failsafe);
        }
        if let Some(rules) = root.get("rule") {
            self.rules(rules);
        }
        let fits = self.count_networks(root);
        if !self.diagnostics.has_errors() {
            self.warn_of_missing_defaults(root);
            limits::report(self);
        }
        self.can_be_analysed = sound && fits && self.tables.rules.len() <= MAX_RULES;
    }

    fn version(&mut self, root: &Section<'_, '_>) {
        let Some(value) = root.required("version", &mut self.diagnostics) else {
            return;
        };
        let problem = match integer(value) {
            Some(Ok(1)) => return,
            Some(Ok(other)) => Problem::Version(other.to_string()),
            Some(Err(other)) => Problem::Version(other),
            None => wrong_type(value, "a number"),
        };
        self.diagnostics.report(value.span(), problem);
    }

    fn mode(&mut self, value: &Value<'_>) {
        let modes = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
        if let Some(mode) = self.diagnostics.check(value.span(), word(value, &modes)) {
            self.intent.mode = mode;
        }
    }

    /// What `port-monitor apply` does with the policy.
    fn apply(&mut self, value: &Value<'_>) {
        let Some(apply) = Section::open(value, &APPLY, &mut self.diagnostics) else {
            return;
        };
        let intent = &mut self.intent;
        let established = [("kill", Established::Kill), ("keep", Established::Keep)];
        let established = apply.word_or(
            "established",
            intent.established,
            &established,
            &mut self.diagnostics,
        );
        intent.established = established.unwrap_or(intent.established);
        if let Some(value) = apply.get("on_daemon_exit") {
            let on_exit = self.diagnostics.check(value.span(), on_daemon_exit(value));
            self.intent.on_daemon_exit = on_exit.unwrap_or(OnDaemonExit::Enforce);
        }
        if let Some(confirm) = apply.get("confirm") {
            let duration = text(confirm).and_then(|text| Ok(duration::parse(text)?));
            self.intent.confirm = self.diagnostics.check(confirm.span(), duration);
        }
    }

    fn defaults(&mut self, value: &Value<'_>) {
        let Some(section) = Section::open(value, &DEFAULT, &mut self.diagnostics) else {
            return;
        };
        for (key, direction) in DEFAULT_KEYS {
            let Some(value) = section.get(key) else {
                continue;
            };
            let Some(default) = self.default_action(value, direction) else {
                continue;
            };
            match direction {
                Direction::Inbound => self.tables.defaults.inbound = default,
                Direction::Outbound => self.tables.defaults.outbound = default,
                Direction::Listen => self.tables.defaults.listen = default,
            }
        }
    }

    fn default_action(&mut self, value: &Value<'_>, direction: Direction) -> Option<DefaultAction> {
        let (schema, styles): (_, &[_]) = match direction {
            Direction::Inbound => (
                &DEFAULT_PEERS,
                &[("reset", Refusal::Reset), ("drop", Refusal::Drop)],
            ),
            Direction::Outbound => (&DEFAULT_PEERS, &[("error", Refusal::Reset)]),
            Direction::Listen => (&DEFAULT_LISTEN, &[("error", Refusal::Reset)]),
        };
        let section = Section::open(value, schema, &mut self.diagnostics)?;
        let style = section.word_or("style", Refusal::Reset, styles, &mut self.diagnostics);
        if direction == Direction::Inbound {
            self.intent.inbound = style?;
        }
        let loopback = [("allow", false), ("filter", true)];
        let filters_loopback = section.word_or("loopback", false, &loopback, &mut self.diagnostics);
        let action = section.required_word("action", &ACTIONS, &mut self.diagnostics);
        Some(DefaultAction {
            action: action?,
            filters_loopback: filters_loopback?,
        })
    }

    fn networks(&mut self, root: &Section<'_, '_>) {
        for (name, span, value) in self.named_lists(root, "networks") {
            let mut networks = Vec::new();
            let mark = self.diagnostics.mark();
            for item in value {
                if item.get_ref().is_table() {
                    networks.extend(self.network_list(item));
                    continue;
                }
                let network = text(item).and_then(|text| self.network(text, item.span()));
                let network = self.diagnostics.check(item.span(), network);
                networks.extend(network.map(Peer::Network));
            }
            self.diagnostics.cut(mark, &span);
            self.networks.insert(name, network::merged(networks).into());
        }
    }

    /// Reads a network and notes what its author may not expect of it.
    pub(crate) fn network(&mut self, text: &str, span: Range<usize>) -> Result<Network, Problem> {
        let network = network::network(text)?;
        if let Some(remark) = network::remark(text, &network) {
            self.diagnostics.report(span, remark);
        }
        Ok(network)
    }

    fn services(&mut self, root: &Section<'_, '_>) {
        let mut spelled: HashMap<String, usize> = HashMap::new();
        for (name, span, value) in self.named_lists(root, "services") {
            let line = self.diagnostics.source().line_at(span.start);
            if let Some(&line) = spelled.get(&name.to_ascii_lowercase()) {
                self.diagnostics
                    .report(span, Problem::DuplicateService { name, line });
                continue;
            }
            spelled.insert(name.to_ascii_lowercase(), line);
            let ports = value
                .iter()
                .filter_map(|item| {
                    let ports = value::service_ports(item);
                    self.diagnostics.check(item.span(), ports)
                })
                .collect();
            self.services.insert(name.to_ascii_lowercase(), ports);
        }
    }

    /// The entries of a table of named lists. A bad name or list is noted; the
    /// name is kept, so that its uses are not errors too.
    fn named_lists<'t, 'd>(
        &mut self,
        root: &Section<'t, 'd>,
        key: &str,
    ) -> Vec<(String, Range<usize>, &'t [Value<'d>])> {
        let Some(value) = root.get(key) else {
            return Vec::new();
        };
        let Some(table) = self.diagnostics.check(value.span(), table(value)) else {
            return Vec::new();
        };
        let mut lists = Vec::new();
        for (name, value) in table {
            self.diagnostics
                .check(name.span(), value::name(name.get_ref()));
            let items = self.diagnostics.check(value.span(), items(value));
            let entry = items.unwrap_or_default();
            lists.push((name.get_ref().to_string(), name.span(), entry));
        }
        lists
    }

    /// The connections no rule may cut off: rules of their own, checked first.
    fn failsafe(&mut self, value: &Value<'_>) {
        let Some(section) = Section::open(value, &FAILSAFE, &mut self.diagnostics) else {
            return;
        };
        for (key, direction) in DEFAULT_KEYS {
            let Some(value) = section.get(key) else {
                continue;
            };
            let entries = self.diagnostics.check(value.span(), items(value));
            for (number, entry) in (1..).zip(entries.unwrap_or_default()) {
                let Some(section) = Section::open(entry, &FAILSAFE_ENTRY, &mut self.diagnostics)
                else {
                    continue;
                };
                self.failsafe_rule(
                    &section,
                    direction,
                    &format!("{FAILSAFE_NAME}{key}:{number}"),
                );
            }
        }
    }

    fn rules(&mut self, value: &Value<'_>) {
        let Some(array) = value.get_ref().as_array() else {
            let problem = wrong_type(value, "[[rule]] tables");
            return self.diagnostics.report(value.span(), problem);
        };
        let mut names = HashMap::new();
        for value in array {
            self.rule(value, &mut names);
        }
        let count = self.tables.rules.len();
        if count > MAX_RULES {
            self.diagnostics
                .report(value.span(), Problem::TooManyRules(count));
        }
    }

    /// Refuses more networks than the tables hold; false where it does, or has refused
    /// more of them before.
    fn count_networks(&mut self, root: &Section<'_, '_>) -> bool {
        let peers = &self.tables.peers;
        if peers.len() <= MAX_NETWORKS {
            return self.peers_read <= MAX_PEERS;
        }
        let different: HashSet<&Peer> = peers.iter().collect();
        let count = different.len();
        if count > MAX_NETWORKS {
            let span = root.key_span("networks");
            self.diagnostics
                .report(span, Problem::TooManyNetworks(count));
        }
        count <= MAX_NETWORKS && self.peers_read <= MAX_PEERS
    }

    /// A policy of allow rules whose author forgot the default never finds
    /// anything, and nothing else would show it.
    fn warn_of_missing_defaults(&mut self, root: &Section<'_, '_>) {
        let default = root.get("default").and_then(|value| table(value).ok());
        for (key, direction) in DEFAULT_KEYS {
            if default.is_some_and(|table| table.contains_key(key)) {
                continue;
            }
            let mut rules = self
                .tables
                .rules
                .iter()
                .zip(&self.rules)
                .filter(|(rule, _)| rule.direction == direction)
                .peekable();
            let Some(span) = rules.peek().map(|(_, info)| info.span.clone()) else {
                continue;
            };
            if rules.all(|(rule, _)| rule.action == Action::Allow) {
                self.diagnostics.report(span, Problem::OnlyAllows(key));
            }
        }
    }
}

/// Some rule for what this host sends has `proto = "udp"`, alone or among others, or a
/// service of this policy that has ports of UDP. Else UDP is not judged: a policy that
/// speaks of none does not mean to cut off name resolution.
fn names_udp(root: &Section<'_, '_>) -> bool {
    let is_udp = |item: &Value<'_>| text(item) == Ok("udp");
    let services = root.get("services").and_then(|value| table(value).ok());
    let has_udp = |item: &Value<'_>| {
        let name = text(item).unwrap_or_default();
        let named = |key: &str| key.eq_ignore_ascii_case(name);
        let mut services = services.into_iter().flatten();
        let ports = services.find(|(key, _)| named(key.get_ref()));
        let ports = ports
            .and_then(|(_, value)| items(value).ok())
            .unwrap_or_default();
        let mut ports = ports.iter().filter_map(|item| text(item).ok());
        ports.any(|ports| ports.ends_with("/udp"))
    };
    let names_it = |rule: &Value<'_>, is_out: bool| {
        let rule = table(rule).ok();
        let key = |key| rule.and_then(|rule| rule.get(key));
        let is_out = is_out || key("direction").is_some_and(|value| text(value) == Ok("out"));
        let list = |name| {
            key(name)
                .and_then(|value| items(value).ok())
                .unwrap_or_default()
        };
        is_out && (list("proto").iter().any(is_udp) || list("service").iter().any(has_udp))
    };
    let any = |list: Option<&Value<'_>>, is_out| {
        let list = list.and_then(|list| items(list).ok());
        list.is_some_and(|list| list.iter().any(|rule| names_it(rule, is_out)))
    };
    let failsafe = root.get("failsafe").and_then(|value| table(value).ok());
    any(root.get("rule"), false)
        || any(failsafe.and_then(|failsafe| failsafe.get("outbound")), true)
}

/// `enforce`, `open-after-60s`, `closed` or `closed-after-30s`.
fn on_daemon_exit(value: &Value<'_>) -> Result<OnDaemonExit, Problem> {
    type Make = fn(Duration) -> OnDaemonExit;
    let timed: [(&str, Make); 2] = [
        ("open-after-", OnDaemonExit::Open),
        ("closed-after-", OnDaemonExit::Closed),
    ];
    let all = text(value)?;
    for (prefix, make) in timed {
        if let Some(after) = all.strip_prefix(prefix) {
            let after = duration::parse_some(after, "3s to 24h, such as 60s")?;
            if after < OnDaemonExit::SOONEST || after > OnDaemonExit::LATEST {
                return Err(Problem::ExitTime(all.to_owned()));
            }
            return Ok(make(after));
        }
    }
    let words = [
        ("enforce", OnDaemonExit::Enforce),
        ("open-after-60s", OnDaemonExit::Open(Duration::from_mins(1))),
        ("closed", OnDaemonExit::Closed(OnDaemonExit::CLOSED_AFTER)),
    ];
    word(value, &words)
}
