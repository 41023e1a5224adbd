//! What is wrong with gateway.toml, where, and the way out: `file:line:column`, the source line, the message and a help line.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use annotate_snippets::Annotation;
use annotate_snippets::AnnotationKind;
use annotate_snippets::Group;
use annotate_snippets::Level;
use annotate_snippets::Origin;
use annotate_snippets::Renderer;
use annotate_snippets::Snippet;
use annotate_snippets::normalize_untrusted_str;

/// One mistake, or one thing worth a second look.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// What is wrong, naming the table and key.
    pub(super) what: String,
    /// The way out; empty for none.
    pub(super) help: String,
    /// Bytes of the text that are at fault; `None` for the file as a whole.
    pub(super) at: Option<Range<usize>>,
    /// Another place that belongs to it, and why.
    pub(super) related: Option<(Range<usize>, String)>,
    /// Whether the text at `at` is wrong by itself, whatever stands elsewhere. Beside syntax errors only such problems
    /// are reported: what seems to be missing may stand in the part that could not be read.
    pub(super) local: bool,
}

impl Problem {
    /// A problem of the text at `at` alone.
    pub(super) fn here(
        at: Range<usize>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        Problem {
            what: what.into(),
            help: help.into(),
            at: Some(at),
            related: None,
            local: true,
        }
    }

    /// A problem that depends on what stands, or is missing, elsewhere.
    pub(super) fn context(
        at: Option<Range<usize>>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        Problem {
            what: what.into(),
            help: help.into(),
            at,
            related: None,
            local: false,
        }
    }

    /// The same problem, also pointing at a second place.
    pub(super) fn beside(mut self, at: Range<usize>, label: impl Into<String>) -> Problem {
        self.related = Some((at, label.into()));
        self
    }
}

/// What one reading of a file has found so far. Shared by the readers of all tables, hence the cells.
#[derive(Debug, Default)]
pub(super) struct Notes {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    secrets: RefCell<Vec<Range<usize>>>,
    known: RefCell<BTreeSet<(&'static str, &'static str)>>,
    set: RefCell<BTreeSet<(&'static str, &'static str)>>,
    placed: RefCell<Vec<(String, usize)>>,
}

impl Notes {
    /// Adds a mistake: the file will be refused.
    pub(super) fn error(&self, problem: Problem) {
        self.errors.borrow_mut().push(problem);
    }

    /// Adds something worth a second look.
    pub(super) fn warn(&self, problem: Problem) {
        self.warnings.borrow_mut().push(problem);
    }

    /// Whether a mistake was found.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// Says that these bytes may hold a secret: no message shows them.
    pub(super) fn hide(&self, at: Range<usize>) {
        self.secrets.borrow_mut().push(at);
    }

    /// Says that the code knows `key` in tables of this kind, and whether this table sets it.
    pub(super) fn known(&self, kind: &'static str, key: &'static str, set: bool) {
        self.known.borrow_mut().insert((kind, key));
        if set {
            self.set.borrow_mut().insert((kind, key));
        }
    }

    /// Remembers where a file is named that is read later, by whoever needs what it holds.
    pub(super) fn place(&self, name: String, at: &Range<usize>) {
        self.placed.borrow_mut().push((name, at.start));
    }

    /// All of these places, as `file:line:column`.
    pub(super) fn places(&self, path: &str, text: &str) -> BTreeMap<String, String> {
        let placed = self.placed.borrow();
        let shown = placed.iter().map(|(name, byte)| {
            let (line, column) = position(text, *byte);
            (name.clone(), format!("{path}:{line}:{column}"))
        });
        shown.collect()
    }

    /// Adds mistakes of the TOML itself, and takes back what was found on their lines or may only seem to be missing.
    pub(super) fn syntax(&self, text: &str, mistakes: &[toml::de::Error]) {
        if mistakes.is_empty() {
            return;
        }
        let line = |byte: usize| position(text, byte).0;
        let mut broken = BTreeSet::new();
        let mut problems = Vec::new();
        for mistake in mistakes {
            let at = mistake.span().unwrap_or_default();
            broken.extend(line(at.start)..=line(at.end));
            let what = format!("not TOML: {}", mistake.message());
            problems.push(Problem::here(at, what, syntax_help(mistake.message())));
        }
        let mut errors = self.errors.borrow_mut();
        errors.retain(|problem| {
            let place = problem.at.as_ref().map(|place| line(place.start));
            problem.local && place.is_none_or(|place| !broken.contains(&place))
        });
        errors.extend(problems);
    }

