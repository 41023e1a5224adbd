//! How fast the response guard reads: MB/s of the JSON filter and the decoders, beside a plain copy of the same pieces.

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use rustix::time::ClockId;
use rustix::time::clock_gettime;

use portcullis::guard::Bounds;
use portcullis::guard::Coding;
use portcullis::guard::Form;
use portcullis::guard::Rules;
use portcullis::guard::Stage;
use portcullis::model::guard::Member;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // What `cargo bench` passes. `cargo test --all-targets` passes nothing, and must not wait for a table.
        ["--bench"] => print_table(),
        [] => println!("{USAGE}"),
        // For `jq`: the same bytes that the table is about.
        ["--write", name] => write(name),
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
}

fn write(name: &str) {
    let body = BODIES.iter().find(|(known, _)| *known == name);
    if let Some((_, make)) = body {
        print!("{}", make());
    }
}

fn print_table() {
    println!(
        "{:<10} {:<24} {:>8} {:>8}",
        "body", "what", "MB/s", "kept %"
    );
    for (name, make) in BODIES {
        let plain = Bytes::from(make());
        for (what, coding, pass) in PASSES {
            // Compressed beforehand: what is measured is reading.
            let body = packed(&plain, coding);
            let mut best = f64::MAX;
            let mut kept = 0;
            for _ in 0..ROUNDS {
                let start = cpu_time();
                kept = pass(&body);
                best = best.min((cpu_time() - start).as_secs_f64());
            }
            println!(
                "{name:<10} {what:<24} {:>8.0} {:>8.1}",
                plain.len() as f64 / best / 1e6,
                100.0 * kept as f64 / plain.len() as f64
            );
        }
    }
}

/// Of this process, so that other programs on the machine do not count.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A way through all the pieces; says how many bytes come out.
type Pass = fn(&Bytes) -> usize;

const PASSES: [(&str, Coding, Pass); 6] = [
    ("copy", Coding::Identity, copy),
    ("nothing found", Coding::Identity, |body| {
        filter(body, &["nowhere_to_be_found"], Coding::Identity)
    }),
    ("tenant_id out", Coding::Identity, |body| {
        filter(body, &["tenant_id"], Coding::Identity)
    }),
    ("five names out", Coding::Identity, |body| {
        let names = ["tenant_id", "org_id", "owner", "secret", "account"];
        filter(body, &names, Coding::Identity)
    }),
    ("gzip, tenant_id out", Coding::Gzip, |body| {
        filter(body, &["tenant_id"], Coding::Gzip)
    }),
    ("zstd, tenant_id out", Coding::Zstd, |body| {
        filter(body, &["tenant_id"], Coding::Zstd)
    }),
];

fn copy(body: &Bytes) -> usize {
    let pieces = body.chunks(PIECE_BYTES);
    pieces.map(|piece| black_box(piece.to_vec()).len()).sum()
}

fn filter(body: &Bytes, names: &[&str], coding: Coding) -> usize {
    let members: Vec<Member> = names
        .iter()
        .map(|name| Member {
            name: (*name).to_owned(),
            remove: true,
            watch: true,
        })
        .collect();
    let rules = Rules {
        members: Arc::from(members),
        own: Some(Arc::from("acme")),
        lenient: false,
        sniff: false,
        insert: None,
    };
    let bounds = Bounds {
        bytes_max: u64::MAX,
        ratio_max: u64::MAX,
    };
    let Ok(mut stage) = Stage::new(&rules, Form::Json, coding, bounds) else {
        return 0;
    };
    let mut kept = 0;
    let mut at = 0;
    while at < body.len() {
        let end = body.len().min(at + PIECE_BYTES);
        stage.push(body.slice(at..end));
        while let Ok(Some(piece)) = stage.pull() {
            kept += black_box(piece).len();
        }
        at = end;
    }
    kept + stage.finish().map_or(0, |rest| rest.len())
}

fn packed(body: &Bytes, coding: Coding) -> Bytes {
    match coding {
        Coding::Gzip => {
            let level = flate2::Compression::default();
            let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
            let _ = out.write_all(body);
            Bytes::from(out.finish().unwrap_or_default())
        }
        Coding::Zstd => Bytes::from(zstd::stream::encode_all(&body[..], 3).unwrap_or_default()),
        Coding::Identity | Coding::Brotli => body.clone(),
    }
}

type Make = fn() -> String;

const BODIES: [(&str, Make); 4] = [
    // What an API answers: objects of some 250 bytes, each with its tenant.
    ("leases", || {
        let items: Vec<String> = (0..60_000).map(lease).collect();
        format!("[{}]", items.join(","))
    }),
    // The same as people like to read it.
    ("indented", || {
        let items: Vec<String> = (0..60_000)
            .map(|number| {
                lease(number)
                    .replace(",\"", ",\n    \"")
                    .replace("\":", "\": ")
            })
            .collect();
        format!("[\n  {}\n]", items.join(",\n  "))
    }),
    // Long texts.
    ("texts", || {
        let text = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. ".repeat(20);
        let items: Vec<String> = (0..12_000)
            .map(|number| format!("{{\"id\":{number},\"tenant_id\":\"acme\",\"text\":\"{text}\"}}"))
            .collect();
        format!("[{}]", items.join(","))
    }),
    // Nearly nothing but numbers.
    ("numbers", || {
        let rows: Vec<String> = (0..600_000)
            .map(|number| format!("[{number},{}.{},-1]", number % 90, number % 1000))
            .collect();
        format!("{{\"tenant_id\":\"acme\",\"rows\":[{}]}}", rows.join(","))
    }),
];

fn lease(number: usize) -> String {
    format!(
        "{{\"id\":{number},\"tenant_id\":\"acme\",\"title\":\"Flat {number}, third floor\",\"street\":\"Long Lane {}\",\"city\":\"Springfield\",\"rent\":{}.50,\"active\":true,\"lessee\":{{\"name\":\"Ann \\\"A\\\" Example\",\"email\":\"ann{number}@example.com\"}},\"tags\":[\"a\",\"b\"],\"note\":null}}",
        number % 300,
        number % 3000
    )
}

/// As much as a connection usually reads at once.
const PIECE_BYTES: usize = 16 * 1024;

const ROUNDS: usize = 5;

const USAGE: &str = "cargo bench --bench guard, or guard --write leases|indented|texts|numbers";
