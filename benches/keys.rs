//! What a large store costs: loading it, the memory of its keys, and changes while requests look keys up.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use portcullis::clock::Clock;
use portcullis::clock::Wall;
use portcullis::model::binding::Binding;
use portcullis::model::key::ApiKey;
use portcullis::model::key::Digest;
use portcullis::model::key::KeyKind;
use portcullis::model::key::KeyStatus;
use portcullis::model::key::Override;
use portcullis::model::scope::Scope;
use portcullis::model::scope::Scopes;
use portcullis::model::tenant::Origin;
use portcullis::model::tenant::Tenant;
use portcullis::model::tenant::TenantId;
use portcullis::snapshot::change::Keeper;
use portcullis::snapshot::key_table::KeyTable;
use portcullis::store::KeyFilter;
use portcullis::store::Store;
use portcullis::store::Verb;
use portcullis::store::outcome::Uses;
use portcullis::store::request::KeyUpdate;
use portcullis::store::sqlite::Write;

use setup::digest;
use setup::entry;
use setup::key_id;
use setup::spread;

mod setup;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait for a store.
        ["--bench"] => measure("1000000"),
        [keys] | [keys, "--bench"] if keys.parse::<u32>().is_ok() => measure(keys),
        ["--table", keys] => measure_table(number(keys)),
        ["--store", directory, keys] => measure_store(Path::new(directory), number(keys)),
        _ => println!("usage: keys [KEYS] --bench"),
    }
}

