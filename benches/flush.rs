//! What the flush of counters costs once a second: CPU time for each key that was used in it, by its parts, bytes written, and for how long it keeps a
//! processor to itself.

use std::path::Path;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use portcullis::clock::Now;
use portcullis::model::key::KeyId;
use portcullis::model::limit::Limits;
use portcullis::model::limit::Rate;
use portcullis::model::seat::SeatHint;
use portcullis::quota::Changes;
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
    let case = match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait.
        ["--bench"] => (10_000, 4, 10_000),
        [keys, each] | [keys, each, "--bench"] => (number(keys), number(each), number(keys)),
        [keys, each, among] | [keys, each, among, "--bench"] => {
            (number(keys), number(each), number(among))
        }
        _ => {
            println!(
                "usage: flush [KEYS REQUESTS [AMONG]] --bench; so many keys a second, so many requests of each, taken by chance from so many"
            );
            return;
        }
    };
    let watch = Watch(AtomicU8::new(RESTING));
    thread::scope(|scope| {
        let beside = scope.spawn(|| watch.look());
        measure(case, &watch, beside.thread());
        watch.turn(OVER, beside.thread());
        if let Ok(longest) = beside.join() {
            show_stretches(&longest);
        }
    });
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number")
}

/// Keys are used at times of their own; in the seconds measured a burst of a minute is full, and a part of the journal is merged or folded each.
fn measure((keys, each, among): (u32, u32, u32), watch: &Watch, beside: &thread::Thread) {
    let directory = tempfile::tempdir().expect("a place for temporary files");
    let (mut file, _) = Counters::open(directory.path(), now(0)).expect("a new file");
    let quota = Quota::new();
    let usage = Usage::new(&quota);
    let limits = limits();
    let seats: Vec<SeatHint> = (0..among).map(|_| SeatHint::default()).collect();
    let mut changes = Changes::default();
    let mut spent = [Duration::ZERO; 4];
    let (mut counted, mut rows) = (0, 0);
    let mut longest = Duration::ZERO;
    for second in 0..SECONDS {
        let measured = second >= SECONDS - MEASURED;
        if second == SECONDS - MEASURED {
            spent = [Duration::ZERO; 4];
            (counted, rows) = (written(), 0);
            longest = Duration::ZERO;
        }
        let start = cpu_time();
        for request in 0..each {
            for key in 0..keys {
                let place = u64::from(request * keys + key);
                let at = now(second * 1_000_000 + place * 1_000_000 / u64::from(keys * each));
                let key = chosen(second, key, keys, among);
                let subject = (key_id(key), &seats[key as usize]);
                serve(&quota, &usage, subject, &limits, at);
            }
        }
        watch.turn(if measured { LOOKING } else { RESTING }, beside);
        let served = cpu_time();
        quota.export_to(&mut changes, now((second + 1) * 1_000_000));
        let exported = cpu_time();
        usage.take(&mut changes.counted);
        let taken = cpu_time();
        let batch = Batch {
            rows: &changes.rows,
            removed: &changes.removed,
            usage: &changes.counted,
        };
        file.save(&batch, now((second + 1) * 1_000_000))
            .expect("it is written");
        rows += changes.rows.len();
        let ends = [served, exported, taken, cpu_time()];
        watch.turn(RESTING, beside);
        longest = longest.max(ends[3] - ends[0]);
        let begins = [start, served, exported, taken];
        for (sum, (end, begin)) in spent.iter_mut().zip(ends.into_iter().zip(begins)) {
            *sum += end - begin;
        }
    }
    let each_key = |spent: Duration| spent.as_secs_f64() * 1e6 / rows as f64;
    println!(
        "{keys} of {among} keys, {each} requests of each a second, {rows} rows in {MEASURED} s"
    );
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
    println!(
        "{:<20} {:>8.1} ms",
        "the longest",
        longest.as_secs_f64() * 1e3
    );
    let bytes = written() - counted;
    println!(
        "{:<20} {:>8} bytes a key and second",
        "written",
        bytes / rows as u64
    );
    show_size(directory.path());
}

/// A thread on the same processor that asks for it again and again while a flush is under way: each time it waits for as long as the flush does not let go.
struct Watch(AtomicU8);

impl Watch {
    fn turn(&self, to: u8, beside: &thread::Thread) {
        self.0.store(to, Ordering::SeqCst);
        beside.unpark();
        // So that it counts from now on, or has counted up to now.
        thread::yield_now();
    }

    /// How long it waited each time, in microseconds, of each flush.
    fn look(&self) -> Vec<Vec<u64>> {
        let mut flushes = Vec::new();
        loop {
            match self.0.load(Ordering::SeqCst) {
                LOOKING => flushes.push(self.waits()),
                RESTING => thread::park(),
                _ => return flushes,
            }
        }
    }

    fn waits(&self) -> Vec<u64> {
        let mut waits = Vec::new();
        let mut before = monotonic();
        while self.0.load(Ordering::SeqCst) == LOOKING {
            thread::yield_now();
            let now = monotonic();
            waits.push((now - before).as_micros() as u64);
            before = now;
        }
        waits
    }
}

/// Says how long a flush kept the processor, where both threads have one alone: `taskset -c 1 chrt -r 9`.
fn show_stretches(flushes: &[Vec<u64>]) {
    let mut longest: Vec<u64> = (flushes.iter())
        .map(|waits| waits.iter().copied().max().unwrap_or(0))
        .collect();
    longest.sort_unstable();
    let Some(last) = longest.last() else {
        return;
    };
    let over = |bound: u64| {
        let waits = flushes.iter().flatten().filter(|wait| **wait > bound);
        waits.count() as f64 / flushes.len() as f64
    };
    println!(
        "not let go for       {:>8} us at most, {} in half of all flushes; a flush has {:.1} stretches of more than 100 us, {:.1} of more than 200, {:.1} of more than 500",
        last,
        longest[longest.len() / 2],
        over(100),
        over(200),
        over(500)
    );
}

/// The key with this number of those that are used in a second: each of them where all are, else any as likely as any other.
fn chosen(second: u64, number: u32, keys: u32, among: u32) -> u32 {
    if keys == among {
        return number;
    }
    let seed = second * u64::from(keys) + u64::from(number) + 1;
    // The end of SplitMix64.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) % u64::from(among)) as u32
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

fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
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

/// What the thread beside is to do.
const RESTING: u8 = 0;
const LOOKING: u8 = 1;
const OVER: u8 = 2;
