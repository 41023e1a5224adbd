//! `limits explain` foretells what a request gets.

use crate::support::client::Http1;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::request::Request;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

// DESIGN section 6: `limits explain` says which windows apply, their state and why, takes nothing from them, and foretells what a request
// gets. FF12 and FA21: the window of the minute and that of the hour, each key its own. An override of the key beats its plan (FA22).
#[test]
fn limits_explain_foretells_what_a_request_gets() {
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "100/hour", "20/min").route_to(
        "legacy",
        "/dear/{*rest}",
        &["GET"],
        Access::AnyKey,
        "cost = 7\n",
    );
    let site = Site::of(setup);
    let words =
        "keys create --tenant acme --name own --scope leases:read --burst 8/min --output json";
    let words: Vec<&str> = words.split(' ').collect();
    let made: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["text"].as_str().unwrap());
    let explain = |path: &str, more: &[&str]| -> serde_json::Value {
        let words = ["limits", "explain", id, path, "--output", "json"];
        serde_json::from_str(&site.told(&[&words, more].concat())).unwrap()
    };
    // No gateway runs: what the configuration says, and no counts.
    let said = explain("/leases/1", &[]);
    assert_eq!(said["windows"][1]["limit"], "8/min");
    assert_eq!(said["windows"][1]["from"], "the key");
    assert!(said["windows"][0]["state"].is_null());
    assert!(said["notes"].to_string().contains("running gateway"));

    let _running = site.start();
    let connect = || Http1::tls(site.https);
    let expected = [
        ("GET", "/dear/x", 200, 7),
        ("GET", "/leases/1", 200, 8),
        ("GET", "/leases/1", 429, 8),
    ];
    for (method, path, status, used) in expected {
        let before = explain(path, &["--method", method]);
        let again = explain(path, &["--method", method]);
        let used_of = |said: &serde_json::Value| said["windows"][0]["state"]["used"].as_u64();
        assert_eq!(used_of(&before), used_of(&again), "nothing is taken");
        let foretold = before["refused"].as_u64().unwrap_or(200);
        assert_eq!(foretold, status, "{before}");
        let answer = connect().exchange(&Request::get(path).bearer(key));
        answer.expect(status as u16);
        let after = explain(path, &[]);
        assert_eq!(after["windows"][0]["state"]["used"], used);
        assert_eq!(after["windows"][0]["state"]["remaining"], 100 - used);
        assert_eq!(after["windows"][0]["from"], "plan limited of the tenant");
        assert_eq!(after["windows"][1]["state"]["used"], used);
    }
    let table = site.told(&["limits", "explain", id, "/leases/1"]);
    assert!(
        table.contains("verdict\trefused, 429 limit_exceeded\n"),
        "{table}"
    );
    assert!(
        table.contains("8/min by the key: 8 used, 0 left"),
        "{table}"
    );
}

