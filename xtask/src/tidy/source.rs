//! A file as the rules see it, and what they say of it.

/// A rule broken in one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The file, relative to the workspace.
    pub(super) path: String,
    /// 1-based; 0 stands for the file as a whole.
    pub(super) line: usize,
    /// What to do.
    pub(super) text: String,
}

/// A text file of the work tree.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Relative to the workspace.
    pub(super) path: String,
    /// All of it.
    pub(super) text: String,
}

impl SourceFile {
    /// A file with this content.
    pub(super) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            text: text.into(),
        }
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether the name ends in a dot and `extension`.
    pub(super) fn has_extension(&self, extension: &str) -> bool {
        self.name()
            .rsplit_once('.')
            .is_some_and(|(_, own)| own == extension)
    }

    /// Whether a program writes it.
    pub(super) fn is_generated(&self) -> bool {
        let mut top = self.text.lines().take(5);
        ["tsv", "json"].iter().any(|kind| self.has_extension(kind))
            || top.any(|line| line.contains("@generated"))
    }

    /// Whether people read it as a page. A limit makes pages denser, not shorter.
    pub(super) fn is_prose(&self) -> bool {
        self.has_extension("md")
    }

    /// Whether its words are not ours to change.
    pub(super) fn is_license(&self) -> bool {
        self.path.starts_with("LICENSE")
    }

    /// The lines of Rust code with their numbers: no comments, and nothing from
    /// the unit tests on, which end a file. None in other files.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_rust = self.has_extension("rs");
        self.lines()
            .take_while(move |(_, line)| is_rust && line.trim() != "#[cfg(test)]")
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// All lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// A finding on the file as a whole.
    pub(super) fn finding(&self, text: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line: 0,
            text: text.into(),
        }
    }

    /// A finding on each of `lines`, which says this of all of them.
    pub(super) fn findings<'a>(
        &self,
        text: &str,
        lines: impl Iterator<Item = (usize, &'a str)>,
    ) -> Vec<Finding> {
        let finding = |(line, _)| Finding {
            line,
            ..self.finding(text)
        };
        lines.map(finding).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_without_comments_and_unit_tests() {
        let text = "//! doc\nuse a;\n    // why\nlet b;\n#[cfg(test)]\nmod tests {}\n";
        let code: Vec<(usize, String)> = SourceFile::new("a.rs", text)
            .code()
            .map(|(number, line)| (number, line.to_owned()))
            .collect();
        assert_eq!(code, [(2, "use a;".to_owned()), (4, "let b;".to_owned())]);
    }

    #[test]
    fn other_files_have_no_code() {
        assert_eq!(SourceFile::new("a.md", "use a;").code().count(), 0);
    }
}
