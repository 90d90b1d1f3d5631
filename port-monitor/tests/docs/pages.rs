//! The pages, and what they are made of: headings, fenced blocks, rows of tables, commands.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the repository.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A page in Markdown.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Its path, relative to the workspace.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// A fenced block of a page.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The page and the line of the fence.
    pub(crate) place: String,
    /// What the fence says behind the backticks: the language, then the kind.
    pub(crate) kind: String,
    pub(crate) text: String,
}

impl Page {
    /// The page at that path below the workspace.
    pub(crate) fn read(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let text = fs::read_to_string(workspace().join(&path)).unwrap();
        Self { path, text }
    }

    /// Its fenced blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut lines = (1..).zip(self.text.lines());
        while let Some((number, line)) = lines.next() {
            let Some(kind) = line.trim_start().strip_prefix("```") else {
                continue;
            };
            let indent = line.len() - line.trim_start().len();
            let body = lines.by_ref().map(|(_, line)| line);
            let body = body.take_while(|line| line.trim() != "```");
            let body = body.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()));
            blocks.push(Block {
                place: format!("{}:{number}", self.path.display()),
                kind: kind.to_owned(),
                text: body.collect(),
            });
        }
        blocks
    }

    /// Its text without the fenced blocks.
    pub(crate) fn prose(&self) -> String {
        let parts = self.text.split("```");
        parts.step_by(2).collect()
    }

    /// What stands below the heading `## title` or `### title`.
    pub(crate) fn section(&self, heading: &str) -> &str {
        let (_, rest) = self.text.split_once(&format!("\n{heading}\n")).unwrap();
        let level = heading.split(' ').next().unwrap();
        rest.split(&format!("\n{level} ")).next().unwrap()
    }
}

/// Every page that tells users something.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths = ["README.md", "CONTRIBUTING.md", "THREATS.md"]
        .map(PathBuf::from)
        .to_vec();
    for entry in fs::read_dir(workspace().join("docs")).unwrap() {
        let name = entry.unwrap().file_name();
        if Path::new(&name)
            .extension()
            .is_some_and(|kind| kind == "md")
        {
            paths.push(Path::new("docs").join(name));
        }
    }
    paths.sort();
    paths.into_iter().map(Page::read).collect()
}

/// The fenced blocks of all pages.
pub(crate) fn blocks() -> Vec<Block> {
    pages().iter().flat_map(Page::blocks).collect()
}

/// The commands that a block of kind `console` shows, each with its output.
pub(crate) fn sessions(block: &Block) -> Vec<(String, String)> {
    let mut sessions: Vec<(String, String)> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            sessions.push((command.to_owned(), String::new()));
        } else {
            let (_, output) = sessions.last_mut().unwrap();
            output.push_str(line);
            output.push('\n');
        }
    }
    sessions
}

/// The commands of a line of shell, each as its words; without comments and redirections.
pub(crate) fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut is_target = false;
    for word in words(line) {
        match &*word {
            "|" | ";" | "&&" => commands.push(Vec::new()),
            ">" | ">>" => is_target = true,
            _ if is_target => is_target = false,
            _ => commands.last_mut().unwrap().push(word),
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// The words of a line of shell, quotes taken off, up to a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = None::<String>;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(mark) if c == mark => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None if c == '#' && word.is_none() => break,
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The rows of the tables in `text` whose heading is `heading`, each as its cells. A `\|`
/// is no end of a cell.
pub(crate) fn rows(text: &str, heading: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line == heading {
            is_inside = true;
        } else if !line.starts_with('|') {
            is_inside = false;
        } else if is_inside && !line.starts_with("|---") {
            let line = line.replace("\\|", "\0");
            let cells = line.trim_matches('|').split(" | ");
            rows.push(cells.map(|cell| cell.trim().replace('\0', "|")).collect());
        }
    }
    rows
}

/// The text of a piece of code, without its backticks.
pub(crate) fn code(cell: &str) -> &str {
    let inner = cell.trim_matches('`').trim();
    // The text itself may begin or end with a backtick.
    match cell
        .strip_prefix("`` ")
        .and_then(|rest| rest.strip_suffix(" ``"))
    {
        Some(text) => text,
        None => inner,
    }
}
