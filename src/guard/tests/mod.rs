//! The filter, body by body: what goes and what is put in, what is refused, flat memory, events; in pieces cut anywhere.

mod reference;

use std::sync::Arc;

use bytes::Bytes;

use crate::guard::Bounds;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Filter;
use crate::guard::Form;
use crate::guard::Rules;
use crate::guard::Stage;
use crate::guard::json::DEPTH_MAX;
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
