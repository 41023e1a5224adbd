//! The filter against a reference that parses, deletes and serialises, in pieces cut anywhere, and on input that nobody should send.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::guard::Bounds;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Filter;
use crate::guard::Form;
use crate::guard::Rules;
use crate::guard::Stage;
use crate::guard::json::DEPTH_MAX;
use crate::guard::names::says;
use crate::model::guard::Member;

/// `tenant_id` goes and is watched, `org` is watched only, `secret` only goes.
fn members() -> Arc<[Member]> {
    let member = |name: &str, remove, watch| Member {
        name: name.to_owned(),
        remove,
        watch,
    };
    Arc::from([
        member("tenant_id", true, true),
        member("org", false, true),
        member("secret", true, false),
    ])
}

fn rules() -> Rules {
    Rules {
        members: members(),
        own: Some(Arc::from("acme")),
        lenient: false,
        sniff: false,
        insert: None,
    }
}

/// What came out, and why no more, of a body fed in pieces that end at these places.
fn filtered(rules: &Rules, body: &[u8], cuts: &[usize]) -> (Vec<u8>, Result<u64, Fault>) {
    let mut filter = Filter::new(rules);
    let mut out = Vec::new();
    let mut from = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(body.len());
    for end in ends {
        match filter.feed(Bytes::copy_from_slice(&body[from..end])) {
            Ok(more) => out.extend_from_slice(&more),
            Err(fault) => return (out, Err(fault)),
        }
        from = end;
    }
    match filter.finish() {
        Ok(more) => out.extend_from_slice(&more),
        Err(fault) => return (out, Err(fault)),
    }
    (out, Ok(filter.removed()))
}

fn by_byte(body: &[u8]) -> Vec<usize> {
    (1..body.len()).collect()
}

#[track_caller]
fn becomes(body: &str, expected: &str) {
    for cuts in [Vec::new(), by_byte(body.as_bytes())] {
        let (out, end) = filtered(&rules(), body.as_bytes(), &cuts);
        assert!(end.is_ok(), "{body}: {end:?}");
        assert_eq!(String::from_utf8_lossy(&out), expected, "{body}");
    }
}

