//! CHECK7: another tenant's thing and a missing one are the same bytes, in the same time, at the same price.

use std::time::Duration;
use std::time::Instant;

use crate::isolation::MISSING;
use crate::isolation::bound;
use crate::isolation::hits_aside;
use crate::isolation::key_for;
use crate::isolation::shape;
use crate::isolation::tenants;
use crate::support::client::Http1;
use crate::support::gateway::Access;
use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::real::Backend;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

/// The leaking backend that believes the path, behind a route that is bound to the tenant; `bravo` exists there, `ghost` does not.
fn before_a_leaky_backend(more: &str) -> Option<(Backend, Gateway)> {
    if real::left_out("python3") {
        return None;
    }
    let backend = real::leaky("path", &[]);
    let bind = format!("bind = {{ org = \"tenant\" }}\n{more}");
    let gateway = tenants(Setup::bare(backend.address))
        .set("upstreams.legacy", "isolation", "\"path\"")
        .plan("open", "1000000/hour", "unlimited")
        .route_to("legacy", "/orgs/{org}/{*rest}", &[], Access::AnyKey, &bind)
        .start();
    Some((backend, gateway))
}

/// Asks for both in turn, and fails at the first difference, the price included.
#[track_caller]
fn assert_twins(client: &mut Http1, key: &Key, pairs: usize, method: &str, paths: [&str; 2]) {
    let mut shapes: [Option<String>; 2] = [None, None];
    let mut remaining = None;
    for turn in 0..2 * pairs {
        let path = paths[turn % 2];
        let answer = client.exchange(&Request::new(method, path).bearer(&key.text));
        answer.expect(404);
        let left = answer.number("x-ratelimit-remaining");
        assert!(
            remaining.is_none_or(|before| left + 1 == before),
            "{path}: {left}"
        );
        remaining = Some(left);
        // The two are told apart by nothing but what the client itself wrote.
        let shape = hits_aside(&shape(&answer)).replace("ghost", "bravo");
        let of_path = shapes[turn % 2].get_or_insert_with(|| shape.clone());
        assert_eq!(shape, *of_path, "{method} {path}");
    }
    assert_eq!(shapes[0], shapes[1], "{method}");
}

// FA20, FM7, CHECK7: foreign and missing, 200 of each, GET and HEAD, before a real backend that would have told.
#[test]
fn foreign_and_missing_are_the_same_bytes() {
    let Some((_backend, gateway)) = before_a_leaky_backend("twin_echo = true\n") else {
        return;
    };
    let acme = gateway.key("acme");
    let own = gateway.get("/orgs/acme/leases", &acme);
    assert!(own.expect(200).text().contains("acme lease 1"));
    for method in ["GET", "HEAD"] {
        let paths = ["/orgs/bravo/leases", "/orgs/ghost/leases"];
        assert_twins(&mut gateway.connect(), &acme, 200, method, paths);
        let paths = ["/orgs/bravo/leases/201", "/orgs/ghost/leases/999"];
        assert_twins(&mut gateway.connect(), &acme, 10, method, paths);
    }
    // The words are the backend's own, about what was asked for.
    let answer = gateway.get("/orgs/bravo/leases", &acme);
    assert_eq!(answer.text(), "{\"error\": \"no organisation bravo\"}");
    assert!(answer.one("server").starts_with("WSGIServer"));
    // What would have to be escaped is not repeated.
    let odd = gateway.get("/orgs/%3Cb%3E%22/leases", &acme);
    assert_eq!(odd.expect(404).json()["code"], "not_found");
}

// FM7: methods that change something never reach the backend; the gateway's words, or the upstream's, are the same for both.
#[test]
fn other_methods_get_a_template() {
    let Some((_backend, gateway)) = before_a_leaky_backend("") else {
        return;
    };
    let acme = gateway.key("acme");
    let missing_route = shape(&gateway.get("/nowhere", &acme));
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let paths = ["/orgs/bravo/leases", "/orgs/ghost/leases"];
        assert_twins(&mut gateway.connect(), &acme, 5, method, paths);
        let request = Request::new(method, paths[0]).bearer(&acme.text);
        assert_eq!(shape(&gateway.send(&request)), missing_route, "{method}");
    }
    let before = gateway.get("/orgs/acme/leases", &acme).number("x-hits");
    for method in ["POST", "DELETE"] {
        let request = Request::new(method, "/orgs/bravo/leases").bearer(&acme.text);
        gateway.send(&request.body("{}")).expect(404);
    }
    let after = gateway.get("/orgs/acme/leases", &acme).number("x-hits");
    assert_eq!(after, before + 1);
}