/// Each measurement of memory is a process of its own: freed memory of one would serve the next.
fn measure(keys: &str) {
    let directory = tempfile::tempdir().expect("a place for temporary files");
    fill(directory.path(), number(keys));
    let shown = directory.path().to_str().expect("a path in UTF-8");
    for words in [&["--table", keys][..], &["--store", shown, keys]] {
        let program = std::env::current_exe().expect("a path");
        let status = Command::new(program).args(words).status();
        assert!(status.expect("started").success(), "{words:?}");
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number of keys")
}

fn measure_table(keys: u32) {
    let before = memory("VmRSS:");
    let rows = (0..keys).map(|index| (digest(index), entry(index, index / BULK)));
    let table = KeyTable::build(rows);
    let bytes = memory("VmRSS:").saturating_sub(before);
    show("table of the snapshot, MiB", bytes >> 20);
    show("bytes per key", bytes / u64::from(keys));
    drop(table);
}

fn measure_store(directory: &Path, keys: u32) {
    let clock = Clock::system();
    let start = clock.now().mono;
    let store = Store::open(directory).expect("the store just made");
    let last_used = Box::new(|_: Uses<'_>| Ok(std::collections::HashMap::new()));
    let (keeper, _) =
        Keeper::start(store, setup::config(&[setup::LEASES]), last_used).expect("it fits");
    let took = clock.now().mono.since(start);
    assert_eq!(keeper.snapshot().load().keys.len(), keys as usize);
    show("cold load, ms", took.as_millis());
    show("process at its peak, MiB", memory("VmHWM:") >> 20);
    show("process after the load, MiB", memory("VmRSS:") >> 20);
    let idle = || thread::sleep(Duration::from_secs(2));
    look_up_while("nothing changes", &keeper, keys, idle);
    look_up_while("keys change", &keeper, keys, || change(&keeper, keys));
    show("process at its end, MiB", memory("VmRSS:") >> 20);
}

/// Does the changes an operator does, each many times, and prints how long one took from the call until it was in force.
fn change(keeper: &Keeper, keys: u32) {
    let id = |index: u32| key_id(index % keys).to_string();
    repeat(keeper, "change one", 50, |round| {
        Verb::KeyUpdate(Box::new(KeyUpdate {
            id: id(round * 7_919),
            quota: Some("7/hour".to_owned()),
            ..KeyUpdate::default()
        }))
    });
    repeat(keeper, "revoke one", 50, |round| Verb::KeyRevoke {
        id: id(round * 7_907 + 1),
    });
    // As many as a hundredth in small stores, neighbours in no shard.
    let many = BULK.min(keys / 100);
    repeat(keeper, "revoke 1,000", 5, |round| {
        let of_round = round * many..(round + 1) * many;
        let filter = KeyFilter {
            keys: Some(of_round.map(|index| id(index * 17 + 3)).collect()),
            ..KeyFilter::default()
        };
        Verb::KeyRevokeMany(filter)
    });
    repeat(keeper, "revoke a tenant's", 5, |round| {
        let filter = KeyFilter {
            tenant: Some(tenant_id(round % tenants(keys)).as_str().to_owned()),
            ..KeyFilter::default()
        };
        Verb::KeyRevokeMany(filter)
    });
}

fn repeat(keeper: &Keeper, name: &str, rounds: u32, verb: impl Fn(u32) -> Verb) {
    let clock = Clock::system();
    let mut micros: Vec<u128> = Vec::new();
    for round in 0..rounds {
        let verb = verb(round);
        let start = clock.now();
        keeper.execute(&verb, start.wall).expect("it is allowed");
        micros.push(clock.now().mono.since(start.mono).as_micros());
    }
    micros.sort_unstable();
    show(&format!("{name}, us, median"), micros[micros.len() / 2]);
    show(&format!("{name}, us, longest"), micros[micros.len() - 1]);
}

/// Looks keys up on a thread of its own, as a worker does, for as long as `act` takes; prints how many and how long.
fn look_up_while(name: &str, keeper: &Keeper, keys: u32, act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let digests: Vec<Digest> = (0..65_536)
        .map(|round| digest(spread(round, keys)))
        .collect();
    let (mut micros, seconds) = thread::scope(|scope| {
        let reader = scope.spawn(|| look_up(keeper, &digests, &over));
        act();
        over.store(true, Ordering::Relaxed);
        reader.join().expect("it never panics")
    });
    micros.sort_unstable();
    let part = |thousandths: usize| micros[(micros.len() - 1) * thousandths / 1_000];
    let each = (micros.len() * BATCH) as f64 / seconds;
    show(&format!("{name}: lookups a second"), each as u64);
    show(&format!("{name}: 64 lookups, us, median"), part(500));
    show(&format!("{name}: 64 lookups, us, 99.9 %"), part(999));
    show(&format!("{name}: 64 lookups, us, longest"), part(1_000));
}

/// Microseconds of each batch, and seconds of all.
fn look_up(keeper: &Keeper, digests: &[Digest], over: &AtomicBool) -> (Vec<u128>, f64) {
    let clock = Clock::system();
    let begin = clock.now().mono;
    let mut micros = Vec::with_capacity(4_000_000);
    for batch in digests.chunks_exact(BATCH).cycle() {
        let start = clock.now().mono;
        for digest in batch {
            assert!(keeper.snapshot().load().key(digest).is_some());
        }
        micros.push(clock.now().mono.since(start).as_micros());
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    (micros, clock.now().mono.since(begin).as_secs_f64())
}

fn show(name: &str, value: impl std::fmt::Display) {
    println!("{name:<44} {value:>12}");
}

/// Bytes that the kernel counts for this process in a line of /proc/self/status.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let mut words = status.split_ascii_whitespace();
    let value = words.find(|word| *word == line).and(words.next());
    value
        .and_then(|text| text.parse::<u64>().ok())
        .expect("a number")
        * 1_024
}

/// A store through its own code, in transactions small enough to be held in memory.
fn fill(directory: &Path, keys: u32) {
    let mut store = Store::open(directory).expect("an empty directory");
    let all: Vec<u32> = (0..tenants(keys)).collect();
    let tenants = all
        .iter()
        .map(|index| Write::InsertTenant(tenant(*index), Wall(0)));
    store
        .commit(&tenants.collect::<Vec<_>>())
        .expect("new tenants");
    let all: Vec<u32> = (0..keys).collect();
    for part in all.chunks(20_000) {
        let keys = part
            .iter()
            .map(|index| Write::InsertKey(Box::new(key(*index))));
        store.commit(&keys.collect::<Vec<_>>()).expect("new keys");
    }
}

fn tenants(keys: u32) -> u32 {
    keys.div_ceil(BULK)
}

fn tenant_id(index: u32) -> TenantId {
    TenantId::new(&format!("tenant-{index}")).expect("a valid id")
}

fn tenant(index: u32) -> Tenant {
    Tenant {
        id: tenant_id(index),
        name: format!("Tenant {index}"),
        plan: "free".to_owned(),
        suspended: false,
        upstreams: Default::default(),
        scopes: Scopes::Inherit,
        quota: Override::Plan,
        burst: Override::Plan,
        origin: Origin::Store,
    }
}

/// Every fourth lists its scopes, every twentieth has a quota of its own.
fn key(index: u32) -> ApiKey {
    let listed = ["leases:read", "leases:write"].map(|text| Scope::new(text).expect("a scope"));
    ApiKey {
        id: key_id(index),
        digest: digest(index),
        name: format!("Key {index}"),
        kind: KeyKind::Secret,
        environment: "live".to_owned(),
        tenant: tenant_id(index / BULK),
        plan: None,
        quota: match index % 20 {
            0 => Override::Unlimited,
            _ => Override::Plan,
        },
        burst: Override::Plan,
        scopes: match index % 4 {
            0 => Scopes::Listed(listed.to_vec().into()),
            _ => Scopes::Inherit,
        },
        created: Wall(0),
        expires: None,
        status: KeyStatus::Active,
        prefix: "fp_live_".to_owned(),
        last_four: "0000".to_owned(),
        binding: Binding::default(),
        note: None,
        origin: Origin::Store,
    }
}

/// How many lookups are timed together; the clock counts microseconds.
const BATCH: usize = 64;

/// Keys of a tenant, and of a bulk revocation.
const BULK: u32 = 1_000;
