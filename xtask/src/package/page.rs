//! Commands that the page on installing gives, so that they are run as they are there.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::paths;

const PAGE: &str = "docs/install.md";

/// The commands below this heading, up to the next one.
pub(super) fn commands(heading: &str) -> Result<String> {
    let path = paths::workspace().join(PAGE);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let commands = of(&text, heading);
    ensure!(
        !commands.is_empty(),
        "{PAGE}: no commands below `{heading}`"
    );
    Ok(commands)
}

fn of(text: &str, heading: &str) -> String {
    let mut lines = text.lines();
    if !lines.any(|line| line.starts_with('#') && line.trim_start_matches('#').trim() == heading) {
        return String::new();
    }
    let mut commands = String::new();
    let mut is_within = false;
    for line in lines {
        match line {
            "```sh" => is_within = true,
            "```" => is_within = false,
            _ if is_within => commands.extend([line, "\n"]),
            _ if line.starts_with('#') => break,
            _ => {}
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_below_the_heading() {
        let text = "# Page\n```sh\nfirst\n```\n## This\n```sh\n# comment\nsecond\n```\n\
                    ```text\nother\n```\n### Below\n```sh\nthird\n```\n## Next\n```sh\nfourth\n```\n";
        assert_eq!(of(text, "This"), "# comment\nsecond\n");
        assert_eq!(of(text, "Below"), "third\n");
        assert_eq!(of(text, "Nowhere"), "");
    }
}
