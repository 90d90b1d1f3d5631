//! What is asked for to be written to a file. A file that is there is changed after a word alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::{
    base::sanitize::Escaped,
    consume::top::{Asks, Exported, Form, Recorded, Shared, Ui},
};

/// The file that an answer names, and its form; without one it is asked again, or given up.
pub(super) fn named(ui: &mut Ui, asks: &Asks, text: &str) -> Option<(PathBuf, Form)> {
    let path = match asks {
        Asks::Overwrite(path) if is_yes(text) => path.clone(),
        Asks::Overwrite(_) => {
            ui.say("nothing is written".to_owned());
            return None;
        }
        _ => PathBuf::from(text),
    };
    let form = Form::of(&path.to_string_lossy());
    if form.is_none() {
        let problem = "end it with .json, .jsonl or .csv".to_owned();
        ui.ask_again(Asks::Export, text.to_owned(), problem);
    }
    Some((path, form?))
}

/// Writes it, or asks what is to become of what is there.
pub(super) fn write(ui: &mut Ui, asks: &Asks, text: String, (path, exported): (&Path, &Exported)) {
    let may_overwrite = matches!(asks, Asks::Overwrite(_));
    match try_write(path, may_overwrite, &exported.text) {
        Ok(()) => {
            let rows = exported.rows;
            let rows = format!("{rows} {}", if rows == 1 { "row" } else { "rows" });
            ui.say(format!("{} has {rows}", path.display()));
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            ui.ask(Asks::Overwrite(path.to_owned()));
        }
        Err(error) => {
            let text = if may_overwrite {
                path.display().to_string()
            } else {
                text
            };
            ui.ask_again(Asks::Export, text, error.to_string());
        }
    }
}

fn try_write(path: &Path, may_overwrite: bool, text: &[u8]) -> io::Result<()> {
    let is_other = fs::metadata(path).is_ok_and(|found| !found.is_file());
    if is_other {
        return Err(io::Error::other(
            "that is not a file that can be overwritten",
        ));
    }
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if may_overwrite {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options.open(path)?.write_all(text)
}

/// Begins to record where an answer says, or asks what is to become of what is there.
pub(super) fn record(shared: &Shared, ui: &mut Ui, asks: Asks, text: String) {
    let path = match asks {
        Asks::Append(path) if is_yes(&text) => path,
        Asks::Append(_) => return ui.say("nothing is recorded".to_owned()),
        _ if text.is_empty() => {
            return ui.ask_again(Asks::Record, text, "name a file".to_owned());
        }
        _ if fs::symlink_metadata(&text).is_ok_and(|found| found.is_file()) => {
            return ui.ask(Asks::Append(text.into()));
        }
        _ => PathBuf::from(&text),
    };
    match shared.begin_recording(&path) {
        Ok(()) => ui.say(format!("{}: R ends it", path.display())),
        Err(failure) => {
            let text = path.display().to_string();
            ui.ask_again(Asks::Record, text, format!("{:#}", failure.error));
        }
    }
}

/// How a recording stood at its end.
pub(super) fn ended(ended: &Recorded) -> String {
    let Recorded {
        name,
        taken,
        missing,
        error,
    } = ended;
    let mut text = format!("{name} has {taken} events");
    if *missing > 0 {
        text = format!("{text}, and lacks {missing}");
    }
    match error {
        Some(error) => format!("{text}: {}", Escaped(error.as_bytes())),
        None => text,
    }
}

fn is_yes(text: &str) -> bool {
    matches!(text.trim(), "y" | "yes" | "Y")
}

#[cfg(test)]
mod tests;
