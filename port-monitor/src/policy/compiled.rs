//! A compiled policy, and its word on a connection.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use port_monitor_common::{
    event::FileId,
    policy::{
        self as decision, Action, Decider, Direction, OwnerCondition, PortRange, Transport,
        canonical,
    },
};
use thiserror::Error;

use crate::{
    events::{
        decode::{self, Event, Stamp},
        record::{Judgement, Process},
    },
    host::units::Units,
};

use super::{
    analysis::shadow,
    names::Names,
    rules::{
        compile::Compiler,
        environment::Environment,
        info::RuleInfo,
        intent::Intent,
        table::{Owner, Scopes, Tables},
    },
    tables::index::Index,
    text::{
        diagnostic::{Diagnostic, Diagnostics, Source, Style, render_all},
        digest::digest_with,
        file::{self, FileError},
        network_list::ListFile,
        problem::Problem,
        value,
    },
};

/// A compiled policy.
#[derive(Debug)]
pub struct Policy {
    pub(super) source: Arc<Source>,
    pub(super) intent: Intent,
    pub(super) tables: Tables,
    pub(super) index: Index,
    /// By index of `tables.rules`.
    pub(super) rules: Vec<RuleInfo>,
    pub(super) scopes: Scopes,
    /// By name in small letters.
    pub(super) services: BTreeMap<String, Vec<PortRange>>,
    pub(super) lists: Vec<ListFile>,
    pub(super) names: Arc<Names>,
}

/// A policy that cannot be used.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// There is no text.
    #[error("{name}: {error}")]
    File {
        /// The path as the user gave it.
        name: String,
        /// Why.
        error: FileError,
    },
    /// The text is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Everything that is wrong with a policy's text, warnings included.
#[derive(Debug, Error)]
pub struct Invalid {
    /// The path as the user gave it.
    pub name: String,
    /// In the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The files with networks that it names, whether they can be read or not.
    pub list_paths: Vec<PathBuf>,
}

impl Invalid {
    /// A summary line, then every diagnostic.
    pub fn render(&self, style: Style) -> String {
        render_all(&self.name, &self.diagnostics, style)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl Policy {
    /// Reads and compiles the policy at `path`; gives its warnings too.
    pub fn load(
        path: &Path,
        env: &dyn Environment,
    ) -> Result<(Self, Vec<Diagnostic>), PolicyError> {
        let name = path.display().to_string();
        match file::read(path) {
            Ok(text) => Ok(Self::parse(Source::new(name, text), env)?),
            Err(error) => Err(PolicyError::File { name, error }),
        }
    }

    /// Compiles a policy from its text; gives its warnings too.
    pub fn parse(
        source: Source,
        env: &dyn Environment,
    ) -> Result<(Self, Vec<Diagnostic>), Invalid> {
        let source = Arc::new(source);
        let mut compiler = Compiler::run(&source, env);
        if compiler.can_be_analysed {
            shadow::report(&mut compiler);
        }
        let mut diagnostics = compiler.diagnostics;
        let list_paths = compiler.list_paths;
        let refused = |diagnostics: Diagnostics| Invalid {
            list_paths: list_paths.clone(),
            name: source.name.clone(),
            diagnostics: diagnostics.into_sorted(),
        };
        if diagnostics.has_errors() {
            return Err(refused(diagnostics));
        }
        let digest = digest_with(&source.text, &compiler.lists);
        let policy = Self {
            names: Arc::new(Names::new(
                &compiler.rules,
                &source.name,
                &digest,
                compiler.intent.mode,
            )),
            intent: compiler.intent,
            index: Index::of(&compiler.tables.view()),
            tables: compiler.tables,
            rules: compiler.rules,
            scopes: compiler.scopes,
            services: compiler.services,
            lists: compiler.lists,
            source: Arc::clone(&source),
        };
        if let Err(too_many) = policy.check_rule_sets(value::saturating_ns(env.now_ns())) {
            let place = policy.rules.first().map(|info| info.span.clone());
            diagnostics.report(place.unwrap_or_default(), Problem::TooMany(too_many));
            return Err(refused(diagnostics));
        }
        Ok((policy, diagnostics.into_sorted()))
    }

    /// What the policy asks of whoever applies it.
    pub const fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Connections of this transport in this direction are judged.
    pub fn judges(&self, direction: Direction, transport: Transport) -> bool {
        let judged = self.tables.view().transports(direction);
        judged.contains(&transport)
    }

    /// The ports that a service under `[services]` has of a transport; `None` for a name
    /// that is not there.
    pub fn service_ports(&self, name: &str, transport: Transport) -> Option<Vec<u16>> {
        let ranges = self.services.get(&name.to_ascii_lowercase())?;
        let ports = ranges.iter().flat_map(|range| range.first..=range.last);
        let ports = ports.map(Transport::of);
        Some(
            ports
                .filter(|(of, _)| *of == transport)
                .map(|(_, port)| port)
                .collect(),
        )
    }

    /// Some rule asks for an executable.
    pub fn asks_for_executables(&self) -> bool {
        let mut rules = self.tables.rules.iter();
        rules.any(|rule| rule.asks([OwnerCondition::Exe]))
    }

    /// Its text, and where that was read.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The files with networks that it reads, in the order of the text.
    pub fn list_files(&self) -> &[ListFile] {
        &self.lists
    }

    /// The units that rules name go by the same names among these as when it was compiled.
    pub fn has_names_of(&self, units: &Units) -> bool {
        self.scopes.units().all(|names| {
            let now = names.first().map_or(Vec::new(), |id| units.names(id));
            now.len() == names.len() && now.iter().all(|name| names.contains(name))
        })
    }

    /// Rules ask for units.
    pub fn asks_for_units(&self) -> bool {
        self.scopes.units().next().is_some()
    }

    /// SHA-256 of its text; of that and the digests of the files with networks, one after
    /// the other, where it reads some.
    pub fn digest(&self) -> [u8; 32] {
        digest_with(&self.source.text, &self.lists)
    }

    /// The policy's word on a connection that was: whatever its mode, this does not
    /// stop it.
    pub fn judge(&self, facts: &Facts<'_>) -> Judgement {
        let scopes = self.scopes.of(facts.owner());
        let facts = facts.compiled(&scopes);
        let decision = self
            .tables
            .view()
            .decision(self.index.first(&facts), &facts);
        self.observed(
            decision.action,
            match decision.by {
                Decider::Rule(index) => Some(index),
                Decider::Default | Decider::Loopback | Decider::Kernel => None,
            },
        )
    }

    /// The word on a connection that the kernel side has found by
    /// [`Policy::lower_for_monitor`].
    pub fn judgement(&self, stamp: Stamp) -> Judgement {
        self.names.judgement(stamp)
    }

    pub(super) fn observed(&self, action: Action, rule: Option<u32>) -> Judgement {
        self.names.observed(action, rule)
    }

    /// What it calls what decides.
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// The names of the rules, failsafe entries included.
    pub fn rule_names(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|info| &*info.name)
    }

    /// The names of the rules that deny.
    pub fn denying_rules(&self) -> impl Iterator<Item = &Arc<str>> {
        let rules = self.rules.iter().zip(&self.tables.rules);
        let denying = rules.filter(|(_, rule)| rule.action == Action::Deny);
        denying.map(|(info, _)| &info.name)
    }

    /// It has the same text as `other`, from the same place, and all of its names mean the same
    /// on this host by now.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.source.name == other.source.name
            && self.digest() == other.digest()
            && self.tables == other.tables
            && self.scopes == other.scopes
    }

