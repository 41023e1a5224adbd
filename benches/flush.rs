//! What the flush of counters costs once a second: CPU time for each key that was used in it, by its parts, and bytes written.

use std::path::Path;
use std::time::Duration;

use portcullis::clock::Now;
use portcullis::model::key::KeyId;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::seat::SeatHint;
use portcullis::quota::Charge;
use portcullis::quota::Hints;
use portcullis::quota::Quota;
use portcullis::store::counters::Batch;
use portcullis::store::counters::Counters;
use portcullis::usage::Usage;

use rustix::time::ClockId;
use rustix::time::clock_gettime;
use tikv_jemallocator::Jemalloc;

use setup::now;

mod setup;

/// As the gateway's.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait.
        ["--bench"] => measure(10_000, 4),
        [keys, each] | [keys, each, "--bench"] => measure(number(keys), number(each)),
        _ => {
            println!("usage: flush [KEYS REQUESTS] --bench; so many requests of each key a second")
        }
    }
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

/// Every key is used in every second, at times of its own; in the seconds measured a burst of a minute is full and a part of the journal is folded each.
fn measure(keys: u32, each: u32) {
    let directory = tempfile::tempdir().expect("a place for temporary files");
    let (mut file, _) = Counters::open(directory.path(), now(0)).expect("a new file");
    let quota = Quota::new();
    let usage = Usage::new(&quota);
    let limits = limits();
    let seats: Vec<SeatHint> = (0..keys).map(|_| SeatHint::default()).collect();
    let mut spent = [Duration::ZERO; 4];
    let (mut counted, mut rows) = (0, 0);
    for second in 0..SECONDS {
        if second == SECONDS - MEASURED {
            spent = [Duration::ZERO; 4];
            (counted, rows) = (written(), 0);
        }
        let start = cpu_time();
        for request in 0..each {
            for key in 0..keys {
                let place = u64::from(request * keys + key);
                let at = now(second * 1_000_000 + place * 1_000_000 / u64::from(keys * each));
                let subject = (key_id(key), &seats[key as usize]);
                serve(&quota, &usage, subject, &limits, at);
            }
        }
        let served = cpu_time();
        let changes = quota.export();
        let exported = cpu_time();
        let did = usage.take();
        let taken = cpu_time();
        let batch = Batch {
            rows: &changes.rows,
            removed: &changes.removed,
            usage: &did,
        };
        file.save(&batch, now((second + 1) * 1_000_000))
            .expect("it is written");
        rows += changes.rows.len();
        drop((changes, did));
        let ends = [served, exported, taken, cpu_time()];
        let begins = [start, served, exported, taken];
        for (sum, (end, begin)) in spent.iter_mut().zip(ends.into_iter().zip(begins)) {
            *sum += end - begin;
        }
    }
    let each_key = |spent: Duration| spent.as_secs_f64() * 1e6 / rows as f64;
    println!("{keys} keys, {each} requests of each a second, {rows} rows in {MEASURED} s");
    for (name, spent) in ["charged and counted", "export", "usage", "save"]
        .iter()
        .zip(spent)
    {
        println!("{name:<20} {:>8.2} us a key and second", each_key(spent));
    }
    let flushed = spent[1] + spent[2] + spent[3];
    println!(
        "{:<20} {:>8.2} us a key and second",
        "flush",
        each_key(flushed)
    );
    let bytes = written() - counted;
    println!(
        "{:<20} {:>8} bytes a key and second",
        "written",
        bytes / rows as u64
    );
    show_size(directory.path());
}

fn serve(quota: &Quota, usage: &Usage, (key, seat): (KeyId, &SeatHint), limits: &Limits, at: Now) {
    let charge = Charge {
        key: Some((key, limits)),
        tenant: None,
        cost: 1,
    };
    let hints = Hints {
        key: seat,
        tenant: &SeatHint::default(),
    };
    (quota.charge_at(&charge, hints, at)).expect("there is room");
    let request = usage.admitted(key, seat.number(), at.wall);
    usage.ended(&request, 200, Duration::from_millis(3), 0, 512);
}

fn limits() -> Limits {
    let rate = |seconds| {
        Some(Rate {
            count: 1_000_000,
            seconds,
        })
    };
    Limits {
        quota: rate(3_600),
        burst: rate(60),
    }
}

/// Ids as keys have them: any letter or digit comes first.
fn key_id(index: u32) -> KeyId {
    let mut id = *b"000000000000";
    let mut rest = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for place in &mut id {
        *place = LETTERS[(rest % 62) as usize];
        rest /= 62;
    }
    KeyId(id)
}

/// What this thread has used.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Bytes given to `write` by this process.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|line| line.parse().ok())
        .expect("a number of bytes")
}

fn show_size(directory: &Path) {
    for entry in std::fs::read_dir(directory).expect("it is there").flatten() {
        let bytes = entry.metadata().map_or(0, |found| found.len());
        println!(
            "{:<20} {:>8} KiB",
            entry.file_name().to_string_lossy(),
            bytes >> 10
        );
    }
}

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A minute until bursts are full, and another until each part of the journal has been folded.
const SECONDS: u64 = 160;

const MEASURED: u64 = 40;
