//! `cargo xtask man`: the manual, as packages install it.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{artifacts, paths, process, roff};

/// The page about the policy file.
const POLICY: &str = "port-monitor-policy";

/// Writes a page for each command, and one for the policy file, to `target/man`.
pub(crate) fn run() -> Result<()> {
    let program = artifacts::build_program()?;
    let dir = paths::workspace().join("target/man");
    process::output(Command::new(program).args(["man", "--dir"]).arg(&dir))?;
    let path = dir.join(format!("{POLICY}.5"));
    fs::write(&path, policy()?).with_context(|| format!("write {}", path.display()))?;
    println!("{}", dir.display());
    Ok(())
}

/// The page about the policy file: what `docs/policy.md` says.
fn policy() -> Result<String> {
    let path = paths::workspace().join("docs/policy.md");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(roff::page(POLICY, "the policy file of port-monitor", &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_of_the_policy_file_has_every_heading_and_no_markdown() {
        let page = policy().unwrap();
        assert!(page.contains("\n.TH port-monitor-policy 5\n"));
        for heading in [".SH \"KEYS OF A RULE\"", ".SS \"exe\"", ".SS \"failsafe\""] {
            assert!(page.lines().any(|line| line == heading), "{heading}");
        }
        for mark in ["```", "](", "**", "|---"] {
            assert!(!page.contains(mark), "{mark}");
        }
    }
}