    /// How many rules there are, failsafe entries included.
    pub const fn rule_count(&self) -> usize {
        self.rules.len()
    }
}

/// What the policy may ask of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Who opened it.
    pub direction: Direction,
    /// What carries it.
    pub transport: Transport,
    /// The remote port outbound, the local one inbound; zero when not known.
    pub service_port: u16,
    /// The other end.
    pub peer: IpAddr,
    /// The other end is on this host.
    pub peer_is_self: bool,
    /// Real uid of the owner, where known.
    pub uid: Option<u32>,
    /// systemd unit of the owner, where known.
    pub unit: Option<&'a str>,
    /// cgroup v2 path of the owner with a leading slash, where known.
    pub cgroup: Option<&'a str>,
    /// Executable of the owner, where known.
    pub exe: Option<&'a Path>,
    /// Which file that is, on this host; where it is known the path says nothing more.
    pub exe_id: Option<FileId>,
    /// The kernel itself acts: a thread of its own, not for a process.
    pub is_kernel: bool,
    /// Wall-clock time, ns since the Unix epoch.
    pub now_ns: i128,
}

impl<'a> Facts<'a> {
    /// A connection or a listener of which nothing more is known, at the beginning of time.
    pub const fn new(
        direction: Direction,
        transport: Transport,
        service_port: u16,
        peer: IpAddr,
    ) -> Self {
        Self {
            direction,
            transport,
            service_port,
            peer,
            peer_is_self: false,
            uid: None,
            unit: None,
            cgroup: None,
            exe: None,
            exe_id: None,
            is_kernel: false,
            now_ns: 0,
        }
    }

    /// The facts of an event.
    pub fn of(event: &Event, process: &'a Process, wall_ns: i128) -> Self {
        Self {
            direction: match event.direction() {
                _ if event.action.is_listener() => Direction::Listen,
                decode::Direction::Inbound => Direction::Inbound,
                decode::Direction::Outbound => Direction::Outbound,
            },
            transport: Transport::Tcp,
            service_port: event.service_port().unwrap_or(0),
            peer: event.remote_ip,
            // To a local address the kernel gives the same source address.
            peer_is_self: event.remote_ip == event.local_ip && !event.action.is_listener(),
            uid: event.owner.map(|owner| owner.uid),
            unit: process.unit.as_deref(),
            cgroup: process.cgroup.as_deref(),
            exe: process.exe.known().map(PathBuf::as_path),
            exe_id: event.owner.and_then(|owner| owner.exe),
            is_kernel: event.owner.is_some_and(|owner| owner.is_kernel),
            now_ns: wall_ns,
        }
    }

    pub(super) fn owner(&self) -> Owner<'a> {
        Owner {
            unit: self.unit,
            cgroup: self.cgroup,
            exe: self.exe,
            exe_id: self.exe_id,
        }
    }

    pub(super) fn compiled<'s>(&self, scopes: &'s [u32]) -> decision::Facts<'s> {
        // A listener has no peer, least of all one on loopback.
        let peer = match self.direction {
            Direction::Listen => [0; 16],
            Direction::Inbound | Direction::Outbound => canonical(value::octets(self.peer)),
        };
        decision::Facts {
            direction: self.direction,
            service_port: self.transport.port(self.service_port),
            peer,
            peer_is_self: self.peer_is_self || decision::is_loopback(&peer),
            uid: self.uid,
            scopes,
            is_kernel: self.is_kernel,
            now_ns: value::saturating_ns(self.now_ns),
        }
    }
}
