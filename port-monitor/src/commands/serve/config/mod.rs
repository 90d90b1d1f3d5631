//! The configuration of the service: a file whose sections and keys are the flags of the
//! command line.

mod keys;
mod read;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow};
use clap::Parser as _;

use self::{
    keys::{FILE, Flags, Key, POLICY, SECTIONS, WATCH},
    read::{Asked, Exports, Read, read},
};
use super::exports as running;
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{load, watch},
    consume::{SinkKind, consumer::Consumer, enforced, export::Board, socket::Events},
    policy::{text::diagnostic::render_all, text::file::read_text},
};

pub(crate) use self::schema::json_schema;

/// What a service is to do.
pub(super) struct Config {
    path: PathBuf,
    /// The flags of `watch` that it stands for.
    pub(super) watch: watch::Args,
    asked: Asked,
    /// Who is sent the history.
    exports: Exports,
    /// The policy is observed, and not applied.
    observes: bool,
}

/// What consumers tell of that is no event.
#[derive(Clone)]
pub(super) struct Beside {
    /// How exports stand.
    pub(super) exports: Arc<Board>,
    /// How the policy stands that is enforced.
    pub(super) enforced: Arc<enforced::Board>,
    /// What is told at the socket.
    pub(super) events: Events,
}

impl Beside {
    /// No policy is enforced yet.
    pub(super) fn new(exports: &running::Exports, events: Events) -> Self {
        Self {
            exports: Arc::clone(exports.board()),
            enforced: Arc::default(),
            events,
        }
    }
}

/// What has to be done for one configuration to take the place of another one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Steps {
    /// Sections whose consumers leave.
    pub(super) leaving: Vec<&'static str>,
    /// Sections whose consumers join.
    pub(super) joining: Vec<&'static str>,
}

impl Steps {
    /// What is done, for people.
    pub(super) fn in_words(&self) -> String {
        let of = |names: &[&str]| match names {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        let (joining, leaving) = (of(&self.joining), of(&self.leaving));
        format!("consumers that joined: {joining}; that left: {leaving}")
    }
}

impl Config {
    /// Reads the file. What is wrong there is all in the failure.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let text = read_text(path).map_err(|error| {
            let error = anyhow!("{name}: {error}");
            Failure::new(ExitCode::PolicyInvalid, error)
        })?;
        let Read {
            flags,
            asked,
            exports,
        } = read(name.clone(), text).map_err(|found| {
            let told = render_all(&name, &found, load::style());
            Failure::new(ExitCode::PolicyInvalid, anyhow!(told))
        })?;
        Ok(Self {
            path: path.to_owned(),
            watch: flags.watch,
            asked,
            exports,
            observes: flags.observe,
        })
    }

    /// The file of the policy that is observed.
    pub(super) fn observed(&self) -> Option<&Path> {
        self.policy().filter(|_| self.observes)
    }

    /// The file of the policy that is applied, and followed.
    pub(super) fn enforced(&self) -> Option<&Path> {
        self.policy().filter(|_| !self.observes)
    }

    /// The file of the policy.
    pub(super) fn policy(&self) -> Option<&Path> {
        self.watch.policy.policy.as_deref()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The sections whose consumers take events.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &'static str> {
        let consumers = SECTIONS.iter().filter(|section| section.is_consumer());
        let names = consumers.map(|section| section.name);
        names.filter(|name| self.flags(name).is_some())
    }

    /// Who is sent the history, and where that is.
    pub(super) fn exports(&self) -> (Option<&Path>, &Exports) {
        (self.watch.consumers.history_file(), &self.exports)
    }

    /// The flags of `[watch]` that keep events back.
    pub(super) fn filters(&self) -> Vec<String> {
        let watch = SECTIONS.iter().find(|section| section.name == WATCH);
        let keys = watch.into_iter().flat_map(|section| &section.keys);
        let given = self.flags(WATCH).unwrap_or_default();
        let flags = keys.filter(|key| key.keeps_back());
        let flags = flags.flat_map(|key| value(given, key.flag));
        flags
            .map(|flag| flag.to_string_lossy().into_owned())
            .collect()
    }

    /// Opens what a section asks for. Metrics and the socket tell of what is `beside` events.
    pub(super) fn open(
        &self,
        section: &str,
        beside: &Beside,
    ) -> Result<Vec<Box<dyn Consumer>>, Failure> {
        let place = || format!("{}: [{section}]", self.path.display());
        let flags = self.flags(section).unwrap_or_default();
        let mut flags = Flags::try_parse_from(flags)
            .with_context(place)
            .or_exit(ExitCode::Usage)?;
        let Beside {
            exports,
            enforced,
            events,
        } = beside.clone();
        flags.watch.consumers.tell_boards(exports, enforced);
        flags.watch.consumers.tell_events(events);
        let kinds = self.watch.kinds(SinkKind::Json);
        let opened = flags.watch.consumers.open(kinds, None);
        opened.map_err(|Failure { code, error }| Failure::new(code, error.context(place())))
    }

    /// What has to be done for `next` to take this one's place; or, in words, what cannot
    /// change while a run goes on.
    pub(super) fn steps_to(&self, next: &Self) -> Result<Steps, String> {
        let mut fixed = Vec::new();
        let mut steps = Steps::default();
        for section in &*SECTIONS {
            let (before, after) = (self.flags(section.name), next.flags(section.name));
            let [old, new] = [before, after].map(Option::unwrap_or_default);
            let is_other = |key: &&Key| value(old, key.flag) != value(new, key.flag);
            // But for places that are shared, two consumers are never at one, not even one after
            // the other.
            let is_kept = |key: &Key| !is_other(&key) && !value(old, key.flag).is_empty();
            let is_held = if section.shares_places() {
                !section.keys.iter().any(|key| is_other(&key))
            } else {
                section.places().any(is_kept)
            };
            // That an observed one is another one is seen by what it says.
            if section.name == POLICY && before.is_some() && after.is_some() {
                let is_other_file = !self.observes && self.policy() != next.policy();
                let changed = [
                    (self.observes != next.observes, "observe"),
                    (is_other_file, FILE),
                ];
                let changed = changed.iter().filter(|(is_other, _)| *is_other);
                fixed.extend(changed.map(|(_, key)| format!("{key} in [{POLICY}]")));
                continue;
            }
            let stays = before.is_some() && after.is_some() && is_held;
            if stays || !section.is_consumer() {
                let changed = section.keys.iter().filter(is_other);
                fixed.extend(changed.map(|key| format!("{} in [{}]", key.name, section.name)));
            } else {
                steps.leaving.extend(before.map(|_| section.name));
                steps.joining.extend(after.map(|_| section.name));
            }
        }
        if fixed.is_empty() {
            Ok(steps)
        } else {
            Err(fixed.join(", "))
        }
    }

    fn flags(&self, section: &str) -> Option<&[OsString]> {
        let asked = self.asked.iter().find(|(name, _)| *name == section);
        asked.map(|(_, flags)| &**flags)
    }
}

/// What is asked for by one flag, however often it is there.
fn value<'f>(flags: &'f [OsString], name: &str) -> Vec<&'f OsString> {
    let is_it = |flag: &&OsString| {
        let flag = flag.to_string_lossy();
        let flag = flag.strip_prefix("--").unwrap_or_default();
        flag.split('=').next() == Some(name)
    };
    flags.iter().filter(is_it).collect()
}