// FM7: where the backend has no 404 for what cannot exist, its answer stays inside, and the upstream's own words stand in.
#[test]
fn a_miss_that_is_no_404_becomes_one() {
    let upstream = Upstream::start();
    let own_words = "\"<h1>Nicht da</h1>\"";
    let setup = bound(&upstream, "")
        .set("upstreams.legacy", "not_found_body", own_words)
        .set("upstreams.legacy", "not_found_type", "\"text/html\"");
    let gateway = setup.start();
    let acme = gateway.key("acme");
    for method in ["GET", "POST"] {
        let answer = gateway.send(&Request::new(method, "/orgs/bravo/x").bearer(&acme.text));
        assert_eq!(answer.expect(404).text(), "<h1>Nicht da</h1>", "{method}");
        assert_eq!(answer.one("content-type"), "text/html");
        assert_eq!(answer.one("cache-control"), "private");
    }
    let head = gateway.send(&Request::new("HEAD", "/orgs/bravo/x").bearer(&acme.text));
    assert_eq!(head.expect(404).one("content-length"), "17");
    assert!(head.body.is_empty());
    let line = gateway.log_line("foreign_tenant");
    assert_eq!(
        (&line["http.response.status_code"], &line["url.path"]),
        (&404.into(), &"/orgs/bravo/x".into())
    );
    // The other parts of the request were kept, and the tenant is the caller's.
    gateway.get("/orgs/bravo/x/y?z=%2F", &acme).expect(404);
    let asked = upstream.last();
    assert!(asked.target().ends_with("/x/y?z=%2F") && !asked.target().contains("bravo"));
    assert_eq!(asked.all("x-tenant-id"), ["acme"]);
}

// FM7: the form of the id that cannot exist is the one that the backend checks, and never the same twice.
#[test]
fn ids_that_cannot_exist_have_the_backends_form() {
    for (form, length) in [("digits", 18), ("uuid", 36), ("text", 32)] {
        let upstream = Upstream::start();
        let gateway = bound(&upstream, &format!("twin_id = {form:?}\n")).start();
        let seven = key_for(&gateway, "acme", "7");
        let mut seen = Vec::new();
        for _ in 0..3 {
            gateway.get("/lessees/8/leases", &seven).expect(404);
            let id = upstream
                .last()
                .target()
                .split('/')
                .nth(2)
                .unwrap()
                .to_owned();
            assert_eq!(id.len(), length, "{id}");
            assert!(!seen.contains(&id), "{id}");
            seen.push(id);
        }
    }
}

// FM7: the twin is the backend's own 404, byte for byte and its headers in order, as it is said of what the caller himself has not.
#[test]
fn the_backends_own_404_passes() {
    let upstream = Upstream::start();
    let gateway = tenants(Setup::bare(upstream.address))
        .route_to(
            "legacy",
            "/search",
            &[],
            Access::AnyKey,
            "bind_query = { org = \"tenant\" }\n",
        )
        .start();
    upstream.answer("/search", MISSING);
    let acme = gateway.key("acme");
    let twin = gateway.get("/search?org=bravo", &acme);
    assert_eq!(twin.all("x-odd"), ["a", "b"]);
    assert_eq!(shape(&twin), shape(&gateway.get("/search?org=acme", &acme)));
}

/// The probability that two samples of one distribution differ so much (Kolmogorov and Smirnov, two samples, asymptotic).
fn same_distribution(mut one: Vec<Duration>, mut other: Vec<Duration>) -> f64 {
    one.sort_unstable();
    other.sort_unstable();
    let share = |sample: &[Duration], at: Duration| {
        sample.partition_point(|time| *time <= at) as f64 / sample.len() as f64
    };
    let all = one.iter().chain(&other);
    let distance = all
        .map(|at| (share(&one, *at) - share(&other, *at)).abs())
        .fold(0.0, f64::max);
    let (n, m) = (one.len() as f64, other.len() as f64);
    let root = (n * m / (n + m)).sqrt();
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    // The series does not converge there, and the answer is plain.
    if lambda < 0.2 {
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 1.0 } else { -1.0 };
        sign * (-2.0 * f64::from(k * k) * lambda * lambda).exp()
    };
    (2.0 * (1..=100).map(term).sum::<f64>()).clamp(0.0, 1.0)
}

#[test]
fn the_statistic_tells_samples_apart() {
    let times = |start: u64| (start..start + 1000).map(Duration::from_micros).collect();
    assert!(same_distribution(times(0), times(0)) > 0.99);
    assert!(same_distribution(times(0), times(20)) > 0.01);
    assert!(same_distribution(times(0), times(200)) < 0.001);
}

// CHECK7, the whole of it: 2×1000, and their times are of one distribution. Fails only if three rounds in a row say otherwise.
#[test]
#[ignore = "takes half a minute and wants a quiet machine: tests/run --long"]
fn foreign_and_missing_take_the_same_time() {
    let Some((_backend, gateway)) = before_a_leaky_backend("twin_echo = true\n") else {
        return;
    };
    let acme = gateway.key("acme");
    let mut said = Vec::new();
    for round in 0..3 {
        let mut client = gateway.connect();
        let mut times: [Vec<Duration>; 2] = Default::default();
        for turn in 0..2000_usize {
            // Not strictly in turn: whatever beats with the order would else fall on one of the two.
            let which = (turn + turn / 7 + round) % 2;
            let path = ["/orgs/bravo/leases", "/orgs/ghost/leases"][which];
            let request = Request::get(path).bearer(&acme.text);
            let begun = Instant::now();
            let answer: Answer = client.exchange(&request);
            times[which].push(begun.elapsed());
            answer.expect(404);
        }
        let [foreign, missing] = times;
        let p = same_distribution(foreign, missing);
        println!("round {round}: p = {p:.4}");
        said.push(p);
        if p >= 0.001 {
            return;
        }
    }
    panic!("foreign and missing can be told apart by their time: p = {said:?}");
}
