//! Problems with their place in the text, and how they look on a terminal.

use std::{
    collections::HashMap,
    fmt,
    mem::{self, Discriminant},
    ops::Range,
    sync::{Arc, OnceLock},
};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::problem::{Problem, Severity};
use crate::base::{order, sanitize::is_hostile};

/// Problems of one kind that are told of one list.
const MOST_OF_A_KIND: usize = 20;

/// Errors that are told of one policy. To show one takes as long as its line is, and a line
/// may be all of a file.
const MOST_ERRORS: usize = 100;

/// Lines that are longer are shown in part, with so many bytes on both sides of the place.
const LONG_LINE: usize = 400;

/// How to draw a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text only.
    Plain,
    /// With terminal colours.
    Coloured,
}

/// The text of a policy and the name it goes by in messages.
#[derive(Debug)]
pub struct Source {
    /// The path as the user gave it.
    pub name: String,
    /// The text.
    pub text: String,
    /// Where each line but the first begins.
    starts: OnceLock<Vec<usize>>,
}

impl Source {
    /// This text under this name.
    pub const fn new(name: String, text: String) -> Self {
        Self {
            name,
            text,
            starts: OnceLock::new(),
        }
    }

    /// The line that holds byte `offset`, counted from 1.
    pub fn line_at(&self, offset: usize) -> usize {
        1 + self.starts().partition_point(|start| *start <= offset)
    }

    /// Where the line begins that holds byte `offset`.
    fn line_start(&self, offset: usize) -> usize {
        let before = self.starts().partition_point(|start| *start <= offset);
        let last = before.checked_sub(1);
        last.and_then(|last| self.starts().get(last).copied())
            .unwrap_or(0)
    }

    fn starts(&self) -> &[usize] {
        self.starts.get_or_init(|| {
            let newlines = self.text.match_indices('\n');
            newlines.map(|(newline, _)| newline + 1).collect()
        })
    }

    /// Its column in that line, in characters, counted from 1.
    fn column_at(&self, offset: usize) -> usize {
        let end = self.text.floor_char_boundary(offset);
        let before = self.text.get(self.line_start(offset)..end);
        1 + before.unwrap_or_default().chars().count()
    }

    /// The line that holds `span`'s start, and the part of `span` within it.
    fn line_of(&self, span: &Range<usize>) -> (&str, Range<usize>) {
        let start = self.line_start(span.start);
        let rest = self.text.get(start..).unwrap_or_default();
        let line = rest
            .split('\n')
            .next()
            .unwrap_or_default()
            .trim_end_matches('\r');
        let clip = |offset: usize| line.floor_char_boundary(offset.saturating_sub(start));
        (line, clip(span.start)..clip(span.end).max(clip(span.start)))
    }
}

/// The part of a long line that the span lies in.
fn shortened((line, span): (&str, Range<usize>)) -> (&str, Range<usize>) {
    if line.len() <= LONG_LINE {
        return (line, span);
    }
    let around = LONG_LINE / 2;
    let start = line.floor_char_boundary(span.start.saturating_sub(around));
    let end = line.floor_char_boundary(span.end.min(span.start + around) + around);
    let part = line.get(start..end).unwrap_or_default();
    let place = |offset: usize| part.floor_char_boundary(offset.saturating_sub(start));
    (part, place(span.start)..place(span.end))
}

/// The line with a sign in the place of each character that steers a terminal or has no room
/// of its own, but for those of ASCII, which `annotate_snippets` shows by signs.
fn harmless((line, span): (&str, Range<usize>)) -> (String, Range<usize>) {
    let is_shown = |c: char| c.is_ascii() || !is_hostile(c);
    let shown = |part: Range<usize>| {
        let part = line.get(part).unwrap_or_default().chars();
        let signs = part.map(|c| {
            if is_shown(c) {
                c
            } else {
                char::REPLACEMENT_CHARACTER
            }
        });
        signs.collect::<String>()
    };
    let [before, within, behind] = [0..span.start, span.start..span.end, span.end..line.len()];
    let mut text = shown(before);
    let start = text.len();
    text += &shown(within);
    let end = text.len();
    text += &shown(behind);
    (text, start..end)
}

/// One problem of one policy file.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// What is wrong.
    pub problem: Problem,
    source: Arc<Source>,
    span: Range<usize>,
    /// The place in the policy that it comes from.
    order: usize,
}

