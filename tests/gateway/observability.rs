//! What comes ready-made for Prometheus and Grafana asks for nothing that the gateway does not tell, and traces go through.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::gateway::Setup;
use crate::support::real::left_out;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

/// Names of metrics in a text, as PromQL would find them.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let ours =
        words.filter(|word| word.starts_with("portcullis_") || word.starts_with("http_server_"));
    ours.map(str::to_owned).collect()
}

// DESIGN section 10: every metric that the examples ask for is told, and neither key nor path is a label whatever clients send (S28).
#[test]
fn the_examples_ask_for_metrics_that_there_are() {
    let upstream = Upstream::start();
    let gateway = Setup::limited(&upstream, "3/hour", "unlimited").start();
    let key = gateway.key("acme");
    for path in 0..6 {
        gateway.get(&format!("/any/{path}"), &key);
    }
    let told = crate::support::eventually("a refusal is counted", || {
        let text = gateway.admin_get("/metrics").text();
        text.contains("limit_exceeded").then_some(text)
    });
    assert!(!told.contains(&key.id) && !told.contains("/any/5"));
    // A type is told even while there is no sample; samples of counters and histograms have a longer name.
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known: BTreeSet<String> = types
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(name, kind)| match kind {
            "counter" => vec![format!("{name}_total")],
            "histogram" => vec![format!("{name}_bucket")],
            _ => vec![name.to_owned()],
        })
        .collect();
    for file in ["alerts.yml", "grafana-dashboard.json"] {
        let text = fs::read_to_string(example(file)).unwrap();
        let asked = names(&text);
        assert!(asked.len() > 8, "{file}: {asked:?}");
        let missing: Vec<_> = asked.difference(&known).collect();
        assert!(
            missing.is_empty(),
            "{file} asks for {missing:?}; there are {known:?}"
        );
    }
    let text = fs::read_to_string(example("grafana-dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 10);
}

// The rules are good ones, and so is what they are about: promtool reads both.
#[test]
fn promtool_takes_the_rules_and_the_metrics() {
    if left_out("promtool") {
        return;
    }
    let rules = Command::new("promtool")
        .args(["check", "rules"])
        .arg(example("alerts.yml"))
        .output();
    let rules = rules.expect("this test needs promtool (Debian: prometheus), or leave it out by PORTCULLIS_WITHOUT=promtool");
    let said = String::from_utf8_lossy(&rules.stdout).into_owned();
    assert!(
        rules.status.success() && said.contains("13 rules found"),
        "{said}{}",
        String::from_utf8_lossy(&rules.stderr)
    );
}

// W3C trace context: what a client says of its trace reaches the backend as it is.
#[test]
fn trace_context_is_passed_on() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let key = gateway.key("acme");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = Request::get("/any/x")
        .bearer(&key.text)
        .header("traceparent", parent)
        .header("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    gateway.send(&request).expect(200);
    let seen = upstream.last();
    assert_eq!(seen.all("traceparent"), [parent]);
    assert_eq!(
        seen.all("tracestate"),
        ["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"]
    );
}
