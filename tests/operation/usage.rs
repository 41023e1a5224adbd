//! What keys did, asked of a store that no gateway runs on.

use serde_json::Value;

use portcullis::clock::Clock;
use portcullis::model::identity::tokens_of;
use portcullis::model::key::KeyId;
use portcullis::model::tenant::TenantId;
use portcullis::store::counters::Batch;
use portcullis::store::counters::Counters;
use portcullis::store::history::HourRow;
use portcullis::store::history::Tally;
use portcullis::store::history::hour_of;

use crate::support::site::Site;
use crate::support::upstream::Upstream;

/// More than two pages of the command line have.
const KEYS: u32 = 2_050;

// FF14: however many keys did something, all of them are told, the busiest first; and the tokens of a tenant that stands in the store alone, and has no
// key, under that tenant's name.
#[test]
fn a_report_without_a_gateway_is_whole_and_names_the_tokens_of_every_tenant() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    site.told(&["tenants", "create", "delta", "--plan", "limited"]);
    let words = ["keys", "create", "--tenant", "acme", "--name", "test"];
    let made = site.told(&[&words[..], &["--inherit", "--output", "json"]].concat());
    let made: Value = serde_json::from_str(&made).unwrap();
    let known = made["id"].as_str().unwrap();
    let now = Clock::system().now();
    let directory = site.setup.directory().join("state");
    let did = |key: KeyId, success: u64| HourRow {
        key,
        hour: hour_of(now.wall),
        tally: Tally {
            success,
            ..Tally::default()
        },
    };
    let mut rows: Vec<HourRow> = (0..KEYS)
        .map(|index| {
            let mut id = *b"gone00000000";
            id[8..].copy_from_slice(format!("{index:04}").as_bytes());
            did(KeyId(id), 1 + u64::from(index % 7))
        })
        .collect();
    let delta = TenantId::new("delta").unwrap();
    rows.push(did(tokens_of(&delta), 70));
    rows.push(did(KeyId::parse(known).unwrap(), 80));
    let (mut counters, _) = Counters::open(&directory, now).unwrap();
    let batch = Batch {
        usage: &rows,
        ..Batch::default()
    };
    counters.save(&batch, now).unwrap();
    drop(counters);
    let said: Value = serde_json::from_str(&site.told(&["usage", "--output", "json"])).unwrap();
    let keys = said["keys"].as_array().unwrap();
    assert_eq!(keys.len(), rows.len());
    let sum: u64 = rows.iter().map(|row| row.tally.success).sum();
    assert_eq!(said["total"]["requests"], sum);
    let named = |row: &Value| {
        let words = ["tenant", "name"].map(|name| row[name].as_str().unwrap_or("-").to_owned());
        words.join(": ")
    };
    assert_eq!(named(&keys[0]), "acme: test");
    assert_eq!(named(&keys[1]), "delta: access tokens and sessions");
    assert_eq!(named(&keys[2]), "-: -", "nobody knows it any more");
    let requests = |row: &Value| row["requests"].as_u64().unwrap();
    assert!(keys.is_sorted_by_key(|row| std::cmp::Reverse(requests(row))));
    let of_delta = ["usage", "--tenant", "delta", "--output", "json"];
    let said: Value = serde_json::from_str(&site.told(&of_delta)).unwrap();
    assert_eq!(said["total"]["requests"], 70);
    assert_eq!(named(&said["keys"][0]), "delta: access tokens and sessions");
}