// DESIGN section 3, step 6: key, tenant and plan must all have the scope; the explanation names those that lack it, as the answer would.
#[test]
fn limits_explain_names_who_lacks_the_scope() {
    let upstream = Upstream::start();
    let setup = Setup::limited(&upstream, "100/hour", "unlimited")
        .set("plans.limited", "scopes", r#"["leases:*"]"#)
        .set("plans.tried", "mode", r#""observe""#)
        .plan("tried", "1/hour", "unlimited")
        .tenant("bravo", "tried");
    let site = Site::of(setup);
    let _running = site.start();
    let make = |words: &str| -> (String, String) {
        let words: Vec<&str> = words.split(' ').collect();
        let made: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        (text("id"), text("text"))
    };
    let strict = make("keys create --tenant acme --name a --scope leases:read --output json");
    let tried = make("keys create --tenant bravo --name b --scope leases:read --output json");
    let cases = [
        (&strict, "/leases/1", 200, &[][..]),
        (&strict, "/owners/1", 403, &["key", "plan"]),
        (&strict, "/nowhere", 404, &[]),
        (&strict, "/any/%2e%2e/x", 400, &[]),
        (&strict, "/public/1", 200, &[]),
        (&tried, "/owners/1", 200, &["key"]),
        (&tried, "/owners/1", 200, &["key"]),
    ];
    for ((id, key), path, status, lacking) in cases {
        let words = ["limits", "explain", id, path, "--output", "json"];
        let said: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
        assert_eq!(said["refused"].as_u64().unwrap_or(200), status, "{said}");
        let named = said["scope"]["lacking"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert_eq!(named, lacking.to_vec(), "{said}");
        let answer = Http1::tls(site.https).exchange(&Request::get(path).bearer(key));
        answer.expect(status as u16);
    }
    let table = site.told(&["limits", "explain", &tried.0, "/owners/1"]);
    assert!(
        table.contains("forwarded (only observed: limit_exceeded, scope_not_of_key)"),
        "{table}"
    );
    assert!(table.contains("observe, says its plan"), "{table}");
    assert_exit(
        &site.command(&["limits", "explain", "key_aaaaaaaaaaaa", "/x"]),
        1,
    );
    assert_exit(&site.command(&["limits", "explain", &strict.0, "x"]), 1);
}

// FM13, FA20, FA18: `limits explain` says where a request goes and what it must name, and foretells twin and missing place; `tenants update
// --upstream` gives a tenant its own, and `check` exits 78 where nothing keeps tenants apart and nobody said twice that this is meant.
#[test]
fn isolation_is_explained_and_checked() {
    let (upstream, own) = (Upstream::start(), Upstream::start());
    let bind = "bind = { org = \"tenant\", lessee = \"subject\" }\n";
    let setup = Setup::limited(&upstream, "100/hour", "unlimited")
        .set("upstreams.legacy", "isolation", "\"header\"")
        .route_to("legacy", "/orgs/{org}/{lessee}", &[], Access::AnyKey, bind)
        .route_to("apart", "/apart/{*rest}", &[], Access::AnyKey, "")
        .more("[upstreams.apart]\nisolation = \"physical\"\ntenants = {}");
    let site = Site::of(setup.clone());
    let _running = site.start();
    site.told(&["tenants", "create", "umbrella", "--plan", "limited"]);
    let words = "keys create --tenant umbrella --name k --inherit --subject user:7 --output json";
    let words: Vec<&str> = words.split(' ').collect();
    let made: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
    let (id, key) = (made["id"].as_str().unwrap(), made["text"].as_str().unwrap());
    let foretold = |path: &str, status: u16, reason: &str| {
        let words = ["limits", "explain", id, path, "--output", "json"];
        let said: serde_json::Value = serde_json::from_str(&site.told(&words)).unwrap();
        assert_eq!(
            said["refused"].as_u64().unwrap_or(200),
            u64::from(status),
            "{said}"
        );
        assert_eq!(
            said["reason"].as_str().unwrap_or_default(),
            reason,
            "{said}"
        );
        Http1::tls(site.https)
            .exchange(&Request::get(path).bearer(key))
            .expect(status);
    };
    foretold("/orgs/umbrella/user%3A7", 200, "");
    foretold("/orgs/umbrella/user:8", 404, "foreign_subject");
    foretold("/orgs/acme/user:7", 404, "foreign_tenant");
    foretold("/apart/x", 503, "tenant_without_upstream");
    let url = format!("apart=http://{}/u", own.address);
    site.told(&["tenants", "update", "umbrella", "--upstream", &url]);
    foretold("/apart/x", 200, "");
    assert_eq!(own.last().target(), "/u/apart/x");
    let table = site.told(&["limits", "explain", id, "/orgs/acme/user:7"]);
    for line in [
        "verdict\trefused, 404 foreign_tenant\n",
        "bound\t{org} of the path is the tenant, umbrella\n",
        "bound\t{lessee} of the path is the key's subject, user:7\n",
    ] {
        assert!(table.contains(line), "{table}");
    }
    let table = site.told(&["limits", "explain", id, "/apart/x"]);
    let place = format!("upstream\tapart, isolation physical: {}/u\n", own.address);
    assert!(table.contains(&place), "{table}");

    let site = Site::of(Setup::usual(&upstream).set("upstreams.legacy", "isolation", "\"none\""));
    let output = site.command(&["check"]);
    assert_exit(&output, 78);
    assert!(errors(&output).contains("every_tenant_sees_all_data"));
    let site = Site::of(
        Setup::usual(&upstream)
            .set("upstreams.legacy", "isolation", "\"none\"")
            .set("upstreams.legacy", "every_tenant_sees_all_data", "true"),
    );
    assert_exit(&site.command(&["check"]), 0);
}