#[test]
fn members_go_at_any_place_and_depth_with_the_right_comma() {
    for (body, expected) in [
        (r#"{"tenant_id":"acme"}"#, "{}"),
        (r#"{"tenant_id":"acme","a":1}"#, r#"{"a":1}"#),
        (r#"{"a":1,"tenant_id":"acme"}"#, r#"{"a":1}"#),
        (r#"{"a":1,"tenant_id":"acme","b":2}"#, r#"{"a":1,"b":2}"#),
        (r#"{"tenant_id":"acme","tenant_id":"acme"}"#, "{}"),
        (
            r#"{"tenant_id":"acme","a":1,"tenant_id":"acme","b":[]}"#,
            r#"{"a":1,"b":[]}"#,
        ),
        (
            r#"[{"x":[{"tenant_id":"acme"},{"y":{"secret":{"z":[1,{}]}}}]}]"#,
            r#"[{"x":[{},{"y":{}}]}]"#,
        ),
        (
            r#"{"\u0074enant_\u0069d":"acme","a":"tenant_id"}"#,
            r#"{"a":"tenant_id"}"#,
        ),
        (
            r#"{"secret":null,"secret":-1.5e+9,"secret":"\"}","secret":[[],"]"],"k":0}"#,
            r#"{"k":0}"#,
        ),
        (
            "{ \"a\" : 1 ,\n \"tenant_id\" : \"acme\" ,\n \"b\" : 2 }",
            "{ \"a\" : 1  ,\n \"b\" : 2 }",
        ),
        (
            "{\n  \"tenant_id\": \"acme\",\n  \"b\": 2\n}",
            "{\n  \n  \"b\": 2\n}",
        ),
        (
            "{\"tenant_id\":\"acme\"}\n{\"tenant_id\":\"acme\",\"n\":1}\n",
            "{}\n{\"n\":1}\n",
        ),
        ("\x1e{\"secret\":1}\n\x1e2\n", "\x1e{}\n\x1e2\n"),
        ("\u{feff}{\"secret\":1}", "\u{feff}{}"),
        ("", ""),
        ("7", "7"),
        (r#""tenant_id""#, r#""tenant_id""#),
        (
            r#"{"org":"acme","x":"\ud800 \u00e4"}"#,
            r#"{"org":"acme","x":"\ud800 \u00e4"}"#,
        ),
        ("[NaN,-Infinity,1E400,0.10]", "[NaN,-Infinity,1E400,0.10]"),
    ] {
        becomes(body, expected);
    }
}

#[test]
fn another_tenants_id_is_seen_in_every_spelling() {
    for body in [
        r#"{"tenant_id":"bravo"}"#,
        r#"{"org":"bravo"}"#,
        r#"{"tenant_id":"acme","tenant_id":"bravo"}"#,
        r#"[{"x":{"\u006frg":"acme2"}}]"#,
        r#"{"org":"acm"}"#,
        r#"{"org":""}"#,
        r#"{"org":"\u0061cm\u0066"}"#,
        r#"{"org":42}"#,
        r#"{"org": -1}"#,
        r#"{"secret":{"deep":[{"org":"bravo"}]}}"#,
    ] {
        for cuts in [Vec::new(), by_byte(body.as_bytes())] {
            let (_, end) = filtered(&rules(), body.as_bytes(), &cuts);
            assert!(matches!(end, Err(Fault::Foreign(_))), "{body}: {end:?}");
        }
    }
    let long = format!(r#"{{"org":"{}"}}"#, "a".repeat(1 << 20));
    assert!(matches!(
        filtered(&rules(), long.as_bytes(), &[]).1,
        Err(Fault::Foreign(1))
    ));
    for body in [
        r#"{"org":"acme"}"#,
        r#"{"org":"\u0061c\u006de"}"#,
        r#"{"org":null,"tenant_id":true}"#,
        r#"{"org":["bravo"],"tenant_id":{"id":"bravo"}}"#,
        r#"{"organisation":"bravo","a":"org"}"#,
    ] {
        let (_, end) = filtered(&rules(), body.as_bytes(), &by_byte(body.as_bytes()));
        assert!(end.is_ok(), "{body}: {end:?}");
    }
    let numbered = Rules {
        own: Some(Arc::from("42")),
        ..rules()
    };
    for body in [r#"{"org":42}"#, r#"{"org":"42"}"#, r#"{"org":42 }"#] {
        assert!(filtered(&numbered, body.as_bytes(), &[]).1.is_ok());
    }
    assert!(filtered(&numbered, br#"{"org":420}"#, &[9]).1.is_err());
    let nobody = Rules {
        own: None,
        ..rules()
    };
    let (out, end) = filtered(&nobody, br#"{"tenant_id":"bravo","org":1}"#, &[]);
    assert_eq!((out, end), (br#"{"org":1}"#.to_vec(), Ok(1)));
}

#[test]
fn what_is_no_json_is_refused_wherever_it_is_cut() {
    let deep = "[".repeat(DEPTH_MAX + 1);
    for body in [
        "{",
        "[",
        "\"",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "[1,",
        "\"\\",
        "{]",
        "[}",
        "[1}",
        "{\"a\":1]",
        "{,}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{\"a\":,}",
        "{\"a\":}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":'b'}",
        "1,2",
        "]",
        "}",
        "[1 2]",
        "[\"a\"\"b\"]",
        "{\"a\":1 \"b\":2}",
        "[1]/*x*/",
        "// x",
        "{\"a\\q\":1}",
        "{\"\\u00\":1}",
        "a=b",
        "<a/>",
        "{\0\"a\":1}",
        "[1,\u{a0}2]",
        &deep,
    ] {
        for cuts in [Vec::new(), by_byte(body.as_bytes())] {
            let (_, end) = filtered(&rules(), body.as_bytes(), &cuts);
            assert!(matches!(end, Err(Fault::Broken(_))), "{body}: {end:?}");
        }
    }
    let wide: Vec<u8> = "{\"a\":1}"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(filtered(&rules(), &wide, &[]).1.is_err());
    let deepest = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    becomes(&deepest, &deepest);
}

#[test]
fn what_is_no_json_passes_where_it_may_unless_something_was_taken_out() {
    let lenient = Rules {
        lenient: true,
        ..rules()
    };
    for body in [
        "hello, world",
        "{\"a\":1,}",
        "{\"a\":",
        "[1,2",
        "{\"a\":1 ,   ",
        "{\"a\":1}{]tenant_id",
    ] {
        for cuts in [Vec::new(), by_byte(body.as_bytes())] {
            let (out, end) = filtered(&lenient, body.as_bytes(), &cuts);
            assert_eq!((String::from_utf8_lossy(&out).as_ref(), end), (body, Ok(0)));
        }
    }
    let (_, end) = filtered(&lenient, b"{\"tenant_id\":\"acme\",}", &[]);
    assert!(matches!(end, Err(Fault::Broken(_))));
    let (_, end) = filtered(&lenient, b"{\"tenant_id\":\"bravo\",}", &[]);
    assert!(matches!(end, Err(Fault::Foreign(0))));
}

#[test]
fn megabyte_names_values_and_spaces_pass_in_flat_memory() {
    let long = "n".repeat(1 << 18);
    let escaped = "\\u0041".repeat(1 << 15);
    for (body, expected) in [
        (
            format!("{{\"{long}\":1,\"secret\":\"{long}\"}}"),
            format!("{{\"{long}\":1}}"),
        ),
        (
            format!("{{\"{escaped}\":1}}"),
            format!("{{\"{escaped}\":1}}"),
        ),
        (
            format!("{{\"a\":1,\"tenant_id{long}\":[\"{long}\"]}}"),
            format!("{{\"a\":1,\"tenant_id{long}\":[\"{long}\"]}}"),
        ),
    ] {
        for size in [1, 1000, 1 << 22] {
            let mut filter = Filter::new(&rules());
            let mut out = Vec::new();
            for piece in body.as_bytes().chunks(size) {
                out.extend_from_slice(&filter.feed(Bytes::copy_from_slice(piece)).unwrap());
                assert!(
                    filter.kept_bytes() <= 8 * 1024 + 2 * size,
                    "{}",
                    filter.kept_bytes()
                );
            }
            out.extend_from_slice(&filter.finish().unwrap());
            assert!(out == expected.as_bytes());
        }
    }
    let spaces = format!("{{\"a\":1,{}\"b\":2}}", " ".repeat(1 << 20));
    let mut filter = Filter::new(&rules());
    let mut out = Vec::new();
    for piece in spaces.as_bytes().chunks(100) {
        out.extend_from_slice(&filter.feed(Bytes::copy_from_slice(piece)).unwrap());
        assert!(filter.kept_bytes() <= 8 * 1024);
    }
    assert!(
        out.starts_with(b"{\"a\":1,   ") && out.ends_with(b" \"b\":2}") && out.len() < 8 * 1024
    );
}

#[test]
fn bytes_are_shared_where_nothing_is_taken_out() {
    let body = Bytes::from_static(br#"[{"a":1},{"b":"x"}]"#);
    let mut filter = Filter::new(&rules());
    assert_eq!(filter.feed(body.clone()).unwrap().as_ptr(), body.as_ptr());
}

#[test]
fn a_member_is_put_in_once_and_last() {
    let inserting = Rules {
        members: Arc::from([Member {
            name: "tenant_id".to_owned(),
            remove: true,
            watch: false,
        }]),
        own: None,
        insert: Some(Arc::from(r#""tenant_id":"acme""#)),
        ..rules()
    };
    for (body, expected) in [
        ("{}", r#"{"tenant_id":"acme"}"#),
        ("{ } ", r#"{ "tenant_id":"acme"} "#),
        (r#"{"a":1}"#, r#"{"a":1,"tenant_id":"acme"}"#),
        (r#"{"tenant_id":"bravo"}"#, r#"{"tenant_id":"acme"}"#),
        (
            r#"{"Tenant_ID":"bravo","a":1,"\u0074enant_id":[{}]}"#,
            r#"{"a":1,"tenant_id":"acme"}"#,
        ),
        (
            r#"{"a":{"tenant_id":"bravo"}}"#,
            r#"{"a":{"tenant_id":"bravo"},"tenant_id":"acme"}"#,
        ),
    ] {
        for cuts in [Vec::new(), by_byte(body.as_bytes())] {
            let (out, end) = filtered(&inserting, body.as_bytes(), &cuts);
            assert!(end.is_ok());
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
    for body in [
        "",
        " ",
        "[]",
        "1",
        "\"a\"",
        "{}{}",
        "{} 1",
        "{}}",
        "{\"a\":1,}",
        "{",
        "\x1e",
    ] {
        let (_, end) = filtered(&inserting, body.as_bytes(), &[]);
        assert!(matches!(end, Err(Fault::Broken(_))), "{body}: {end:?}");
    }
}

fn staged(form: Form, body: &[u8], size: usize, lenient: bool) -> Result<Vec<u8>, Fault> {
    let bounds = Bounds {
        bytes_max: 1 << 30,
        ratio_max: 1000,
    };
    let rules = Rules { lenient, ..rules() };
    let mut stage = Stage::new(&rules, form, Coding::Identity, bounds)?;
    let mut out = Vec::new();
    for piece in body.chunks(size) {
        stage.push(Bytes::copy_from_slice(piece));
        while let Some(more) = stage.pull()? {
            out.extend_from_slice(&more);
        }
    }
    out.extend_from_slice(&stage.finish()?);
    Ok(out)
}

#[test]
fn events_are_filtered_in_their_data_lines() {
    for (body, expected) in [
        (
            "data: {\"tenant_id\":\"acme\",\"n\":1}\n\n",
            "data: {\"n\":1}\n\n",
        ),
        (
            "data:{\"secret\":1}\r\n\r\ndata: [DONE]\r\n\r\n",
            "data: {}\r\n\r\ndata: [DONE]\r\n\r\n",
        ),
        (
            ": hello\nevent: x\ndata: {\"n\":1,\nid: 7\ndata: \"secret\":2,\ndata: \"m\":3}\nretry: 5\n\n",
            ": hello\nevent: x\ndata: {\"n\":1,\ndata: \"m\":3}\nid: 7\nretry: 5\n\n",
        ),
        (
            "data: {\"secret\":1}\r\rdata: {\"n\":1}\r\r",
            "data: {}\r\rdata: {\"n\":1}\r\r",
        ),
        (
            "data: hello, \"secret\":1\n\n:x\n\ndata\n\n",
            "data: hello, \"secret\":1\n\n:x\n\ndata\n\n",
        ),
        ("\u{feff}data: {\"secret\":1}\n\n", "data: {}\n\n"),
        ("data: {\"secret\":1}", "data: {}"),
    ] {
        for size in [1, 3, 4096] {
            let out = staged(Form::Events, body.as_bytes(), size, false).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), expected, "{body} by {size}");
        }
    }
    for body in [
        "data: {\"org\":\"bravo\"}\n\n",
        "data: {}\n\ndata: {\ndata: \"org\"\ndata: :1}\n\n",
    ] {
        assert_eq!(
            staged(Form::Events, body.as_bytes(), 1, false),
            Err(Fault::Foreign(1))
        );
    }
    assert!(matches!(
        staged(Form::Events, b"data: {\"a\":1\n\n", 9, false),
        Err(Fault::Broken(_))
    ));
    let large = format!("data: {}\n\n", "x".repeat(2 << 20));
    assert!(matches!(
        staged(Form::Events, large.as_bytes(), 4096, false),
        Err(Fault::Broken(_))
    ));
    assert!(staged(Form::Events, large.as_bytes(), 4096, true).unwrap() == large.as_bytes());
}

#[test]
fn what_does_not_say_its_type_is_read_when_it_looks_like_json() {
    let text = b"hello {\"secret\":1}";
    assert_eq!(staged(Form::Unstated, text, 3, false).unwrap(), text);
    assert_eq!(
        staged(Form::Unstated, b" {\"secret\":1}", 3, false).unwrap(),
        b" {}"
    );
    assert!(staged(Form::Unstated, b"{} hello, {\"secret\":1}", 3, false).is_err());
}

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
