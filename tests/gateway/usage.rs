//! What each key did: counted exactly, by class, by the hour, kept over restarts, shown as table, CSV and JSON.

use std::time::Duration;

use serde_json::Value;

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::half_past;
use crate::support::gateway::new_key;
use crate::support::request::Request;
use crate::support::upstream::Upstream;
use crate::support::upstream::status;

/// What the command line says of usage, as JSON; it is asked until this many requests have ended.
#[track_caller]
fn usage(gateway: &Gateway, words: &[&str], requests: u64) -> Value {
    let words = [&["usage"], words, &["--output", "json"]].concat();
    eventually("the requests are counted", || {
        let (code, out, err) = gateway.command(&words);
        assert_eq!(code, 0, "{err}");
        let said: Value = serde_json::from_str(&out).unwrap();
        (said["total"]["requests"] == requests).then_some(said)
    })
}

fn call(gateway: &Gateway, key: &Key, path: &str, times: usize, expected: u16) {
    let mut client: Http1 = gateway.connect();
    for _ in 0..times {
        let answer = client.exchange(&Request::get(path).bearer(&key.text));
        answer.expect(expected);
    }
}

// FF14, PB19: 90 answers of 200 and 10 of 500 are 100 requests, 90 % and 10 %, last used within a second, and stay so over a restart; what
// the gateway refused is told apart, and what reached the backend is what was counted.
#[test]
fn usage_of_a_key_is_what_it_did_and_survives_a_restart() {
    let upstream = Upstream::start();
    upstream.answer("/any/broken", status(500, &[], "no"));
    upstream.answer("/any/gone", status(404, &[], "no"));
    let gateway = Setup::limited(&upstream, "103/hour", "unlimited")
        .more("[[routes]]\npath = \"/secret\"\nscope = \"x:y\"\nupstream = \"legacy\"\n")
        .start_at(half_past());
    let now = |gateway: &Gateway| gateway.clock.now().wall.unix_seconds();
    let (key, other) = (
        gateway.key_with_scopes("acme", &["y:z"]),
        gateway.key("bravo"),
    );
    call(&gateway, &key, "/any/x", 90, 200);
    call(&gateway, &key, "/any/broken", 10, 500);
    let plain = usage(&gateway, &[&key.id], 100)["total"].clone();
    assert_eq!(plain["success_rate_percent"], 90.0);
    assert_eq!(plain["error_rate_percent"], 10.0);
    let began = now(&gateway);
    call(&gateway, &key, "/any/gone", 2, 404);
    // Charged, and refused for want of a scope; then the window is full.
    call(&gateway, &key, "/secret", 1, 403);
    call(&gateway, &key, "/any/x", 2, 429);
    call(&gateway, &other, "/any/x", 1, 200);
    let told = |gateway: &Gateway| {
        let said = usage(gateway, &[&key.id], 102);
        let total = said["total"].clone();
        assert_eq!(total["success"], 90);
        assert_eq!(total["server_error"], 10);
        assert_eq!(total["client_error"], 2);
        assert_eq!(total["refused"], 3);
        assert_eq!(total["success_rate_percent"], 88.24);
        assert_eq!(total["error_rate_percent"], 11.76);
        let latency = total["latency"].as_array().unwrap();
        let counted: u64 = latency.iter().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(counted, 102, "refused requests say nothing of the backend");
        assert_eq!(said["hours"].as_array().unwrap().len(), 1);
        said
    };
    let said = told(&gateway);
    assert_eq!(upstream.hits(), 103, "102 and the other's");
    let last_used = said["total"]["last_used_at"].as_str().unwrap();
    let last_used: jiff::Timestamp = last_used.parse().unwrap();
    let meanwhile = began..=now(&gateway);
    assert!(
        meanwhile.contains(&(last_used.as_second() as u64)),
        "{last_used} in {meanwhile:?}"
    );
    assert_eq!(said["windows"][0]["state"]["used"], 103);
    let gateway = gateway.restart();
    let again = told(&gateway);
    assert_eq!(again["total"], said["total"]);
    let all = usage(&gateway, &[], 103);
    assert_eq!(all["keys"][0]["key_id"], key.id.as_str());
    assert_eq!(all["keys"][0]["tenant"], "acme");
    let of_bravo = usage(&gateway, &["--tenant", "bravo"], 1);
    assert_eq!(of_bravo["keys"].as_array().unwrap().len(), 1);
    assert_eq!(of_bravo["total"]["success_rate_percent"], 100.0);
}

