//! The metrics in a file, for the textfile collector of `node_exporter`, which reads it whenever it is
//! scraped: so it is always whole.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::base::sanitize::Escaped;

/// How old the file gets while a run goes on.
const PERIOD: Duration = Duration::from_secs(5);

/// Whoever may open the directory may read the file: the collector is another user.
const MODE: u32 = 0o644;

/// The file.
#[derive(Debug)]
pub(super) struct TextFile {
    path: PathBuf,
    /// What is written first, in the same directory.
    draft: PathBuf,
    written: Instant,
    error: Option<String>,
}

impl TextFile {
    /// The file at `path`, which has `text` from now on.
    pub(super) fn create(path: &Path, text: &str) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut file = Self {
            path: path.to_owned(),
            // The collector reads what ends in `.prom`.
            draft: path.with_file_name(format!(".{name}.new")),
            written: Instant::now(),
            error: None,
        };
        file.replace(text)?;
        Ok(file)
    }

    /// It is time to write it again.
    pub(super) fn is_due(&self) -> bool {
        self.written.elapsed() >= PERIOD
    }

    /// Has `text` in it from now on; if that fails, what was there before.
    pub(super) fn write(&mut self, text: &str) {
        let result = self.replace(text);
        self.written = Instant::now();
        let error = result.err().map(|error| {
            let path = self.shown();
            format!("write {path}: {error}")
        });
        match (&self.error, &error) {
            (None, Some(error)) => log::warn!("--metrics-file: {error}; it is tried again"),
            (Some(_), None) => {
                log::warn!("--metrics-file: {} is written again", self.shown());
            }
            _ => {}
        }
        self.error = error;
    }

    /// Why it is not as it should be.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    fn shown(&self) -> String {
        Escaped(self.path.as_os_str().as_encoded_bytes()).to_string()
    }

    fn replace(&mut self, text: &str) -> io::Result<()> {
        // One may be there of a run that was killed.
        match fs::remove_file(&self.draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut draft = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&self.draft)?;
        let written = draft
            .set_permissions(Permissions::from_mode(MODE))
            .and_then(|()| draft.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&self.draft, &self.path));
        if written.is_err() {
            // What failed is told; that this fails too says no more.
            let _ = fs::remove_file(&self.draft);
        }
        written
    }
}
