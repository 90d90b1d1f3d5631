//! `cargo xtask man`: the manual, as packages install it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{artifacts, paths, process, roff};

/// A page about a file: its name, what the file is, and where that is written down.
struct Page {
    name: &'static str,
    title: &'static str,
    text: &'static str,
}

const PAGES: [Page; 2] = [
    Page {
        name: "port-monitor-policy",
        title: "the policy file of port-monitor",
        text: "docs/policy.md",
    },
    Page {
        name: "port-monitor.toml",
        title: "the configuration of port-monitor serve",
        text: "docs/serve.md",
    },
];

/// Writes the manual to `target/man`.
pub(crate) fn run() -> Result<()> {
    let dir = paths::workspace().join("target/man");
    write(&artifacts::build_program(artifacts::RELEASE)?, &dir)?;
    println!("{}", dir.display());
    Ok(())
}

/// Writes a page for each command of `program`, and one for each file, to `dir`.
pub(crate) fn write(program: &Path, dir: &Path) -> Result<()> {
    process::output(Command::new(program).args(["man", "--dir"]).arg(dir))?;
    for page in &PAGES {
        let path = dir.join(format!("{}.5", page.name));
        fs::write(&path, page.roff()?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

impl Page {
    fn roff(&self) -> Result<String> {
        let path = paths::workspace().join(self.text);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(roff::page(self.name, self.title, &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_have_every_heading_and_no_markdown() {
        let headings = [
            [".SH \"KEYS OF A RULE\"", ".SS \"exe\"", ".SS \"failsafe\""],
            [
                ".SH \"KEYS OF [WATCH]\"",
                ".SS \"latency\"",
                ".SS \"observe\"",
            ],
        ];
        for (page, headings) in PAGES.iter().zip(headings) {
            let text = page.roff().unwrap();
            assert!(text.contains(&format!("\n.TH {} 5\n", page.name)));
            for heading in headings {
                assert!(text.lines().any(|line| line == heading), "{heading}");
            }
            for mark in ["```", "](", "**", "|---"] {
                assert!(!text.contains(mark), "{mark}");
            }
        }
    }
}
