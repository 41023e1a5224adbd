//! What administrators did is written down with the change itself, chained, and never with a secret.

use portcullis::store::Verb;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::gateway::files_below;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

fn lines(gateway: &Gateway, words: &[&str]) -> Vec<Value> {
    let words = [&["audit", "list", "--output", "json"], words].concat();
    let (code, out, err) = gateway.command(&words);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

// DESIGN section 10: who, what, before and after, from where, revision; each act once, in order, and the chain holds.
#[test]
fn every_act_is_written_down_with_who_and_what_changed() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let (_, out, _) = gateway.command(&[
        "keys",
        "create",
        "--tenant",
        "acme",
        "--name",
        "CI",
        "--inherit",
        "--output",
        "json",
    ]);
    let made: Value = serde_json::from_str(&out).unwrap();
    let (id, text) = (made["id"].as_str().unwrap(), made["text"].as_str().unwrap());
    for words in [
        vec!["keys", "update", id, "--name", "CI two"],
        vec!["keys", "deactivate", id],
        // Nothing changes, so nothing is written down.
        vec!["keys", "deactivate", id],
        vec!["keys", "regenerate", id, "--yes"],
        vec!["keys", "revoke", id, "--yes"],
        vec!["tenants", "create", "initech", "--plan", "open"],
        vec!["tenants", "suspend", "initech"],
        vec!["keys", "revoke", "--tenant", "acme", "--yes"],
        vec!["reload"],
    ] {
        let (code, _, err) = gateway.command(&words);
        assert_eq!(code, 0, "{words:?}: {err}");
    }
    // A refused act is none.
    assert_eq!(gateway.command(&["keys", "activate", id]).0, 1);
    let all = lines(&gateway, &[]);
    let acts: Vec<&str> = all
        .iter()
        .rev()
        .map(|line| line["act"].as_str().unwrap())
        .collect();
    let expected = [
        "key-create",
        "key-update",
        "key-deactivate",
        "key-regenerate",
        "key-revoke",
        "tenant-create",
        "tenant-suspend",
        "reload",
    ];
    assert_eq!(acts, expected);
    let uid = format!("uid:{}", rustix::process::getuid().as_raw());
    for (seq, line) in all.iter().rev().enumerate() {
        assert_eq!(line["seq"], seq + 1);
        assert_eq!(
            (line["who"].as_str(), line["from"].as_str()),
            (Some(&*uid), Some("socket"))
        );
    }
    let update = &all[6];
    assert_eq!(update["subject"], id);
    assert_eq!(
        (&update["before"]["name"], &update["after"]["name"]),
        (&"CI".into(), &"CI two".into())
    );
    assert_eq!(all[1]["subject"], "initech");
    assert_eq!(all[1]["revision"], 7);
    assert_eq!(lines(&gateway, &["--subject", id]).len(), 5);
    assert_eq!(lines(&gateway, &["--limit", "1"]).len(), 1);
    assert_eq!(lines(&gateway, &["--who", "uid:4711"]).len(), 0);
    // FA4: neither the text nor any of its digests is in it.
    let said = serde_json::to_string(&all).unwrap();
    assert!(!said.contains(text) && !said.contains("digest"), "{said}");
    let (code, head, said) = gateway.command(&["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    assert!(head.starts_with("8:") && head.trim().len() == 66, "{head}");
    let (code, _, said) = gateway.command(&["audit", "verify", "--expect", head.trim()]);
    assert_eq!(code, 0, "{said}");
}

// A changed, a missing and a moved line are found while the gateway runs, and when none does; what was written without a gateway is in it.
#[test]
fn a_log_that_another_hand_touched_is_found() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    for _ in 0..3 {
        site.key();
    }
    let verify = || {
        let output = site.command(&["audit", "verify"]);
        (output.status.code(), crate::support::site::errors(&output))
    };
    assert_eq!(verify().0, Some(0));
    let running = site.start();
    assert_eq!(verify().0, Some(0));
    let listed = site.told(&["audit", "list"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed
            .lines()
            .all(|line| line.contains("\toffline\tkey-create\tkey_")),
        "{listed}"
    );
    let file = site.setup.directory().join("state/keys.db");
    let sql = |text: &str| {
        Connection::open(&file)
            .unwrap()
            .execute_batch(text)
            .unwrap()
    };
    for (change, back, says) in [
        (
            "UPDATE audit SET who = 'uid:0x' WHERE seq = 2",
            "UPDATE audit SET who = (SELECT who FROM audit WHERE seq = 1) WHERE seq = 2",
            "line 2 was changed",
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM audit WHERE seq = 2; DELETE FROM audit WHERE seq = 2",
            "INSERT INTO audit SELECT * FROM kept; DROP TABLE kept",
            "line 2 is missing",
        ),
        (
            "UPDATE audit SET seq = -1 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = -1",
            "UPDATE audit SET seq = -1 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; UPDATE audit SET seq = 3 WHERE seq = -1",
            "stands where another did",
        ),
        (
            "CREATE TABLE kept AS SELECT * FROM audit WHERE seq = 3; DELETE FROM audit WHERE seq = 3",
            "INSERT INTO audit SELECT * FROM kept; DROP TABLE kept",
            "it ends with line 2, but 3 were written",
        ),
    ] {
        sql(change);
        let (code, said) = verify();
        assert_eq!(code, Some(1), "{change}");
        assert!(said.contains(says), "{change}: {said}");
        sql(back);
        assert_eq!(verify().0, Some(0), "{back}");
    }
    drop(running);
}

// The log has a bound, and what it lets go it says itself: the rest is held to that, and a beginning that another hand took is found.
#[test]
fn old_lines_go_and_the_log_says_so() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream).set("audit", "keep", r#""2d""#);
    let gateway = setup.start_at(portcullis::clock::Clock::movable());
    for _ in 0..3 {
        gateway.key("acme");
    }
    let (_, first, _) = gateway.command(&["audit", "verify"]);
    gateway.advance(std::time::Duration::from_secs(3 * 86_400));
    gateway.key("acme");
    let pruned = eventually("old lines are let go", || {
        let all = lines(&gateway, &[]);
        (all.len() == 2).then_some(all)
    });
    assert_eq!(
        (&pruned[0]["act"], &pruned[0]["who"], &pruned[0]["subject"]),
        (&"audit-prune".into(), &"gateway".into(), &"audit".into())
    );
    let after = &pruned[0]["after"];
    assert_eq!((&after["first"], &after["through"]), (&1.into(), &3.into()));
    assert_eq!(
        format!("3:{}", after["hash"].as_str().unwrap()),
        first.trim()
    );
    let gateway = gateway.restart();
    let (code, head, said) = gateway.command(&["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    assert!(head.starts_with("5:"), "{head}");
    assert!(
        said.contains("2 lines, all as they were written, from line 4 of ")
            && said.contains("those before were let go"),
        "{said}"
    );
    // Line 5 says what went. Of who expects a line that went, only he knows whether it was old enough; who expects line 5 or a later one has it vouched for.
    let expect = |line: &str| gateway.command(&["audit", "verify", "--expect", line]);
    let (code, _, said) = expect(first.trim());
    assert!(
        code == 1 && said.contains("line 3 was let go, with this hash, as line 5 says"),
        "{said}"
    );
    let (code, _, said) = expect(head.trim());
    assert!(
        code == 0 && said.contains("as line 5 says, which line 5 vouches for"),
        "{said}"
    );
    let file = gateway.directory().join("state/keys.db");
    let taken = "DELETE FROM audit WHERE seq = 4";
    Connection::open(file)
        .unwrap()
        .execute_batch(taken)
        .unwrap();
    let (code, _, said) = gateway.command(&["audit", "verify"]);
    assert!(code == 1 && said.contains("line 4 is missing"), "{said}");
}

// DESIGN section 10: tokens are kept as digests, shown once, end when they are revoked or their time is over, and making one is an act.
#[test]
fn admin_tokens_are_kept_as_digests_and_end() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    let made = |words: &[&str]| {
        let words = [
            &["admin-tokens", "create", "--name", "ops"],
            words,
            &["--output", "json"],
        ]
        .concat();
        let (code, out, err) = gateway.command(&words);
        assert_eq!(code, 0, "{err}");
        let made: Value = serde_json::from_str(&out).unwrap();
        made
    };
    let full = made(&["--role", "full"]);
    let tenant = made(&["--tenant", "acme", "--expires", "1h"]);
    assert_eq!(
        (tenant["role"].as_str(), tenant["tenant"].as_str()),
        (Some("tenant"), Some("acme"))
    );
    assert!(full["text"].as_str().unwrap().starts_with("adm_full_"));
    for (words, says) in [
        (vec!["--tenant", "nobody"], "no tenant is called"),
        (
            vec!["--tenant", "acme", "--role", "full"],
            "cannot be used with",
        ),
        (vec![], "required"),
        (
            vec!["--role", "full", "--expires", "soon"],
            "never, or a span",
        ),
    ] {
        let words = [&["admin-tokens", "create", "--name", "x"], &words[..]].concat();
        let (code, _, said) = gateway.command(&words);
        assert!(code != 0 && said.contains(says), "{words:?}: {said}");
    }
    let id = full["id"].as_str().unwrap();
    assert_eq!(
        gateway.command(&["admin-tokens", "revoke", id, "--yes"]).0,
        0
    );
    gateway.advance(std::time::Duration::from_secs(3_601));
    let (_, listed, _) = gateway.command(&["admin-tokens", "list"]);
    let states: Vec<&str> = listed
        .lines()
        .filter_map(|line| line.rsplit('\t').next())
        .collect();
    assert_eq!(states, ["revoked", "expired"], "{listed}");
    for text in [&full["text"], &tenant["text"]] {
        let text = text.as_str().unwrap().as_bytes();
        for (path, bytes) in files_below(gateway.directory()) {
            let found = crate::support::upstream::find(&bytes, text);
            assert!(found.is_none(), "a token stands in {}", path.display());
        }
    }
    let acts: Vec<Value> = lines(&gateway, &[]);
    let acts: Vec<_> = acts
        .iter()
        .map(|line| line["act"].as_str().unwrap())
        .collect();
    assert_eq!(
        acts,
        [
            "admin-token-revoke",
            "admin-token-create",
            "admin-token-create"
        ]
    );
    // One id is not the other's, and a text is never repeated.
    let (code, _, said) = gateway.command(&["admin-tokens", "revoke", "adm_full_abc", "--yes"]);
    assert!(code == 1 && !said.contains("adm_full_abc"), "{said}");
    let _ = gateway.execute(Verb::AdminTokenList).unwrap();
}
