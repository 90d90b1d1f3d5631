//! Ends enforcement, whatever is in the way.
//!
//! It takes no lock and needs no map: somebody may hold the one, and the others may be of
//! another version, or gone. First an instance loses its name, so that nobody else can pin
//! anything in it any more; then its links go; then all the rest.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process,
};

use port_monitor_common::generation::State;

use super::{
    EnforcerError, attempt, bpf,
    generations::{self, StateWord as _},
    grace, home, install,
    tables::Tables,
    watch::Watch,
};

/// How often somebody else may add to what is being removed.
const TRIES: u32 = 100;

/// What could not be done.
#[derive(Debug, Default)]
pub struct Left {
    /// Links that are still pinned: their programs may still decide.
    pub links: Vec<(PathBuf, io::Error)>,
    /// What does no harm.
    pub others: Vec<(PathBuf, io::Error)>,
    /// Why it is not certain that every program that ran has ended.
    pub running: Option<io::Error>,
}

/// Detaches and forgets everything of an instance, as far as that is possible. Connections
/// are no longer judged once this returns, if no link is left.
pub(super) fn remove(name: &str) -> Result<Left, EnforcerError> {
    let mut left = Left::default();
    let mut found = false;
    // What is being installed first: later it could get the name that was taken away.
    let pinned = home::of(name)?;
    let all = pinned.parent().unwrap_or(&pinned).to_owned();
    let mut doomed = attempt::all_of(&all, name);
    doomed.push(pinned);
    for (nth, dir) in doomed.iter().enumerate() {
        let ended = all.join(format!("{name}_ended_{}_{nth}", process::id()));
        if let Some(dir) = take_name(dir, ended)? {
            found = true;
            end(&dir, &mut left);
        }
    }
    for dir in all_of(&all, name)? {
        found = true;
        end(&dir, &mut left);
    }
    // Nobody minds if another instance is still there.
    let _ = fs::remove_dir(&all);
    if found {
        Ok(left)
    } else {
        Err(EnforcerError::NotApplied(name.to_owned()))
    }
}

/// What others began to remove, or an older version left.
fn all_of(all: &Path, name: &str) -> Result<Vec<PathBuf>, EnforcerError> {
    let entries = match fs::read_dir(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(EnforcerError::File {
                path: all.to_owned(),
                error,
            });
        }
        Ok(entries) => entries.flatten(),
    };
    let is_its = |path: &PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('_'))
    };
    Ok(entries
        .map(|entry| entry.path())
        .filter(is_its)
        .filter(|path| attempt::is_left(path))
        .collect())
}

/// Gives a directory another name; `None` where there is none. Where it cannot be renamed
/// it is removed under its own.
fn take_name(dir: &Path, ended: PathBuf) -> Result<Option<PathBuf>, EnforcerError> {
    match fs::rename(dir, &ended) {
        Ok(()) => Ok(Some(ended)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(_) => match fs::symlink_metadata(dir) {
            Ok(_) => Ok(Some(dir.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EnforcerError::File {
                path: dir.to_owned(),
                error,
            }),
        },
    }
}

/// Ends what is pinned in a directory.
fn end(dir: &Path, left: &mut Left) {
    let state = bpf::open_pinned(&dir.join("pm_state"));
    remove_links(dir, left);
    // Whoever looks at the state sees that nothing is in force.
    let _ = open_up(dir);
    if let Ok(state) = state
        && let Err(error) = grace::wait_for_programs(state.as_fd())
    {
        left.running = Some(error);
    }
    remove_dir(dir, left);
}

/// Makes the programs allow everything, should one still be attached.
fn open_up(dir: &Path) -> Result<(), EnforcerError> {
    install::check_version(dir)?;
    let mut tables = Tables::open(dir)?;
    let watch = Watch::open(dir)?;
    let [generation, _] = generations::free_generations(watch.state());
    tables.clear(generation)?;
    while !watch.exchange(watch.state(), State::confirmed(generation)) {}
    Ok(())
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Detaches the programs at once, whoever holds their links, and unpins these.
fn remove_links(dir: &Path, left: &mut Left) {
    let is_link = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(install::LINK)
    };
    for path in entries(dir).into_iter().filter(is_link) {
        let detached = bpf::open_pinned(&path).and_then(|link| bpf::detach(link.as_fd()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                if detached.is_ok() {
                    left.others.push((path, error));
                } else {
                    left.links.push((path, error));
                }
            }
            _ => {
                if let Err(error) = detached {
                    log::debug!("detach {}: {error}", path.display());
                }
            }
        }
    }
}

/// Removes a directory and all in it, links first, also what somebody adds meanwhile.
pub(super) fn remove_dir(dir: &Path, left: &mut Left) {
    let mut problem = None;
    for _ in 0..TRIES {
        remove_links(dir, left);
        let mut others = Vec::new();
        for path in entries(dir) {
            if path.is_dir() {
                remove_dir(&path, left);
                continue;
            }
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    others.push((path, error));
                }
                _ => {}
            }
        }
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                problem = Some(error);
                if !others.is_empty() {
                    left.others.append(&mut others);
                    break;
                }
            }
            _ => return,
        }
    }
    if let Some(error) = problem {
        left.others.push((dir.to_owned(), error));
    }
}