    /// Keys that the code knows and no table sets, as `table.key`.
    pub(super) fn unset(&self) -> Vec<String> {
        let set = self.set.borrow();
        let known = self.known.borrow();
        let name = |(kind, key): &(&str, &str)| match *kind {
            "" => (*key).to_owned(),
            kind => format!("{kind}.{key}"),
        };
        known.difference(&set).map(name).collect()
    }

    /// The mistakes, or the warnings when there are none, ready to print.
    pub(super) fn finish(self, path: &str, text: &str) -> Result<Problems, Problems> {
        let secrets = self.secrets.into_inner();
        let report = |mut list: Vec<Problem>, level| {
            let mut source = String::new();
            if !list.is_empty() {
                source = text.to_owned();
                mask_long_words(&mut source);
                for span in secrets {
                    mask(&mut source, span);
                }
            }
            for problem in &mut list {
                mask_long_words(&mut problem.what);
                mask_long_words(&mut problem.help);
            }
            list.sort_by_key(|problem| problem.at.as_ref().map_or(0, |at| at.start));
            Problems {
                path: path.to_owned(),
                source,
                list,
                level,
                is_denied: false,
            }
        };
        let errors = self.errors.into_inner();
        if errors.is_empty() {
            Ok(report(self.warnings.into_inner(), Level::WARNING))
        } else {
            Err(report(errors, Level::ERROR))
        }
    }
}

/// All problems of one file, in the order of the file. Its `Display` is the whole report without colour.
#[derive(Clone)]
pub struct Problems {
    path: String,
    /// The text with everything that may be a secret masked; same length as the original.
    source: String,
    list: Vec<Problem>,
    level: Level<'static>,
    is_denied: bool,
}

impl Problems {
    /// One mistake that concerns the file as a whole, such as that it cannot be read.
    pub(super) fn of_file(path: &str, what: String, help: &str) -> Problems {
        Problems {
            path: path.to_owned(),
            source: String::new(),
            list: vec![Problem::context(None, what, help)],
            level: Level::ERROR,
            is_denied: false,
        }
    }

    /// The same, where this user may not read the file.
    pub(super) fn denied(self) -> Problems {
        Problems {
            is_denied: true,
            ..self
        }
    }

    /// Whether all that is wrong is that this user may not read the file.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.is_denied
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The report for a terminal, with or without colour: each problem with its source line, then a count.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        let renderer = if coloured {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut out = String::new();
        for problem in self.list.iter().take(SHOWN_MAX) {
            out.push_str(&renderer.render(&[self.group(problem)]));
            out.push_str("\n\n");
        }
        out.push_str(&self.count());
        out
    }

    /// One line per problem, `file:line:column: what; help`, for logs and the admin plane.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |problem: &Problem| {
            let mut line = self.path.clone();
            if let Some(at) = &problem.at {
                let (row, column) = position(&self.source, at.start);
                line.push_str(&format!(":{row}:{column}"));
            }
            line.push_str(": ");
            line.push_str(&problem.what);
            if !problem.help.is_empty() {
                line.push_str("; ");
                line.push_str(&problem.help);
            }
            // A text over several lines stays one line here.
            normalize_untrusted_str(&line).replace('\n', "\\n")
        };
        self.list.iter().take(SHOWN_MAX).map(line).collect()
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let group = Group::with_title(self.level.clone().primary_title(&problem.what));
        let group = match &problem.at {
            None => group.element(Origin::path(&self.path)),
            Some(at) => group.element(self.snippet(at, problem.related.as_ref())),
        };
        if problem.help.is_empty() {
            return group;
        }
        group.element(Level::HELP.message(normalize_untrusted_str(&problem.help)))
    }

    /// Only the lines from the first place to the last: the renderer goes through all that it is given, for each problem anew.
    fn snippet<'a>(
        &'a self,
        at: &Range<usize>,
        related: Option<&'a (Range<usize>, String)>,
    ) -> Snippet<'a, Annotation<'a>> {
        let other = related.map_or(at, |(other, _)| other);
        let (first, last) = (at.start.min(other.start), at.end.max(other.end));
        let before = self.source.get(..first).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let after = self.source.get(last..).unwrap_or_default();
        let end = last + after.find('\n').unwrap_or(after.len());
        let shift = |span: &Range<usize>| span.start - start..span.end - start;
        let mut snippet = Snippet::source(self.source.get(start..end).unwrap_or_default())
            .path(&self.path)
            .line_start(1 + before.matches('\n').count())
            .annotation(AnnotationKind::Primary.span(shift(at)));
        if let Some((other, label)) = related {
            let context = AnnotationKind::Context.span(shift(other)).label(label);
            snippet = snippet.annotation(context);
        }
        snippet
    }

    fn count(&self) -> String {
        let word = if self.level == Level::WARNING {
            "warning"
        } else {
            "problem"
        };
        let plural = if self.list.len() == 1 { "" } else { "s" };
        let hidden = match self.list.len().saturating_sub(SHOWN_MAX) {
            0 => String::new(),
            more => format!(" ({more} more not shown)"),
        };
        format!("{}: {} {word}{plural}{hidden}", self.path, self.list.len())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.render(false))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl std::error::Error for Problems {}

