//! What a request can and cannot write into the access log (S26, S27).

use super::usual;
use crate::support::eventually;
use crate::support::request::Request;

// S27: the log is one line of JSON per request, whatever the request holds.
#[test]
fn log_lines_cannot_be_forged() {
    let (_upstream, gateway) = usual();
    let request = Request::get("/public/%0a%1b[31m%22x")
        .header("User-Agent", "red\"}\\n{\"")
        .header("Referer", "a\tb");
    gateway.send(&request).expect(400);
    gateway.send(&Request::get("/public/marker")).expect(200);
    gateway.log_line("/public/marker");
    // Two workers write, each when it gets to it.
    let log = eventually("both lines", || {
        let log = gateway.log();
        (log.matches('\n').count() >= 2).then_some(log)
    });
    assert!(!log.contains('\u{1b}'));
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON");
    }
    assert_eq!(log.lines().count(), 2);
}

// S26: neither query nor header values are logged.
#[test]
fn the_log_holds_no_query_and_no_header_values() {
    let (_upstream, gateway) = usual();
    let request = Request::get("/public/logged?token=hidden-query")
        .header("Cookie", "session=hidden-cookie")
        .header("X-Custom", "hidden-header");
    gateway.send(&request).expect(200);
    gateway.log_line("/public/logged");
    assert!(!gateway.log().contains("hidden"), "{}", gateway.log());
}

// S26: a key that somebody wrote where a method or a host belongs is not logged either, nor one in a path encoded twice.
#[test]
fn the_log_holds_no_key_from_a_request_line() {
    let (_upstream, gateway) = usual();
    let key = gateway.key("acme").text;
    let twice = format!("/public/{}", key.replace('_', "%255f"));
    // One connection, hence one worker: its lines are in the log when the marker's is.
    let mut client = gateway.connect();
    client.exchange(&Request::get(&twice)).expect(200);
    let odd = Request::new(&key, "/public/x");
    client.exchange(&odd).expect(200);
    client
        .exchange(&Request::get("/public/x").host(&key))
        .expect(200);
    client.exchange(&Request::get("/public/marker")).expect(200);
    gateway.log_line("/public/marker");
    let log = gateway.log().to_ascii_lowercase();
    let secret = key.rsplit('_').next().unwrap().to_ascii_lowercase();
    assert!(!log.contains(&secret), "{log}");
    assert_eq!(log.matches("[redacted]").count(), 3);
}
