//! Keys and tenants that gateway.toml itself declares: good by digest, ended for good by a tombstone, never in two places at once.

use portcullis::model::key_text;
use portcullis::store::KeyFilter;
use portcullis::store::Verb;

use crate::support::gateway::Gateway;
use crate::support::gateway::Key;
use crate::support::gateway::Setup;
use crate::support::gateway::new_key;
use crate::support::upstream::Upstream;

/// A key of somebody else's making.
const FOREIGN: &str = "legacy-key-4711";

fn declaring(setup: Setup, name: &str, text: &str) -> Setup {
    let digest = key_text::digest_of(text.as_bytes());
    let hex: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
    setup.more(&format!(
        "[[keys]]\ndigest = \"sha256:{hex}\"\ntenant = \"acme\"\nname = {name:?}\nscopes = \"inherit\"\nquota = \"5/hour\""
    ))
}

/// The declared key as the list shows it.
fn listed(gateway: &Gateway, name: &str) -> Key {
    let list = gateway
        .execute(Verb::KeyList(KeyFilter::default()))
        .unwrap();
    let list = list.to_string();
    let id = list
        .split("key_")
        .skip(1)
        .map(|rest| format!("key_{}", &rest[..12]))
        .find(|id| {
            let verb = Verb::KeyShow { id: id.clone() };
            gateway.execute(verb).unwrap().to_string().contains(name)
        });
    Key {
        id: id.unwrap_or_else(|| panic!("{name} is not in {list}")),
        text: FOREIGN.to_owned(),
    }
}

// DESIGN section 5: a digest in the file is a key; its counts and its end outlive restart and reload; the file cannot bring it back (FA10).
#[test]
fn a_declared_key_works_and_its_revocation_beats_the_file() {
    let upstream = Upstream::start();
    let setup = declaring(Setup::usual(&upstream), "billing", FOREIGN);
    let gateway = setup.start();
    let key = listed(&gateway, "billing");
    let answer = gateway.get("/any", &key);
    answer.expect(200);
    assert_eq!(answer.number("x-ratelimit-remaining"), 4);
    assert_eq!(upstream.last().all("x-tenant-id"), ["acme"]);
    let gateway = gateway.restart();
    let answer = gateway.get("/any", &key);
    assert_eq!(answer.number("x-ratelimit-remaining"), 3);

    gateway.revoke(&key);
    gateway.get("/any", &key).expect(401);
    gateway.reload_as_is().unwrap();
    gateway.get("/any", &key).expect(401);
    let mut gateway = gateway.restart();
    gateway.get("/any", &key).expect(401);
    let activate = Verb::KeyActivate { id: key.id.clone() };
    assert!(gateway.execute(activate).is_err());
    // Not under another name either: the digest itself has ended.
    let renamed = declaring(Setup::clone(&gateway.setup), "billing again", FOREIGN);
    let _ = gateway.reload(renamed);
    gateway.get("/any", &key).expect(401);
    assert_eq!(upstream.hits(), 2);
}

// DESIGN section 5: what the file declares, only the file changes, revocation apart.
#[test]
fn what_the_file_declares_is_not_changed_by_commands() {
    let upstream = Upstream::start();
    let setup = declaring(Setup::usual(&upstream), "billing", FOREIGN);
    let gateway = setup.start();
    let key = listed(&gateway, "billing");
    let id = || key.id.clone();
    for verb in [
        Verb::KeyDeactivate { id: id() },
        Verb::KeyRegenerate {
            id: id(),
            overlap_seconds: 0,
        },
        Verb::TenantSuspend { id: "acme".into() },
        Verb::TenantCreate {
            id: "acme".into(),
            name: None,
            plan: "open".into(),
            upstreams: Default::default(),
        },
    ] {
        let error = gateway.execute(verb).unwrap_err();
        assert!(error.contains("gateway.toml"), "{error}");
    }
    gateway.get("/any", &key).expect(200);
}

// DESIGN section 5: the same tenant in file and store: refused by a reload, the file's at a start, and keys of the store follow it.
#[test]
fn a_tenant_in_both_places_is_refused_by_a_reload_and_the_files_at_a_start() {
    let upstream = Upstream::start();
    let mut gateway = Setup::usual(&upstream).start();
    let create = Verb::TenantCreate {
        id: "twice".into(),
        name: None,
        plan: "open".into(),
        upstreams: Default::default(),
    };
    gateway.execute(create).unwrap();
    let key = gateway.make_key(new_key("twice"));
    gateway.get("/any", &key).expect(200);
    let both = gateway
        .setup
        .clone()
        .plan("small", "1/hour", "unlimited")
        .tenant("twice", "small");
    let error = gateway.reload(both.clone()).unwrap_err();
    assert!(error.contains("twice"), "{error}");
    gateway.get("/any", &key).expect(200);
    gateway.setup = both;
    let gateway = gateway.restart();
    assert_eq!(gateway.get("/any", &key).number("x-ratelimit-limit"), 1);
}