impl Diagnostic {
    /// The file it is in, as the user would find it.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.source.line_at(self.span.start)
    }

    /// The column, in characters, counted from 1.
    pub fn column(&self) -> usize {
        self.source.column_at(self.span.start)
    }

    /// `file:line:column: message`, the source line with a caret, the help.
    pub fn render(&self, style: Style) -> String {
        let (level, kind) = match self.problem.severity() {
            Severity::Error => (Level::ERROR, ""),
            Severity::Warning => (Level::WARNING, "warning: "),
        };
        let title = format!(
            "{}:{}:{}: {kind}{}",
            self.source.name,
            self.line(),
            self.column(),
            self.problem
        );
        let (line, span) = harmless(shortened(self.source.line_of(&self.span)));
        let mut group = level.no_name().primary_title(title).element(
            Snippet::source(line)
                .line_start(self.line())
                .annotation(AnnotationKind::Primary.span(span)),
        );
        if let Some(help) = self.problem.help() {
            group = group.element(Level::HELP.message(help));
        }
        match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        }
        .render(&[group])
    }
}

impl Diagnostic {
    /// It refuses the policy.
    pub const fn is_error(&self) -> bool {
        matches!(self.problem.severity(), Severity::Error)
    }
}

/// A line that says how many errors the file of that name has, then every diagnostic.
pub(crate) fn render_all(name: &str, diagnostics: &[Diagnostic], style: Style) -> String {
    let errors = diagnostics.iter().filter(|found| found.is_error());
    let errors: usize = errors
        .map(|diagnostic| match diagnostic.problem {
            Problem::MoreErrors(more) => more,
            _ => 1,
        })
        .sum();
    let noun = if errors == 1 { "error" } else { "errors" };
    let mut text = format!("{name}: {errors} {noun}, nothing was applied");
    for diagnostic in diagnostics {
        text.push_str("\n\n");
        text.push_str(&diagnostic.render(style));
    }
    text
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

/// Collects the problems of one file.
#[derive(Debug)]
pub(crate) struct Diagnostics {
    source: Arc<Source>,
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            found: Vec::new(),
        }
    }

    /// Notes a problem at `span`.
    pub(crate) fn report(&mut self, span: Range<usize>, problem: Problem) {
        let source = Arc::clone(&self.source);
        let order = span.start;
        self.report_in(&source, span, problem, order);
    }

    /// Notes a problem in a file that is named at `order` of the policy.
    pub(crate) fn report_in(
        &mut self,
        source: &Arc<Source>,
        span: Range<usize>,
        problem: Problem,
        order: usize,
    ) {
        self.found.push(Diagnostic {
            problem,
            source: Arc::clone(source),
            span,
            order,
        });
    }

    /// How many were found: what comes after them can be cut by [`Diagnostics::cut`].
    pub(crate) const fn mark(&self) -> usize {
        self.found.len()
    }

    /// Keeps a few of each kind of problem found since `mark` in the list at `span`, and
    /// tells how many more there are.
    pub(crate) fn cut(&mut self, mark: usize, span: &Range<usize>) {
        let mut counts: HashMap<Discriminant<Problem>, usize> = HashMap::new();
        let mut more = 0;
        // Those before are not looked at: every list of every rule comes here.
        let since = self.found.split_off(mark.min(self.found.len()));
        self.found.extend(since.into_iter().filter(|diagnostic| {
            let count = counts.entry(mem::discriminant(&diagnostic.problem));
            let count = count.and_modify(|count| *count += 1).or_insert(1);
            let is_told = *count <= MOST_OF_A_KIND;
            more += usize::from(!is_told);
            is_told
        }));
        if more > 0 {
            self.report(span.clone(), Problem::MoreInRule(more));
        }
    }

    /// The value, or `None` with the problem noted.
    pub(crate) fn check<T>(&mut self, span: Range<usize>, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.report(span, problem)).ok()
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// An error was found, which refuses the policy.
    pub(crate) fn has_errors(&self) -> bool {
        self.found
            .iter()
            .any(|diagnostic| diagnostic.problem.severity() == Severity::Error)
    }

    /// What was found, in the order of the text: of very many errors, the first ones and how
    /// many more there are.
    pub(crate) fn into_sorted(mut self) -> Vec<Diagnostic> {
        order::sort_by_key(&mut self.found, |diagnostic| diagnostic.order);
        let errors = self.found.iter().filter(|found| found.is_error()).count();
        let more = errors.saturating_sub(MOST_ERRORS);
        let mut seen = 0;
        self.found.retain_mut(|found| {
            seen += usize::from(found.is_error());
            if found.is_error() && seen == MOST_ERRORS + 1 {
                found.problem = Problem::MoreErrors(more);
            }
            !found.is_error() || seen <= MOST_ERRORS + 1
        });
        self.found
    }
}
