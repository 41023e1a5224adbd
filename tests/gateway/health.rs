//! DESIGN section 7: servers that fail are left out and come back, those that say they are unwell are believed, and second tries are rationed.

use std::net::SocketAddr;
use std::thread;

use crate::support::Gate;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::ports::free_port;
use crate::support::real;
use crate::support::request::Answer;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;
use crate::support::upstream::nobody;
use crate::support::upstream::ok;
use crate::support::upstream::status;

/// Never over within a test.
const LONG: &str = r#""1h""#;
/// Over at once.
const SHORT: &str = r#""100ms""#;

/// Two servers, left out after three failures, for this long.
fn two(first: SocketAddr, second: SocketAddr, time: &str) -> Setup {
    Setup::usual_at(first)
        .servers(&[first, second])
        .set("upstreams.legacy", "ejection.failures", "3")
        .set("upstreams.legacy", "ejection.time", time)
        .set("upstreams.legacy", "ejection.time_max", time)
}

fn ask(gateway: &Gateway) -> Answer {
    gateway.send(&Request::get("/public/x"))
}

/// Asks until this server is in this state; every answer has one of these statuses. How many had each.
#[track_caller]
fn ask_until(gateway: &Gateway, server: SocketAddr, state: &str, fine: &[u16]) -> Vec<usize> {
    let mut counts = vec![0; fine.len()];
    eventually(&format!("{server} is {state}"), || {
        let status = ask(gateway).status;
        let at = fine.iter().position(|one| *one == status);
        counts[at.unwrap_or_else(|| panic!("{status} is none of {fine:?}"))] += 1;
        gateway.server_is(server, state).then_some(())
    });
    counts
}

fn reset() -> Vec<Step> {
    vec![Step::ReadBody, Step::Close]
}

