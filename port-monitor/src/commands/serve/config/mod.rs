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
    keys::{Flags, Key, POLICY, SECTIONS, WATCH},
    read::{Asked, Exports, Read, read},
};
use crate::{
    base::exit_code::{ExitCode, Failure, OrExit as _},
    commands::{load, watch},
    consume::{SinkKind, consumer::Consumer, export::Board, socket::Events},
    policy::{Policy, text::diagnostic::render_all, text::file::read_text},
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
    /// Reads the file, and the policy that it names. What is wrong there is all in the
    /// failure.
    pub(super) fn load(path: &Path) -> Result<(Self, Option<Policy>), Failure> {
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
        let watch = flags.watch;
        let policy = watch.policy.policy.as_deref().map(load::load).transpose()?;
        let config = Self {
            path: path.to_owned(),
            watch,
            asked,
            exports,
        };
        Ok((config, policy))
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

    /// Opens what a section asks for. Metrics tell of the exports on the `board`, and the socket
    /// tells the `events`.
    pub(super) fn open(
        &self,
        section: &str,
        board: &Arc<Board>,
        events: &Events,
    ) -> Result<Vec<Box<dyn Consumer>>, Failure> {
        let place = || format!("{}: [{section}]", self.path.display());
        let flags = self.flags(section).unwrap_or_default();
        let mut flags = Flags::try_parse_from(flags)
            .with_context(place)
            .or_exit(ExitCode::Usage)?;
        flags.watch.consumers.tell_exports(Arc::clone(board));
        flags.watch.consumers.tell_events(events.clone());
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
            // That it is another one is seen by what it says.
            if section.name == POLICY && before.is_some() && after.is_some() {
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
