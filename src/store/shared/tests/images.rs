//! Rows as the store holds them, by a hostile hand: what is cut, of another table, or no row at all is refused, and the copy is as it was.

use rusqlite::Connection;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::store::shared::image;
use crate::store::shared::image::Read;

/// `keys.db` of a node beside which nothing runs.
fn file(directory: &TempDir) -> Connection {
    Connection::open(directory.path().join("keys.db")).unwrap()
}

fn rows(connection: &Connection) -> Vec<(String, String, String)> {
    let mut rows = Vec::new();
    image::all(connection, &mut |image| {
        rows.push((image.bucket, image.field, image.text));
    })
    .unwrap();
    rows.sort();
    rows
}

fn put(connection: &Connection, text: &str) -> Result<(), String> {
    Read::of(text).and_then(|read| image::put(connection, &read).map(|_| ()))
}

/// A store with a row of each table that a change can make by itself.
fn filled() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path()).unwrap();
    store.commit(&[key(1), key(2), end(2)]).unwrap();
    store.commit(&[regenerate(1, 7)]).unwrap();
    (directory, store)
}

// Each row of a copy, put again into an empty one, is that row, in the bucket where it is looked for.
#[test]
fn a_row_that_is_read_is_put_as_it_was() {
    let (directory, store) = filled();
    drop(store);
    let from = file(&directory);
    let all = rows(&from);
    assert_eq!(all.len(), 3, "two keys and a retired text");
    let empty = tempfile::tempdir().unwrap();
    drop(Store::open(empty.path()).unwrap());
    let to = file(&empty);
    for (bucket, field, text) in &all {
        put(&to, text).unwrap();
        // Twice is once.
        put(&to, text).unwrap();
        assert_eq!(image::bucket_of(field, text), *bucket);
    }
    assert_eq!(rows(&to), all);
}

// What is cut anywhere is no row.
#[test]
fn a_row_that_is_cut_is_refused() {
    let (directory, store) = filled();
    drop(store);
    let connection = file(&directory);
    let all = rows(&connection);
    for (_, _, text) in &all {
        for end in 0..text.len() {
            if text.is_char_boundary(end) {
                assert!(put(&connection, &text[..end]).is_err(), "{}", &text[..end]);
            }
        }
    }
    assert_eq!(rows(&connection), all);
}

// Another table, names that are no columns, values that no column has, columns that are missing: each is refused and says why, and nothing has changed.
#[test]
fn a_row_that_makes_no_sense_is_refused() {
    let (directory, store) = filled();
    drop(store);
    let connection = file(&directory);
    let all = rows(&connection);
    let good = all.iter().find(|(_, _, text)| text.contains("api_key"));
    let good: Value = serde_json::from_str(&good.unwrap().2).unwrap();
    let with = |name: &str, value: Value| {
        let mut row = good.clone();
        row["c"][name] = value;
        row.to_string()
    };
    let without = |name: &str| {
        let mut row = good.clone();
        row["c"].as_object_mut().unwrap().remove(name);
        row.to_string()
    };
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (
            json!({ "t": "meta", "c": { "revision": 9 } }).to_string(),
            "a table that is not known, \"meta\"",
        ),
        (
            json!({ "t": "sqlite_schema", "c": {} }).to_string(),
            "a table that is not known",
        ),
        (json!({ "t": "api_key" }).to_string(), "without columns"),
        (
            json!({ "t": "api_key", "c": {} }).to_string(),
            "syntax error",
        ),
        (
            json!({ "t": "api_key", "c": { "id": "key_aaaaaaaaaaaa" } }).to_string(),
            "incomplete input",
        ),
        (json!([1, 2]).to_string(), "a table that is not known, \"\""),
        ("null".to_owned(), "a table that is not known, \"\""),
        (deep, "recursion limit"),
        (
            with("id) VALUES ('x'); DROP TABLE tenant; --", json!(1)),
            "column that is none",
        ),
        (with("no_such_column", json!(1)), "no_such_column"),
        (
            with("digest", json!({ "x": "0g".repeat(32) })),
            "no hexadecimal digits",
        ),
        (
            with("digest", json!({ "x": "0".repeat(63) })),
            "no hexadecimal digits",
        ),
        (
            with("digest", json!({ "x": "é".repeat(32) })),
            "no hexadecimal digits",
        ),
        (with("digest", json!({})), "without their digits"),
        (with("digest", json!({ "x": "00" })), "CHECK"),
        (with("name", json!(true)), "not stored"),
        (with("name", json!(["a"])), "not stored"),
        (with("created", json!(1.5)), "no whole one"),
        (with("created", json!(u64::MAX)), "no whole one"),
        (with("created", json!("yesterday")), "cannot store"),
        (with("status", json!("reborn")), "CHECK"),
        (with("name", Value::Null), "NOT NULL"),
        (without("digest"), "NOT NULL"),
    ];
    for (text, why) in cases {
        let error = put(&connection, &text).unwrap_err();
        assert!(
            error.contains(why),
            "{error}: {why} of {}",
            &text[..text.len().min(300)]
        );
    }
    assert_eq!(rows(&connection), all);
}

// A store whose rows make no sense, among others that do: the copy takes none of the change, says so, and goes on once they do again.
#[test]
fn a_copy_takes_a_change_whole_or_not_at_all() {
    let Some(server) = Server::start() else {
        return;
    };
    let (mut first, mut second) = (node(&server), node(&server));
    first.1.commit(&[key(1)]).unwrap();
    second.1.catch_up(NOW).unwrap();
    first.1.commit(&[key(2), key(3)]).unwrap();
    let log: Vec<(String, Vec<String>)> = {
        let mut link = Link::new(&server.settings);
        let name = link.name("log");
        link.call(0, |connection| {
            redis::cmd("XRANGE")
                .arg(name)
                .arg("-")
                .arg("+")
                .query(connection)
        })
        .unwrap()
    };
    let (at, line) = log.last().unwrap().clone();
    let spoilt: Vec<String> = (line.iter())
        .map(|word| word.replace("number 3", "number 3\" , \"name"))
        .collect();
    assert_ne!(spoilt, line);
    let write = |line: &[String]| {
        ask(&server, &["DEL", "portcullis:log"]);
        let mut words = vec!["XADD", "portcullis:log", at.as_str()];
        words.extend(line.iter().map(String::as_str));
        ask(&server, &words);
    };
    write(&spoilt);
    assert!(second.1.catch_up(NOW).is_err());
    assert_eq!((status(&second.1, 2), status(&second.1, 3)), (None, None));
    assert!(status(&second.1, 1).is_some());
    write(&line);
    second.1.catch_up(NOW).unwrap();
    same(&first.1, &second.1);
}
