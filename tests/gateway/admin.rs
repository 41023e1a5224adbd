//! The admin listener: health and metrics, and nothing that a stranger may do.

use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// DESIGN section 10.
#[test]
fn health_is_told() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    gateway.admin_get("/livez").expect(200);
    gateway.admin_get("/readyz").expect(200);
    gateway.admin_get("/nothing-here").expect(404);
}

// OpenMetrics; numbers that match what happened; neither keys nor paths as labels (S26, S28).
#[test]
fn metrics_count_what_happened() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "3/hour", "unlimited").start();
    let key = gateway.key("acme");
    let mut client = gateway.connect();
    for status in [200, 200, 200, 429, 429] {
        client
            .exchange(&Request::get("/any/some-client-path").bearer(&key.text))
            .expect(status);
    }
    client.exchange(&Request::get("/any")).expect(401);
    let metrics = eventually("the requests are counted", || {
        let answer = gateway.admin_get("/metrics");
        let text = answer.text();
        (text.contains("429") && text.contains("401")).then_some(answer)
    });
    let kind = metrics.one("content-type");
    assert!(kind.starts_with("application/openmetrics-text") && kind.contains("version=1.0.0"));
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"));
    assert!(text.contains("portcullis_"), "{text}");
    for secret in [&key.text, &key.id, "some-client-path"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let count = |status: &str| -> f64 {
        text.lines()
            .filter(|line| line.contains("requests_total") && line.contains(status))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    };
    assert!((count("\"200\"") - 3.0).abs() < 0.5, "{text}");
    assert!((count("\"429\"") - 2.0).abs() < 0.5, "{text}");
}

// The admin listener forwards nothing, and the public one has no admin paths.
#[test]
fn the_two_planes_are_apart() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    gateway.admin_get("/public/x").expect(404);
    for path in ["/metrics", "/livez", "/readyz"] {
        gateway.get(path, &key).expect(404);
    }
    assert_eq!(upstream.hits(), 0);
}

// Without a token TCP serves health and metrics only: no verb of the admin socket is there.
#[test]
fn tcp_performs_no_administrative_act() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let body = r#"{"verb":"key-list","tenant":null}"#;
    for path in ["/", "/execute", "/verb", "/v1/execute", "/keys", "/reload"] {
        let request = Request::new("POST", path)
            .header("Content-Type", "application/json")
            .header("Connection", "close")
            .body(body);
        let status = Http1::plain(gateway.admin()).exchange(&request).status;
        assert!(matches!(status, 401 | 403 | 404 | 405), "{path}: {status}");
    }
}

// Health stays true through a reload that fails, and the failure shows in the metrics (S46).
#[test]
fn a_failed_reload_shows() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let metric = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("portcullis_config_last_reload_successful"))
            .and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let good = gateway.setup.clone();
    good.clone().more("[[routes").write();
    assert!(gateway.reload_as_is().is_err());
    gateway.admin_get("/readyz").expect(200);
    assert_eq!(metric(&gateway.admin_get("/metrics").text()), Some(0.0));
    good.write();
    gateway.reload_as_is().unwrap();
    assert_eq!(metric(&gateway.admin_get("/metrics").text()), Some(1.0));
}
