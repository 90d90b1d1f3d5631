//! The exports of a service: they begin, change and end with its configuration.

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::config::Config;
use crate::{
    base::exit_code::{ExitCode, Failure},
    commands::told::note,
    consume::{
        export::{Board, Export, Settings},
        history::outbox::keep_only,
    },
};

/// Those that run.
#[derive(Default)]
pub(super) struct Exports {
    board: Arc<Board>,
    history: Option<PathBuf>,
    running: BTreeMap<String, (Settings, Export)>,
}

impl Exports {
    /// How they stand.
    pub(super) const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Has those run that the configuration asks for. What could not begin is in the failure.
    pub(super) fn change(&mut self, config: &Config) -> Result<(), Failure> {
        let (history, wanted) = config.exports();
        let is_other_history = self.history.as_deref() != history;
        let running = mem::take(&mut self.running);
        let (stay, leave) = running.into_iter().partition(|(name, (settings, _))| {
            !is_other_history && wanted.get(name) == Some(settings)
        });
        self.running = stay;
        finish(leave);
        self.history = history.map(Path::to_owned);
        let Some(history) = history else {
            return Ok(());
        };
        let names: Vec<&str> = wanted.keys().map(String::as_str).collect();
        let over = keep_only(history, &names);
        let over = over.map_err(|error| Failure::new(ExitCode::OutputFailed, error))?;
        for (name, waiting) in over {
            note(format_args!(
                "export {name}: no longer in the configuration: rows that are not sent: {waiting}"
            ));
        }
        for (name, settings) in wanted {
            if self.running.contains_key(name) {
                continue;
            }
            let export = Export::start(history, name, settings, &self.board);
            let export = export.map_err(|error| {
                let error = anyhow::Error::new(error).context(format!("export {name}"));
                Failure::new(ExitCode::OutputFailed, error)
            })?;
            let running = (settings.clone(), export);
            self.running.insert(name.clone(), running);
        }
        Ok(())
    }

    /// Ends all of them.
    pub(super) fn finish(self) {
        finish(self.running);
    }
}

/// Lets them end together, and tells what became of their rows.
fn finish(exports: BTreeMap<String, (Settings, Export)>) {
    for (_, export) in exports.values() {
        export.stop();
    }
    for (_, export) in exports.into_values() {
        note(export.finish());
    }
}