// Connections that are refused cost clients nothing, since the next server is asked; after three the server is asked no more, and once it listens
// again it is taken back. Each change is logged, and shown by `status`.
#[test]
fn a_server_that_refuses_is_left_out_and_taken_back() {
    let well = Upstream::start();
    let gone = nobody();
    let site = Site::of(two(well.address, gone, SHORT));
    let running = site.start();
    let ask = || Http1::tls(site.https).exchange(&Request::get("/public/x"));
    let logged = |word: &str| {
        let line = |text: String| {
            let mut lines = text.lines().filter(|line| line.contains(word));
            lines.next().map(str::to_owned)
        };
        eventually(word, || {
            ask().expect(200);
            line(running.stderr())
        })
    };
    let line = logged("server_ejected");
    assert!(
        line.contains("legacy") && line.contains(&gone.to_string()),
        "{line}"
    );
    assert!(line.contains("connection_refused"), "{line}");
    let told = site.told(&["status"]);
    let row = told.lines().find(|line| line.contains(&gone.to_string()));
    assert!(
        row.is_some_and(|row| row.contains("ejected") || row.contains("probing")),
        "{told}"
    );
    let back = Upstream::start_at(gone);
    logged("server_back");
    eventually("the server has requests again", || {
        ask().expect(200);
        (back.hits() >= 5).then_some(())
    });
    let told = site.told(&["status", "--output", "json"]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let servers = &told["upstreams"][0]["servers"];
    assert_eq!(servers[1]["server"], gone.to_string(), "{told}");
    assert_eq!(servers[1]["state"], "up", "{told}");
    assert!(servers[1]["ejections"].as_u64().unwrap() >= 1, "{told}");
    assert_eq!(servers[0]["ejections"], 0, "{told}");
}

// Exactly so many requests see the failure, whichever workers they come to; then nobody does.
#[test]
fn three_failures_in_a_row_are_all_that_clients_see() {
    let (well, ill) = (Upstream::start(), Upstream::start());
    ill.script("/public/x", reset());
    let gateway = two(well.address, ill.address, LONG).start();
    let counts = ask_until(&gateway, ill.address, "ejected", &[200, 502]);
    assert_eq!(counts[1], 3);
    let hits = ill.hits();
    for _ in 0..40 {
        ask(&gateway).expect(200);
    }
    assert_eq!(ill.hits(), hits, "a server that is out gets nothing");
    assert!(gateway.server_is(well.address, "up"));
}

// An answer that begins well and breaks off is a failure too: three in a row, with no whole one between, and the server is left out.
#[test]
fn answers_that_break_off_count_as_failures() {
    let (well, ill) = (Upstream::start(), Upstream::start());
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    ill.script("/public/x", vec![Step::Send(half.into()), Step::Close]);
    let gateway = two(well.address, ill.address, LONG).start();
    let mut cuts = 0;
    eventually("the server is left out", || {
        cuts += usize::from(!ask(&gateway).expect(200).complete);
        gateway.server_is(ill.address, "ejected").then_some(())
    });
    assert_eq!(cuts, 4, "the fourth is the one that finds three before it");
    let hits = ill.hits();
    for _ in 0..40 {
        ask(&gateway).expect(200);
    }
    assert_eq!(ill.hits(), hits, "a server that is out gets nothing");
}

// Whole answers between them forgive; and that a client leaves is not the server's fault.
#[test]
fn answers_that_break_off_now_and_then_leave_a_server_in() {
    let server = Upstream::start();
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
    server.script("/public/half", vec![Step::Send(half.into()), Step::Close]);
    let gateway = Setup::usual(&server)
        .set("upstreams.legacy", "ejection.failures", "3")
        .set("upstreams.legacy", "ejection.share_max", "100")
        .set("upstreams.legacy", "ejection.time", LONG)
        .set("upstreams.legacy", "ejection.time_max", LONG)
        .start();
    for _ in 0..6 {
        for _ in 0..2 {
            let cut = gateway.send(&Request::get("/public/half"));
            assert!(!cut.expect(200).complete);
        }
        ask(&gateway).expect(200);
    }
    assert!(gateway.server_is(server.address, "up"));
}

// A good answer between failures forgives them.
#[test]
fn failures_that_are_not_in_a_row_leave_a_server_in() {
    let server = Upstream::start();
    server.script("/public/bad", reset());
    let gateway = Setup::usual(&server)
        .set("upstreams.legacy", "ejection.failures", "3")
        .set("upstreams.legacy", "ejection.share_max", "100")
        .set("upstreams.legacy", "ejection.time", LONG)
        .set("upstreams.legacy", "ejection.time_max", LONG)
        .start();
    for _ in 0..6 {
        gateway.send(&Request::get("/public/bad")).expect(502);
        gateway.send(&Request::get("/public/bad")).expect(502);
        ask(&gateway).expect(200);
    }
    assert!(gateway.server_is(server.address, "up"));
}

// One request tries a server whose time is over, while all others stay away; what it finds decides.
#[test]
fn one_request_tries_a_server_that_was_left_out() {
    let (well, ill) = (Upstream::start(), Upstream::start());
    ill.script("/public/x", reset());
    let gateway = two(well.address, ill.address, SHORT).start();
    ask_until(&gateway, ill.address, "ejected", &[200, 502]);
    let before = ill.hits();
    let gate = Gate::closed();
    let held = vec![
        Step::ReadBody,
        Step::Wait(gate.clone()),
        Step::Send(ok("ok")),
    ];
    ill.script("/public/x", held);
    thread::scope(|scope| {
        let trial = scope.spawn(|| {
            eventually("a request tries it", || {
                let answer = ask(&gateway);
                answer.expect(200);
                (ill.hits() > before).then_some(())
            });
        });
        gateway.wait_until(ill.address, "probing");
        for _ in 0..40 {
            ask(&gateway).expect(200);
        }
        assert_eq!(ill.hits(), before + 1, "one request at a time");
        gate.open();
        trial.join().unwrap();
    });
    gateway.wait_until(ill.address, "up");
}

// A trial that fails leaves the server out; clients see no more than the trials.
#[test]
fn a_trial_that_fails_leaves_the_server_out() {
    let (well, gone) = (Upstream::start(), nobody());
    let gateway = two(well.address, gone, SHORT).start();
    ask_until(&gateway, gone, "ejected", &[200]);
    let ejections = format!(
        r#"portcullis_upstream_server_ejections_total{{upstream="legacy",server="{gone}"}}"#
    );
    eventually("three trials have failed", || {
        ask(&gateway).expect(200);
        (gateway.metric(&ejections) >= 4).then_some(())
    });
    assert!(!gateway.server_is(gone, "up"));
}

// Half of the servers at the most: the only one, or the last one, is never left out.
#[test]
fn no_more_than_a_share_is_left_out() {
    let alone = Upstream::start();
    alone.script("/public/x", reset());
    let gateway = Setup::usual(&alone)
        .set("upstreams.legacy", "ejection.failures", "1")
        .start();
    for _ in 0..5 {
        ask(&gateway).expect(502);
    }
    assert!(gateway.server_is(alone.address, "up"));
    assert_eq!(alone.hits(), 5);
    let other = Upstream::start();
    other.script("/public/x", reset());
    let gateway = two(alone.address, other.address, LONG).start();
    let up = || {
        let servers = [alone.address, other.address];
        servers.map(|server| gateway.server_is(server, "up"))
    };
    eventually("one is left out", || {
        ask(&gateway).expect(502);
        up().contains(&false).then_some(())
    });
    let before = up();
    for _ in 0..20 {
        ask(&gateway).expect(502);
    }
    assert!(before.contains(&true));
    assert_eq!(up(), before);
}

// While all are out, requests are sent as if none were, or refused with the word of RFC 9209: `all_out` says which.
#[test]
fn while_all_are_out_requests_are_tried_or_refused() {
    for (all_out, reaches) in [("\"try\"", true), ("\"refuse\"", false)] {
        let servers = [Upstream::start(), Upstream::start()];
        for server in &servers {
            server.script("/public/x", reset());
        }
        let [first, second] = [servers[0].address, servers[1].address];
        let gateway = two(first, second, LONG)
            .set("upstreams.legacy", "ejection.share_max", "100")
            .set("upstreams.legacy", "all_out", all_out)
            .start();
        eventually("both are out", || {
            let answer = ask(&gateway);
            assert!(answer.status == 502 || answer.status == 503);
            let out = |server| gateway.server_is(server, "ejected");
            (out(first) && out(second)).then_some(())
        });
        let hits = || servers[0].hits() + servers[1].hits();
        let before = hits();
        for server in &servers {
            server.answer("/public/x", ok("ok"));
        }
        for _ in 0..10 {
            let answer = ask(&gateway);
            if reaches {
                answer.expect(200);
            } else {
                answer.expect(503);
                let said = answer.one("proxy-status");
                assert_eq!(said, "portcullis; error=destination_unavailable");
            }
        }
        assert_eq!(hits() - before, if reaches { 10 } else { 0 });
        let out = |server| gateway.server_is(server, "ejected");
        assert!(out(first) && out(second), "only a trial brings them back");
    }
}

// Statuses that the file names are failures; clients get them as they are. Others are not.
#[test]
fn named_statuses_count_as_failures() {
    let (well, ill) = (Upstream::start(), Upstream::start());
    ill.answer("/public/x", status(503, &[], "busy"));
    let setup = || two(well.address, ill.address, LONG);
    let gateway = setup().start();
    for _ in 0..20 {
        let answer = ask(&gateway);
        assert!(answer.status == 200 || answer.text() == "busy");
    }
    assert!(gateway.server_is(ill.address, "up"));
    let gateway = setup()
        .set("upstreams.legacy", "ejection.statuses", r#"["503"]"#)
        .start();
    let counts = ask_until(&gateway, ill.address, "ejected", &[200, 503]);
    assert_eq!(counts[1], 3);
}

// What a client brings about says nothing of the server: one that leaves, one that allows no time (total_timeout of a route is the operator's word,
// and counts), an answer that is too large for us.
#[test]
fn what_is_not_the_servers_fault_does_not_count() {
    let server = Upstream::start();
    let large = "x".repeat(40_000);
    server.answer("/public/large", status(200, &[("X-Large", &large)], "ok"));
    server.script("/public/hold", vec![Step::Hold]);
    let gateway = Setup::usual(&server)
        .set("upstreams.legacy", "ejection.failures", "1")
        .set("upstreams.legacy", "ejection.share_max", "100")
        .start();
    gateway.send(&Request::get("/public/large")).expect(502);
    for at in 1..4 {
        let mut client = gateway.connect();
        client.send(Request::get("/public/hold").bytes());
        server.wait_for_hits(1 + at);
        drop(client);
        server.wait_for_aborted(at);
    }
    assert!(gateway.server_is(server.address, "up"));
    ask(&gateway).expect(200);
}

// Checks take a server out that would answer requests, and bring it back; they carry no key and no tenant. A new server counts as up.
#[test]
fn checks_take_servers_out_and_bring_them_back() {
    let (well, ill) = (Upstream::start(), Upstream::start());
    ill.answer("/up", status(503, &[], "soon"));
    let gateway = two(well.address, ill.address, LONG)
        .set("upstreams.legacy", "health.path", r#""/up""#)
        .set("upstreams.legacy", "health.interval", SHORT)
        .start();
    gateway.wait_until(ill.address, "down");
    assert!(gateway.server_is(well.address, "up"));
    let asked = ill.requests();
    assert!(asked.len() >= 3, "three bad checks in a row");
    for check in asked.iter().filter(|request| request.target() == "/up") {
        assert_eq!(check.line, "GET /up HTTP/1.1");
        assert_eq!(check.all("host"), [ill.address.to_string()]);
        for name in ["x-tenant-id", "authorization", "x-api-key"] {
            assert!(check.look_alikes(name).is_empty(), "{}", check.text());
        }
    }
    for _ in 0..20 {
        ask(&gateway).expect(200);
    }
    assert_eq!(ill.hits_on("/public/x"), 0);
    ill.answer("/up", ok("well"));
    gateway.wait_until(ill.address, "up");
    eventually("it has requests again", || {
        ask(&gateway).expect(200);
        (ill.hits_on("/public/x") > 0).then_some(())
    });
}

// While checks say that all are down, `all_out` decides as well; a file that asks for the wrong path takes nobody off the air by default. When nobody
// checks any more, nobody is down.
#[test]
fn checks_that_all_fail_turn_nobody_away_by_default() {
    let server = Upstream::start();
    server.answer("/wrong", status(404, &[], "no"));
    let setup = || {
        Setup::usual(&server)
            .set("upstreams.legacy", "health.path", r#""/wrong""#)
            .set("upstreams.legacy", "health.interval", SHORT)
            .set("upstreams.legacy", "health.unhealthy", "1")
    };
    let mut gateway = setup().start();
    gateway.wait_until(server.address, "down");
    ask(&gateway).expect(200);
    let refusing = (gateway.setup.clone()).set("upstreams.legacy", "all_out", "\"refuse\"");
    gateway.reload(refusing).unwrap();
    assert!(
        gateway.server_is(server.address, "down"),
        "a reload forgets nothing"
    );
    ask(&gateway).expect(503);
    let unchecked = gateway.setup.clone();
    let unchecked = ["path", "interval", "unhealthy"]
        .iter()
        .fold(unchecked, |setup, key| {
            setup.unset("upstreams.legacy", &format!("health.{key}"))
        });
    gateway.reload(unchecked).unwrap();
    gateway.wait_until(server.address, "up");
    ask(&gateway).expect(200);
}

// Checks speak as requests do: TLS with its authority, HTTP/2 by ALPN and known beforehand. That they get real answers shows in that they mind the status.
#[test]
fn checks_speak_tls_and_http2() {
    let Some(nginx) = real::secure_nginx() else {
        return;
    };
    for (scheme, address, protocol) in [
        ("https", nginx.https, "http1"),
        ("https", nginx.http2, "http2"),
        ("http", nginx.clear, "http2"),
    ] {
        let server = format!(r#"["{scheme}://{address}"]"#);
        let mut setup = Setup::usual_at(address)
            .set("upstreams.legacy", "servers", &server)
            .set("upstreams.legacy", "protocol", &format!("{protocol:?}"))
            .set("upstreams.legacy", "health.path", r#""/any/up""#)
            .set("upstreams.legacy", "health.interval", SHORT)
            .set("upstreams.legacy", "health.status", r#""204""#);
        if scheme == "https" {
            std::fs::write(
                setup.directory().join("ca.pem"),
                &crate::support::certs::authority().pem,
            )
            .unwrap();
            setup = setup.set("upstreams.legacy", "tls.ca", r#""ca.pem""#);
        }
        let mut gateway = setup.start();
        gateway.wait_until(address, "down");
        let minded = (gateway.setup.clone()).set("upstreams.legacy", "health.status", r#""200""#);
        gateway.reload(minded).unwrap();
        gateway.wait_until(address, "up");
    }
}

// A server that hangs, resets, answers 503 or is gone, and recovers: a real one, through all of its moods.
#[test]
fn a_real_server_is_left_out_in_every_mood_and_taken_back() {
    if real::left_out("python3") {
        return;
    }
    let well = Upstream::start();
    let mut moody = Some(real::moody(free_port()));
    let address = moody.as_ref().unwrap().address;
    let mut gateway = two(well.address, address, SHORT)
        .set("upstreams.legacy", "ejection.statuses", r#"["503"]"#)
        .start();
    let patient = gateway.setup.clone();
    let hasty = (patient.clone()).set("upstreams.legacy", "first_byte_timeout", r#""150ms""#);
    let set = |mood: &str| {
        let told = Http1::plain(address).exchange(&Request::get(&format!("/mood/{mood}")));
        told.expect(200);
    };
    for (mood, seen) in [("hang", 504), ("reset", 502), ("503", 503), ("gone", 200)] {
        let was = gateway.metric(&ejections_of(address));
        match mood {
            "gone" => drop(moody.take()),
            mood => set(mood),
        }
        // Little time is allowed only where a server hangs: on a busy machine one that is well may need more.
        if mood == "hang" {
            gateway.reload(hasty.clone()).unwrap();
        }
        eventually(&format!("{mood}: left out"), || {
            let status = ask(&gateway).status;
            assert!(status == 200 || status == seen, "{mood}: {status}");
            (gateway.metric(&ejections_of(address)) > was).then_some(())
        });
        match mood {
            "gone" => moody = Some(real::moody(address.port())),
            _ => set("well"),
        }
        gateway.reload(patient.clone()).unwrap();
        eventually(&format!("{mood}: taken back"), || {
            let answer = ask(&gateway);
            (answer.text() == address.port().to_string()).then_some(())
        });
        gateway.wait_until(address, "up");
    }
}

fn ejections_of(server: SocketAddr) -> String {
    format!(r#"portcullis_upstream_server_ejections_total{{upstream="legacy",server="{server}"}}"#)
}

// S36: second tries are a share of the requests, and a few a second besides; the first failure is the answer beyond that.
#[test]
fn second_tries_are_rationed() {
    let (well, gone) = (Upstream::start(), nobody());
    let setup = |share: &str, free: &str| {
        Setup::usual(&well)
            .servers(&[gone, well.address])
            .set("upstreams.legacy", "ejection.failures", "0")
            .set("upstreams.legacy", "retry_budget.share", share)
            .set("upstreams.legacy", "retry_budget.free_per_second", free)
            .start()
    };
    let gateway = setup("0", "0");
    let failed = (0..40).filter(|_| ask(&gateway).status == 502).count() as u64;
    assert!(failed > 0);
    assert_eq!(gateway.upstream_number("retries_refused_total"), failed);
    assert_eq!(gateway.upstream_number("retries_total"), 0);
    let gateway = setup("100", "0");
    for _ in 0..40 {
        ask(&gateway).expect(200);
    }
    assert!(gateway.upstream_number("retries_total") > 0);
    // Of a hundred requests at most ten are tried again, whatever the workers.
    let gateway = setup("10", "0");
    let failed = (0..100).filter(|_| ask(&gateway).status == 502).count() as u64;
    let retried = gateway.upstream_number("retries_total");
    assert!((1..=10).contains(&retried), "{retried}");
    assert_eq!(gateway.upstream_number("retries_refused_total"), failed);
}

// S28: what is told of servers grows with the file alone.
#[test]
fn metrics_of_servers_are_those_of_the_file() {
    let server = Upstream::start();
    let gateway = Setup::usual(&server).start();
    let count = || {
        let text = gateway.admin_get("/metrics").text();
        let of_servers = text
            .lines()
            .filter(|line| line.starts_with("portcullis_upstream_"));
        of_servers.count()
    };
    let before = count();
    assert_eq!(before, 4 + 1 + 1 + 4);
    for at in 0..20 {
        gateway.send(&Request::get(&format!("/public/{at}")).host(&format!("h{at}.example")));
    }
    assert_eq!(count(), before);
}