// FF14: bytes both ways, and requests in the hour in which they began.
#[test]
fn usage_is_kept_by_the_hour_with_the_bytes() {
    let upstream = Upstream::start();
    upstream.answer("/any/large", status(200, &[], &"x".repeat(5_000)));
    let gateway = Setup::usual(&upstream).start_at(half_past());
    let key = gateway.key("acme");
    let post = Request::new("POST", "/any/large").bearer(&key.text);
    gateway.send(&post.body("y".repeat(300))).expect(200);
    usage(&gateway, &[&key.id], 1);
    gateway.advance(Duration::from_secs(3_600));
    call(&gateway, &key, "/any/large", 2, 200);
    let said = usage(&gateway, &[&key.id], 3);
    let hours = said["hours"].as_array().unwrap();
    assert_eq!(hours.len(), 2);
    assert_eq!(
        (&hours[0]["requests"], &hours[1]["requests"]),
        (&1.into(), &2.into())
    );
    assert_eq!(hours[0]["received_bytes"], 300);
    assert_eq!(hours[1]["sent_bytes"], 10_000);
    // A narrower report leaves the first hour out.
    let narrow = usage(&gateway, &[&key.id, "--since", "1s"], 2);
    assert_eq!(narrow["hours"].as_array().unwrap().len(), 1);
    // 90 days later nothing is left of it, without anybody asking for that.
    gateway.advance(Duration::from_secs(90 * 86_400 + 7_200));
    eventually("old hours are let go", || {
        usage(&gateway, &[&key.id, "--since", "90d"], 0);
        let file = gateway.directory().join("state/counters.db");
        let database = rusqlite::Connection::open(file).unwrap();
        let sql = "SELECT count(*) FROM usage_hour WHERE success > 0";
        let left: i64 = database.query_row(sql, [], |row| row.get(0)).unwrap();
        (left == 0).then_some(())
    });
}

// FF14: CSV that a spreadsheet may open: a name cannot become a formula. The table says the same.
#[test]
fn usage_is_written_as_csv_and_table() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.make_key(portcullis::store::NewKey {
        name: "=1+1,\"x\"".to_owned(),
        ..new_key("acme")
    });
    call(&gateway, &key, "/any/x", 3, 200);
    usage(&gateway, &[], 3);
    let (code, csv, _) = gateway.command(&["usage", "--csv"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = csv.split("\r\n").collect();
    assert!(
        lines[0].starts_with("key_id,name,tenant,requests,success,"),
        "{csv}"
    );
    let line = format!("{},\"'=1+1,\"\"x\"\"\",acme,3,3,0,0,0,100,0,0,", key.id);
    assert!(lines[1].starts_with(&line), "{csv}");
    let (code, table, said) = gateway.command(&["usage", &key.id]);
    assert_eq!(code, 0);
    assert!(table.contains("\t3\t3\t0\t0\t0\t100\t0\t"), "{table}");
    assert!(said.contains("3 requests, success 100 %"), "{said}");
    let (code, _, said) = gateway.command(&["usage", "key_nobody000000"]);
    assert_eq!(code, 1);
    assert!(said.contains("no key has the id"), "{said}");
    let (code, _, said) = gateway.command(&["usage", "--tenant", "nobody"]);
    assert_eq!(code, 1, "{said}");
}

// FF14, FA32: a request that has not ended keeps the key in use, and counts once it has.
#[test]
fn a_request_in_flight_is_use_and_counts_when_it_ends() {
    use crate::support::Gate;
    use crate::support::upstream::Step;
    let upstream = Upstream::start();
    let door = Gate::closed();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab".to_vec();
    let steps = vec![
        Step::Send(head),
        Step::Wait(door.clone()),
        Step::Send(b"cd".to_vec()),
    ];
    upstream.script("/any/slow", steps);
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    client.send(Request::get("/any/slow").bearer(&key.text).bytes());
    assert_eq!(client.read_head().unwrap().status, 200);
    let said = usage(&gateway, &[&key.id], 0);
    assert!(said["total"]["last_used_at"].is_string(), "{said}");
    door.open();
    let said = usage(&gateway, &[&key.id], 1);
    assert_eq!(said["total"]["sent_bytes"], 4);
}
