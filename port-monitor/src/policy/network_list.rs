//! Lists of networks in files of their own, as block lists are published: one address or
//! CIDR a line, comments after `#` or `;`.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use port_monitor_common::policy::Peer;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::{
    compile::Compiler,
    diagnostic::Source,
    file, lower, network,
    parse::{Schema, Section, Value, text},
    problem::Problem,
};

const LIST: Schema = Schema::of(&["file"]);

/// Larger files are refused unread: several times what as many networks take as a policy
/// may have.
const MAX_BYTES: u64 = 64 << 20;

/// Lines of one file that are told of, errors and warnings each.
const MOST_TOLD: usize = 20;

/// A file of networks that a policy reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFile {
    /// The path to read it again by.
    pub path: PathBuf,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
}

/// Why a list cannot be read.
#[derive(Debug, Error)]
pub enum ListError {
    /// Open or read failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A directory, a FIFO, a device.
    #[error("is not a regular file")]
    NotRegular,
    /// Too large to be a list.
    #[error("is larger than 64 MiB")]
    TooLarge,
    /// Not text.
    #[error("is not text (byte {0})")]
    NotText(usize),
}

/// Reads the text of a list.
pub(super) fn read(path: &Path) -> Result<String, ListError> {
    // Without NONBLOCK, opening a FIFO waits for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(ListError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(ListError::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| ListError::NotText(error.utf8_error().valid_up_to()))
}

impl Compiler<'_> {
    /// The networks of the file that an entry of `[networks]` names; none where it is
    /// wrong, which is noted.
    pub(super) fn network_list(&mut self, item: &Value<'_>) -> Vec<Peer> {
        let Some(section) = Section::open(item, &LIST, &mut self.diagnostics) else {
            return Vec::new();
        };
        let Some(file) = section.required("file", &mut self.diagnostics) else {
            return Vec::new();
        };
        let Some(name) = self.diagnostics.check(file.span(), text(file)) else {
            return Vec::new();
        };
        let policy = Path::new(&self.diagnostics.source().name);
        let path = file::directory(policy).join(name);
        self.list_paths.push(path.clone());
        let text = self.env.network_list(&path);
        let text = text.map_err(|error| Problem::ListFile {
            path: path.display().to_string(),
            error: error.to_string(),
        });
        let Some(text) = self.diagnostics.check(file.span(), text) else {
            return Vec::new();
        };
        self.lists.push(ListFile {
            digest: lower::digest(&text),
            path: path.clone(),
        });
        let name = path.display().to_string();
        let networks = self.lines(&Arc::new(Source::new(name, text)), file.span());
        if networks.is_empty() && !self.diagnostics.has_errors() {
            let path = path.display().to_string();
            self.diagnostics
                .report(file.span(), Problem::EmptyListFile(path));
        }
        networks
    }

    /// Reads the lines of a list that is named at `span` of the policy.
    fn lines(&mut self, list: &Arc<Source>, span: Range<usize>) -> Vec<Peer> {
        let mut networks = Vec::new();
        let (mut wrong, mut remarks) = (Vec::new(), Vec::new());
        for (place, entry) in entries(&list.text) {
            match network::network(entry) {
                Ok(network) => {
                    let remark = network::remark(entry, &network);
                    remarks.extend(remark.map(|problem| (place, problem)));
                    networks.push(Peer::Network(network));
                }
                Err(problem) => wrong.push((place, problem)),
            }
        }
        for found in [wrong, remarks] {
            let more = found.len().saturating_sub(MOST_TOLD);
            for (place, problem) in found.into_iter().take(MOST_TOLD) {
                self.diagnostics.report_in(list, place, problem, span.start);
            }
            if more > 0 {
                let problem = Problem::MoreInList {
                    path: list.name.clone(),
                    more,
                };
                self.diagnostics.report(span.clone(), problem);
            }
        }
        networks
    }
}

/// The entries of a list and where they are.
fn entries(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut start = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let line_start = start;
        start += line.len();
        let entry = line.split(['#', ';']).next().unwrap_or_default();
        // Some editors begin a file with a byte order mark.
        let is_space = |c: char| c.is_whitespace() || (c == '\u{feff}' && line_start == 0);
        let begin = entry.len() - entry.trim_start_matches(is_space).len();
        let entry = entry.trim_matches(is_space);
        let begin = line_start + begin;
        (!entry.is_empty()).then(|| (begin..begin + entry.len(), entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_entries_but_for_comments_and_blank_ones() {
        let text = "\u{feff}10.0.0.0/8\r\n; DROP list\n\n  # nothing\n\t1.2.3.0/24 ; SBL1\n::1#a";
        let found: Vec<_> = entries(text).collect();
        let named: Vec<_> = found.iter().map(|(_, entry)| *entry).collect();
        assert_eq!(named, ["10.0.0.0/8", "1.2.3.0/24", "::1"]);
        for (place, entry) in found {
            assert_eq!(text.get(place), Some(entry));
        }
    }

    #[test]
    fn what_is_no_list_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(dir.path()), Err(ListError::NotRegular)));
        assert!(matches!(
            read(Path::new("/dev/zero")),
            Err(ListError::NotRegular)
        ));
        let file = dir.path().join("list");
        std::fs::write(&file, b"10.0.0.0/8 # caf\xe9").unwrap();
        assert!(matches!(read(&file), Err(ListError::NotText(16))));
    }
}
