//! Keys and tenants from the command line, with a gateway and without.

use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

// DESIGN section 5: scopes are given or inherited on purpose.
#[test]
fn keys_create_demands_scopes_or_inherit() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let output = site.command(&["keys", "create", "--tenant", "acme", "--name", "x"]);
    assert_exit(&output, 2);
    assert!(errors(&output).contains("--inherit"), "{}", errors(&output));
}

// FM4: a key has one tenant.
#[test]
fn keys_create_takes_one_tenant() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let words = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--tenant",
        "bravo",
        "--name",
        "x",
        "--inherit",
    ];
    assert_exit(&site.command(&words), 2);
}

// FA4, CW2: the key alone on standard output, once; talk on standard error.
#[test]
fn a_key_is_shown_once_on_stdout_alone() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    let words = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--name",
        "CI",
        "--inherit",
    ];
    let output = site.command(&words);
    assert_exit(&output, 0);
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    let key = shown.trim_end_matches('\n');
    assert_eq!(key.len(), "fp_live_".len() + 36, "{shown:?}");
    assert!(!errors(&output).contains(key));
    site.get(key).expect(200);
    for words in [
        &["keys", "list"][..],
        &["keys", "list", "--output", "json"],
        &["status"],
    ] {
        let told = site.told(words);
        assert!(!told.contains(&key[8..20]), "{told}");
    }
}

// FA5, FA7, FF5: lists have names, dates and states, in a table and in JSON.
#[test]
fn keys_are_listed_in_words_and_in_json() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    site.key();
    let json: serde_json::Value =
        serde_json::from_str(&site.told(&["keys", "list", "--output", "json"])).unwrap();
    let text = json.to_string();
    for member in [
        "\"name\"",
        "\"created_at\"",
        "\"expires_at\"",
        "\"status\"",
        "\"active\"",
    ] {
        assert!(text.contains(member), "{member}: {text}");
    }
    let table = site.told(&["keys", "list"]);
    assert!(
        table.contains("test") && table.contains("active"),
        "{table}"
    );
}

// PB4, FF19, C-27: changed, rotated, imported, chosen columns; many are revoked only with --yes, those that standard input lists too.
#[test]
fn keys_are_managed_from_the_command_line() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    let first = site.key();
    let id = site.told(&["keys", "list", "--columns", "id"]);
    let id = id.trim();
    assert_eq!(id.len(), 16, "{id:?}");
    site.command(&[
        "keys", "update", id, "--name", "renamed", "--quota", "5/hour",
    ]);
    let row = site.told(&["keys", "list", "--columns", "name,quota,last-used"]);
    assert_eq!(row, "renamed\t5/hour\tnever\n");
    let second = site.told(&["keys", "rotate", id, "--overlap", "1h"]);
    let second = second.trim();
    for key in [first.as_str(), second] {
        site.get(key).expect(200);
    }
    let file = site.setup.directory().join("keys.csv");
    std::fs::write(
        &file,
        "tenant,name,value,scopes\nacme,old,legacy-0123456789,inherit\nacme,bad,x,inherit\n",
    )
    .unwrap();
    let import = ["keys", "import", file.to_str().unwrap()];
    let output = site.command(&import);
    assert_exit(&output, 1);
    assert!(
        errors(&output).contains("keys.csv:3: a key is 16"),
        "{}",
        errors(&output)
    );
    std::fs::write(
        &file,
        "tenant,name,value,scopes\nacme,old,legacy-0123456789,inherit\n",
    )
    .unwrap();
    site.told(&import);
    site.get("legacy-0123456789").expect(200);
    let bulk = ["keys", "revoke", "--tenant", "acme"];
    assert_exit(&site.command(&bulk), 2);
    site.get(second).expect(200);
    let told = site.told(&[
        "keys", "revoke", "--tenant", "acme", "--yes", "--output", "json",
    ]);
    assert!(told.contains("\"count\": 3"), "{told}");
    for key in [first.as_str(), second, "legacy-0123456789"] {
        site.get(key).expect(401);
    }
}

// DESIGN section 5: with no gateway running, the same commands write the store themselves.
#[test]
fn commands_work_without_a_gateway() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    site.told(&["tenants", "create", "stored", "--plan", "open"]);
    assert!(site.told(&["tenants", "list"]).contains("stored"));
    let key = site.key();
    let _running = site.start();
    site.get(&key).expect(200);
}

// FA8: in force when the command returns; the whole life of a key by the command line.
#[test]
fn key_verbs_take_effect_before_they_return() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let _running = site.start();
    let key = site.key();
    let json: serde_json::Value =
        serde_json::from_str(&site.told(&["keys", "list", "--output", "json"])).unwrap();
    let text = json.to_string();
    let at = text.find("key_").expect("a key id");
    let id = &text[at..at + 16];
    for (verb, status) in [("deactivate", 401), ("activate", 200), ("revoke", 401)] {
        let output = site.command(&["keys", verb, id, "--yes"]);
        let output = if output.status.code() == Some(2) {
            site.command(&["keys", verb, id])
        } else {
            output
        };
        assert_exit(&output, 0);
        assert_eq!(site.get(&key).status, status, "{verb}");
    }
    assert_exit(&site.command(&["keys", "activate", id]), 1);
    assert_exit(&site.command(&["keys", "show", "key_000000000000"]), 1);
}
