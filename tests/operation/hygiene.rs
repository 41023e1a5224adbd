//! One key on every way in and out of the real process, then a search for it in everything that is written, shown or kept.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::client::Http1;
use crate::support::gateway::Setup;
use crate::support::gateway::files_below;
use crate::support::request::Request;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::upstream::Upstream;
use crate::support::upstream::find;

/// What was seen, and where.
type Places = Vec<(String, Vec<u8>)>;

/// `portcullis WORDS`, with a key on standard input.
fn piped(site: &Site, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(words)
        .arg("--config")
        .arg(&site.config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn requests(key: &str) -> Vec<Request> {
    vec![
        Request::get("/any").bearer(key),
        Request::get("/any").header("X-API-Key", key),
        Request::get("/nowhere").bearer(key),
        Request::get("/any").bearer(&format!("{key}x")),
        Request::get("/any")
            .bearer(key)
            .header("X-API-Key", "another-key"),
        Request::get(&format!("/any?api_key={key}")),
        Request::get(&format!("/any?api_key={}", encoded(key))),
        Request::get(&format!("/any?other={key}")).bearer("nothing"),
        Request::get(&format!("/any?other={}", encoded(key))).bearer("nothing"),
        Request::get("/any").header("Authorization", &format!("Basic {key}")),
        Request::new("OPTIONS", "/any").bearer(key),
    ]
}

fn collect(places: &mut Places, name: &str, output: &Output) {
    places.push((format!("{name}, standard output"), output.stdout.clone()));
    places.push((format!("{name}, standard error"), output.stderr.clone()));
}

/// Each way in that a client or an operator has.
fn send_everywhere(site: &Site, key: &str, places: &mut Places) {
    for request in requests(key) {
        for plain in [false, true] {
            let mut client = if plain {
                Http1::plain(site.http())
            } else {
                Http1::tls(site.https)
            };
            if let Some(answer) = client.send(request.bytes()).try_read_for("GET") {
                places.push((format!("answer {answer:?}"), answer.body.clone()));
            }
        }
    }
    // TLS expected, plain HTTP sent.
    let mut client = Http1::plain(site.https);
    places.push((
        "answer in clear".to_owned(),
        client.send(requests(key)[0].bytes()).read_to_end(),
    ));
}

// CHECK9, FA4, S26: header, X-API-Key, query plain and encoded, good and bad, in clear; create, import, `revoke --stdin`; then logs,
// metrics, admin answers, store with its log, /proc and a crash.
#[test]
fn a_canary_key_stands_nowhere_outside_of_memory() {
    let upstream = Upstream::start();
    let setup = Setup::usual(&upstream)
        .set("auth", "query_parameter", r#""api_key""#)
        .set("log", "level", r#""trace""#);
    let site = Site::of(setup);
    let running = site.start_with(|command| {
        command.current_dir(site.setup.directory());
    });
    let mut places = Places::new();
    let made = site.key();
    let foreign = "canary-FOREIGN-key-0123456789abcdefghij".to_owned();
    let listed = format!("tenant,name,value,scopes\nacme,old,{foreign},inherit\n");
    let imported = piped(&site, &["keys", "import", "-"], &listed);
    if imported.status.success() {
        collect(&mut places, "import", &imported);
    } else {
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        fs::write(elsewhere.path(), &listed).unwrap();
        let imported = site.command(&["keys", "import", elsewhere.path().to_str().unwrap()]);
        assert_exit(&imported, 0);
        collect(&mut places, "import", &imported);
    }
    let unknown = "fp_live_CANARYcanaryCANARYcanaryCANARY00".to_owned();
    let keys = [made, foreign, unknown];
    for key in &keys {
        send_everywhere(&site, key, &mut places);
    }
    site.get(&keys[0]).expect(200);
    site.get(&keys[1]).expect(200);
    // What a running process shows of itself.
    for file in ["cmdline", "environ", "comm", "status", "maps"] {
        let bytes = fs::read(format!("/proc/{}/{file}", running.child.id())).unwrap();
        places.push((format!("/proc/PID/{file}"), bytes));
    }
    for key in &keys {
        let output = piped(
            &site,
            &["keys", "revoke", "--stdin", "--yes"],
            &format!("{key}\n"),
        );
        collect(&mut places, "revoke --stdin", &output);
    }
    site.get(&keys[0]).expect(401);
    site.get(&keys[1]).expect(401);
    for words in [
        &["keys", "list", "--all", "--output", "json"][..],
        &["keys", "list"],
        &["status"],
        &["tenants", "list"],
    ] {
        collect(&mut places, "a list", &site.command(words));
    }
    for path in ["/metrics", "/readyz", "/livez"] {
        let request = Request::get(path).header("Connection", "close");
        let answer = Http1::plain(site.admin()).exchange(&request);
        places.push((path.to_owned(), answer.body));
    }
    for request in upstream.requests() {
        places.push(("a request to the backend".to_owned(), request.raw));
    }
    // Once with the write-ahead logs, and once after a crash that would leave a core file.
    let below = |places: &mut Places| {
        let files = files_below(site.setup.directory()).into_iter();
        places.extend(files.map(|(path, bytes)| (path.display().to_string(), bytes)));
    };
    below(&mut places);
    running.signal(Signal::ABORT);
    let mut running = running;
    running.ended();
    below(&mut places);
    for name in ["access.log", "stderr.log", "keys.db", "counters.db"] {
        assert!(
            places.iter().any(|(path, _)| path.ends_with(name)),
            "{name} was searched"
        );
    }
    for key in &keys {
        // Without prefix and checksum: a log that masks only those has leaked all the same.
        let secret = &key[8..32];
        for spelling in [
            secret.to_owned(),
            encoded(secret),
            encoded(secret).to_uppercase(),
        ] {
            for (place, bytes) in &places {
                let leaked =
                    find(bytes, spelling.as_bytes()).is_some() || place.contains(&spelling);
                assert!(!leaked, "{key} stands in {place}");
            }
        }
    }
}

// OP8: keys pass through memory: neither the gateway nor a command leaves a core file, whatever the limits of its shell allow.
#[test]
fn a_crash_leaves_no_core_file() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let dumps = |line: &str| {
        let output = Command::new("/bin/sh")
            .args(["-c", line, BINARY])
            .arg(&site.config)
            .current_dir(site.setup.directory())
            .stdin(Stdio::piped())
            .output()
            .unwrap();
        output.status.core_dumped()
    };
    if !dumps("ulimit -c unlimited 2>/dev/null; kill -ABRT $$") {
        eprintln!("SKIPPED: core files, which this machine does not write for anybody");
        return;
    }
    let gateway = "ulimit -c unlimited; (until \"$0\" status --config \"$1\"; do sleep 0.05; done; kill -ABRT $$) & exec \"$0\" run --config \"$1\"";
    assert!(!dumps(gateway), "the gateway left a core file");
}
