//! The filter against a reader that parses, deletes and writes again, on any text in any pieces.

use proptest::prelude::*;

use super::filtered;
use super::rules;
use super::staged;
use crate::guard::Fault;
use crate::guard::Form;
use crate::guard::Rules;
use crate::guard::names::says;

/// JSON as the reference reads it: what scalars look like, and members in their order, duplicates too.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    Scalar(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

/// Writes it with space from this supply.
fn write(tree: &Tree, spaces: &mut impl Iterator<Item = &'static str>, out: &mut String) {
    out.push_str(spaces.next().unwrap_or(""));
    match tree {
        Tree::Scalar(text) => out.push_str(text),
        Tree::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(item, spaces, out);
            }
            out.push_str(spaces.next().unwrap_or(""));
            out.push(']');
        }
        Tree::Object(members) => {
            out.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                out.push_str(spaces.next().unwrap_or(""));
                out.push_str(&format!("\"{name}\""));
                out.push_str(spaces.next().unwrap_or(""));
                out.push(':');
                write(value, spaces, out);
            }
            out.push_str(spaces.next().unwrap_or(""));
            out.push('}');
        }
    }
    out.push_str(spaces.next().unwrap_or(""));
}

/// Parses one text, naively.
struct Parser<'a> {
    text: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.text = self.text.trim_start_matches([' ', '\n', '\t', '\r']);
    }

    fn eat(&mut self, token: &str) -> bool {
        self.space();
        let rest = self.text.strip_prefix(token);
        self.text = rest.unwrap_or(self.text);
        rest.is_some()
    }

    fn string(&mut self) -> String {
        assert!(self.eat("\""), "a string at {:?}", self.text);
        let mut escaped = false;
        let end = self.text.find(|letter| {
            let over = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            over
        });
        let (string, rest) = self.text.split_at(end.unwrap());
        self.text = &rest[1..];
        string.to_owned()
    }

    fn value(&mut self) -> Tree {
        self.space();
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                assert!(items.is_empty() || self.eat(","));
                items.push(self.value());
            }
            return Tree::Array(items);
        }
        if self.eat("{") {
            let mut members = Vec::new();
            while !self.eat("}") {
                assert!(members.is_empty() || self.eat(","));
                let name = self.string();
                assert!(self.eat(":"));
                members.push((name, self.value()));
            }
            return Tree::Object(members);
        }
        if self.text.starts_with('"') {
            return Tree::Scalar(format!("\"{}\"", self.string()));
        }
        let end = self.text.find([',', ']', '}', ' ', '\n', '\t', '\r']);
        let (scalar, rest) = self.text.split_at(end.unwrap_or(self.text.len()));
        self.text = rest;
        Tree::Scalar(scalar.to_owned())
    }
}

fn parse(text: &str) -> Vec<Tree> {
    let mut parser = Parser { text };
    let mut trees = Vec::new();
    loop {
        parser.space();
        if parser.text.is_empty() {
            return trees;
        }
        trees.push(parser.value());
    }
}

fn is(name: &str, known: &str) -> bool {
    says(name.as_bytes(), known)
}

fn without(tree: &Tree) -> Tree {
    match tree {
        Tree::Scalar(_) => tree.clone(),
        Tree::Array(items) => Tree::Array(items.iter().map(without).collect()),
        Tree::Object(members) => Tree::Object(
            members
                .iter()
                .filter(|(name, _)| !is(name, "tenant_id") && !is(name, "secret"))
                .map(|(name, value)| (name.clone(), without(value)))
                .collect(),
        ),
    }
}

fn holds_foreign(tree: &Tree) -> bool {
    match tree {
        Tree::Scalar(_) => false,
        Tree::Array(items) => items.iter().any(holds_foreign),
        Tree::Object(members) => members.iter().any(|(name, value)| {
            let watched = is(name, "tenant_id") || is(name, "org");
            let foreign = match value {
                Tree::Scalar(text) => match text.strip_prefix('"') {
                    Some(text) => !is(&text[..text.len() - 1], "acme"),
                    None => text.starts_with(|first: char| first.is_ascii_digit() || first == '-'),
                },
                _ => false,
            };
            watched && foreign || holds_foreign(value)
        }),
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("tenant_id".to_owned()),
        1 => Just(r"\u0074enant\u005Fid".to_owned()),
        1 => Just("secret".to_owned()),
        1 => Just(r"org".to_owned()),
        4 => r#"[a-z_ ,:{}\[\]é]{0,12}"#,
        1 => r#"(\\["\\/bnt]|\\u[0-9a-fA-F]{4}|[a-z]){0,8}"#,
    ]
}

fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(r#""acme""#.to_owned()),
        1 => Just(r#""\u0061cme""#.to_owned()),
        2 => r#""[ -!#-\[\]-~é😀]{0,40}""#,
        1 => r#""(\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|[a-z{},:]){0,8}""#,
        1 => "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,3})?",
        1 => prop_oneof![Just("true"), Just("false"), Just("null")].prop_map(str::to_owned),
    ]
}

fn tree() -> impl Strategy<Value = Tree> {
    scalar()
        .prop_map(Tree::Scalar)
        .prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Tree::Array),
                3 => prop::collection::vec((name(), inner), 0..6).prop_map(Tree::Object),
            ]
        })
}

fn text() -> impl Strategy<Value = String> {
    let spaces = prop::collection::vec(
        prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n  "), 1 => Just("\r\n\t")],
        1..20,
    );
    (prop::collection::vec(tree(), 0..4), spaces).prop_map(|(trees, spaces)| {
        let mut out = String::new();
        let mut spaces = spaces.into_iter().cycle();
        for tree in &trees {
            write(tree, &mut spaces, &mut out);
            out.push('\n');
        }
        out
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// CHECK10: what comes out is what comes of parsing, deleting and writing again, wherever the pieces end.
    #[test]
    fn the_filter_does_what_the_reference_does(text in text(), cuts in cuts()) {
        let trees = parse(&text);
        let (out, end) = filtered(&rules(), text.as_bytes(), &cuts);
        let (whole, whole_end) = filtered(&rules(), text.as_bytes(), &[]);
        if trees.iter().any(holds_foreign) {
            prop_assert!(matches!(end, Err(Fault::Foreign(_))), "{:?}", end);
            prop_assert_eq!(end, whole_end);
            return Ok(());
        }
        prop_assert!(end.is_ok(), "{:?}", end);
        prop_assert_eq!(&out, &whole);
        let kept: Vec<Tree> = trees.iter().map(without).collect();
        let out = String::from_utf8(out).unwrap();
        prop_assert_eq!(parse(&out), kept.clone());
        if end == Ok(0) {
            prop_assert_eq!(&kept, &trees);
            prop_assert_eq!(out, text);
        }
    }

    /// Cut off anywhere, what has come out is a prefix of what the whole would have become, and the end is not clean.
    #[test]
    fn what_comes_out_of_a_part_is_a_prefix(text in text(), cuts in cuts(), end in any::<usize>()) {
        let nobody = Rules { own: None, ..rules() };
        let (whole, _) = filtered(&nobody, text.as_bytes(), &[]);
        let part = &text.as_bytes()[..end % (text.len() + 1)];
        let (out, _) = filtered(&nobody, part, &cuts);
        prop_assert!(whole.starts_with(&out), "{:?} of {:?}", String::from_utf8_lossy(&out), text);
    }

    /// Any bytes: no panic; the verdict does not depend on the pieces, and one output is a prefix of the other.
    #[test]
    fn any_bytes_meet_the_same_verdict_in_any_pieces(
        bytes in prop::collection::vec(
            prop_oneof![6 => prop::sample::select(b"{}[]\":,\\u0074 tenant_idorgacme1\n".to_vec()), 1 => any::<u8>()], 0..120),
        cuts in cuts(),
        lenient in any::<bool>(),
    ) {
        let rules = Rules { lenient, ..rules() };
        let (whole, whole_end) = filtered(&rules, &bytes, &[]);
        let (out, end) = filtered(&rules, &bytes, &cuts);
        prop_assert_eq!(end, whole_end);
        prop_assert!(out.starts_with(&whole) || whole.starts_with(&out));
        if end.is_ok() {
            prop_assert_eq!(out, whole);
        }
    }

    /// The same of a sound body with one byte changed.
    #[test]
    fn a_damaged_body_never_panics(text in text(), at in any::<usize>(), byte in any::<u8>(), cuts in cuts()) {
        let mut bytes = text.into_bytes();
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let (out, end) = filtered(&rules(), &bytes, &cuts);
        let (whole, whole_end) = filtered(&rules(), &bytes, &[]);
        prop_assert_eq!(end, whole_end);
        prop_assert!(out.starts_with(&whole) || whole.starts_with(&out));
        for size in [1, 5, 4096] {
            let _ = staged(Form::Events, &bytes, size, false);
        }
    }
}
