//! Markdown to roff: as much of either as the pages of `docs/` need for a manual page.

use std::fmt::Write as _;

/// A manual page of section 5 made of a page in Markdown. Its first heading and what follows
/// up to the next are its description; `about` is what `NAME` says.
pub(crate) fn page(title: &str, about: &str, markdown: &str) -> String {
    let mut page = format!(
        ".\\\" Made by `cargo xtask man`.\n.TH {title} 5\n.SH NAME\n{title} \\- {}\n.SH DESCRIPTION\n",
        inline(about)
    );
    let mut blocks = Blocks::default();
    for line in markdown.lines() {
        blocks.take(line, &mut page);
    }
    blocks.end(&mut page);
    page
}

/// What the lines so far have begun.
#[derive(Debug, Default)]
struct Blocks {
    /// The indent of the fence that is open.
    fence: Option<usize>,
    /// The cells of the heading of the table that is open.
    heading: Option<Vec<String>>,
    /// A paragraph or an item of a list, line by line.
    text: Vec<String>,
    /// How `text` begins.
    begin: &'static str,
}

impl Blocks {
    fn take(&mut self, line: &str, page: &mut String) {
        let trimmed = line.trim_start();
        if let Some(indent) = self.fence {
            if trimmed == "```" {
                self.fence = None;
                page.push_str(".EE\n.RE\n");
            } else {
                let code = line.get(indent..).unwrap_or_default();
                let _ = writeln!(page, "{}", literal(code));
            }
        } else if trimmed.starts_with("```") {
            self.end(page);
            self.fence = Some(line.len() - trimmed.len());
            page.push_str(".PP\n.RS 4\n.EX\n");
        } else if let Some(heading) = heading(line) {
            self.end(page);
            page.push_str(&heading);
        } else if line.starts_with('|') {
            self.row(line, page);
        } else if line.is_empty() {
            self.end(page);
        } else if let Some(item) = trimmed.strip_prefix("- ") {
            self.end(page);
            self.begin = ".IP \\(bu 2\n";
            self.text.push(item.to_owned());
        } else {
            if self.text.is_empty() {
                self.begin = ".PP\n";
            }
            self.text.push(trimmed.to_owned());
        }
    }

    /// A row of a table is a term and what the other columns say of it.
    fn row(&mut self, line: &str, page: &mut String) {
        let line = line.replace("\\|", "\0");
        let cells = line.trim_matches('|').split(" | ");
        let cells: Vec<_> = cells.map(|cell| cell.trim().replace('\0', "|")).collect();
        let Some(heading) = &self.heading else {
            self.end(page);
            let _ = writeln!(page, ".PP\n{}:", inline(&cells.join(", ")));
            self.heading = Some(cells);
            return;
        };
        let [term, rest @ ..] = &*cells else {
            return;
        };
        if term.starts_with("---") {
            return;
        }
        let _ = writeln!(page, ".TP\n{}", inline(term));
        let last = rest.len();
        for (number, (cell, name)) in (1..).zip(rest.iter().zip(heading.iter().skip(1))) {
            if last > 1 && number == last {
                let _ = writeln!(page, ".br\n{}: {}", inline(name), inline(cell));
            } else {
                let _ = writeln!(page, "{}", inline(cell));
            }
        }
    }

    /// Ends what is open.
    fn end(&mut self, page: &mut String) {
        self.heading = None;
        if !self.text.is_empty() {
            let _ = writeln!(page, "{}{}", self.begin, inline(&self.text.join(" ")));
            self.text.clear();
        }
    }
}

/// A heading; the first of a page is its title, which the page has already.
fn heading(line: &str) -> Option<String> {
    let (marks, text) = line.split_once(' ')?;
    let text = inline(text);
    match marks {
        "#" => Some(String::new()),
        "##" => Some(format!(".SH \"{}\"\n", text.to_uppercase())),
        "###" => Some(format!(".SS \"{text}\"\n")),
        _ => None,
    }
}

/// A line that is shown as it is.
fn literal(line: &str) -> String {
    let escaped = line.replace('\\', "\\e").replace('-', "\\-");
    // What begins with a control character is no request.
    if escaped.starts_with(['.', '\'']) {
        format!("\\&{escaped}")
    } else {
        escaped
    }
}

/// Text with code and emphasis in bold, and links as what they are called.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '[', '*']) {
        let (before, found) = rest.split_at(at);
        out.push_str(&literal_part(before));
        let marked = span(found, "`` ", " ``")
            .or_else(|| span(found, "`", "`"))
            .or_else(|| span(found, "**", "**"));
        if let Some((inner, behind)) = marked {
            let _ = write!(out, "\\fB{}\\fR", literal_part(inner));
            rest = behind;
        } else if let Some((name, behind)) = link(found) {
            out.push_str(&inline(name));
            rest = behind;
        } else {
            let (mark, behind) = found.split_at(1);
            out.push_str(mark);
            rest = behind;
        }
    }
    out.push_str(&literal_part(rest));
    if out.starts_with(['.', '\'']) {
        out.insert_str(0, "\\&");
    }
    out
}

fn literal_part(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// What stands between the marks that `text` begins with, and what comes behind.
fn span<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str)> {
    text.strip_prefix(open)?.split_once(close)
}

/// The name of a link that `text` begins with, and what comes behind.
fn link(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = text.strip_prefix('[')?.split_once("](")?;
    let (_, behind) = rest.split_once(')')?;
    (!name.contains('[')).then_some((name, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_marks_become_fonts() {
        assert_eq!(inline("a `b-c` d"), "a \\fBb\\-c\\fR d");
        assert_eq!(inline("`` `x` is no y ``"), "\\fB`x` is no y\\fR");
        assert_eq!(
            inline("see [the `page`](a.md#b), *"),
            "see the \\fBpage\\fR, *"
        );
        assert_eq!(inline(".a"), "\\&.a");
        assert_eq!(literal("'a \\ b"), "\\&'a \\e b");
    }

    #[test]
    fn blocks_become_requests() {
        let text = "# T\n\nOne\ntwo.\n\n- a\n  b\n\n## S\n\n| k | v | d |\n|---|---|---|\n| `x` | y | z |\n\n```toml\n.a = 1\n```\n";
        let page = page("t", "about", text);
        let (_, body) = page.split_once(".SH DESCRIPTION\n").unwrap();
        let expected = ".PP\nOne two.\n.IP \\(bu 2\na b\n.SH \"S\"\n.PP\nk, v, d:\n.TP\n\\fBx\\fR\ny\n.br\nd: z\n.PP\n.RS 4\n.EX\n\\&.a = 1\n.EE\n.RE\n";
        assert_eq!(body, expected);
    }
}