fn syntax_help(message: &str) -> &'static str {
    if message.contains("quoted") {
        "put it in quotes: key = \"text\""
    } else if message.contains("duplicate key") {
        "each key and each [table] stands once; only [[tables]] repeat"
    } else {
        "lines are key = \"text\", key = 5, key = true, key = [\"a\", \"b\"], [table] or [[table]]; # begins a comment"
    }
}

/// Line and column (in characters) of a byte, both from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let row = 1 + before.matches('\n').count();
    (row, 1 + before[line_start..].chars().count())
}

/// Replaces every character of the span by as many `*` as it has bytes, so that all other places keep theirs.
fn mask(text: &mut String, span: Range<usize>) {
    let Some(secret) = text.get(span.clone()) else {
        return;
    };
    let hidden: String = secret
        .chars()
        .map(|c| {
            if c == '\n' {
                "\n".to_owned()
            } else {
                "*".repeat(c.len_utf8())
            }
        })
        .collect();
    text.replace_range(span, &hidden);
}

/// Hides words that are long enough to be a key: a message must not carry one into a log because it was pasted in the wrong place.
fn mask_long_words(text: &mut String) {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let mut spans = Vec::new();
    let mut start = 0;
    for (index, byte) in text.bytes().chain([b' ']).enumerate() {
        if is_word(&byte) {
            continue;
        }
        if index - start >= LONG_WORD {
            spans.push(start..index);
        }
        start = index + 1;
    }
    for span in spans {
        mask(text, span);
    }
}

/// Problems shown of one file; a generated file with thousands of equal mistakes must not flood the log.
const SHOWN_MAX: usize = 100;

/// Shortest unbroken run of letters, digits and `_` that is taken for a key or digest.
const LONG_WORD: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_line_column_source_and_help() {
        let notes = Notes::default();
        notes.error(Problem::here(10..13, "[a] b: wrong", "write c"));
        let report = notes.finish("x.toml", "# é\n[a]\n b = 1\n").unwrap_err();
        assert_eq!(
            report.to_string(),
            "error: [a] b: wrong\n --> x.toml:3:2\n  |\n3 |  b = 1\n  |  ^^^\n  |\n  = help: write c\n\nx.toml: 1 problem"
        );
        assert_eq!(report.lines(), ["x.toml:3:2: [a] b: wrong; write c"]);
        assert!(report.render(true).contains("\u{1b}["));
    }

    #[test]
    fn pasted_keys_are_masked_in_every_shown_line() {
        let key = "fp_live_0123456789abcdefghijABCDEFGHIJ012345";
        let text = format!("k = \"{key}\" # {key}\nshort = 'pässword'\n");
        let start = text.find("pässword").unwrap();
        let notes = Notes::default();
        notes.hide(start..start + "pässword".len());
        notes.error(Problem::here(0..1, "one", ""));
        notes.error(Problem::here(start..start + 2, "two", ""));
        let report = notes.finish("x.toml", &text).unwrap_err();
        for shown in [report.to_string(), format!("{report:?}")] {
            assert!(!shown.contains("0123456789"), "{shown}");
            assert!(!shown.contains("ssword"), "{shown}");
        }
        assert_eq!(report.source.len(), text.len());
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = "a = '\u{1b}[31m\u{202e}'\n";
        let notes = Notes::default();
        notes.error(Problem::here(0..1, "x \u{1b}[31m", "y \u{1b}[31m"));
        let report = notes.finish("x.toml", text).unwrap_err();
        assert!(!report.to_string().contains('\u{1b}'));
        assert!(!report.lines().join("").contains('\u{1b}'));
    }

    #[test]
    fn a_flood_of_problems_is_cut_and_counted() {
        let notes = Notes::default();
        for _ in 0..150 {
            notes.error(Problem::context(None, "bad", ""));
        }
        let report = notes.finish("x.toml", "").unwrap_err();
        assert_eq!(report.lines().len(), 100);
        assert!(
            report
                .to_string()
                .ends_with("x.toml: 150 problems (50 more not shown)")
        );
    }
}
