//! The networks of files that `[networks]` names.

use std::{ops::Range, path::Path, sync::Arc};

use port_monitor_common::policy::Peer;

use super::Compiler;
use crate::policy::text::{
    diagnostic::Source,
    digest::digest,
    file, network,
    network_list::ListFile,
    parse::{Schema, Section, Value, text},
    problem::Problem,
};

const LIST: Schema = Schema::of(&["file"]);

/// Lines of one file that are told of, errors and warnings each.
const MOST_TOLD: usize = 20;

impl Compiler<'_> {
    /// The networks of the file that an entry of `[networks]` names; none where it is
    /// wrong, which is noted.
    pub(crate) fn network_list(&mut self, item: &Value<'_>) -> Vec<Peer> {
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
            digest: digest(&text),
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
    use crate::policy::rules::compile::lists::*;

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
}
