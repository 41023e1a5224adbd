//! The guard before real backends, real compression, and a gibibyte.

use std::io::Read;
use std::io::Write;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::deleted;
use super::guarded;
use super::guarded_at;
use super::gzip;
use super::leases;
use crate::support::client;
use crate::support::client::Http1;
use crate::support::eventually;
use crate::support::gateway::Access;
use crate::support::gateway::Setup;
use crate::support::real;
use crate::support::request::Request;
use crate::support::upstream::Step;
use crate::support::upstream::Upstream;

/// A process that listens on a port; killed when dropped.
struct Process(std::process::Child, std::net::SocketAddr);

impl Process {
    fn start(mut command: std::process::Command, port: u16) -> Process {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child, address);
        eventually("it listens", || std::net::TcpStream::connect(address).ok());
        process
    }

    fn nginx(config: &str, directory: &std::path::Path, gateway: &str) -> Process {
        let port = crate::support::ports::free_port();
        let source = format!("{}/tests/real/{config}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(source).unwrap();
        let text = text
            .replace("@DIRECTORY@", directory.to_str().unwrap())
            .replace("@PORT@", &port.to_string())
            .replace("@GATEWAY@", gateway);
        let path = directory.join("nginx.conf");
        std::fs::write(&path, text).unwrap();
        let mut command = std::process::Command::new("nginx");
        let path_with_sbin = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        command
            .env("PATH", path_with_sbin)
            .arg("-c")
            .arg(&path)
            .arg("-p")
            .arg(directory)
            .arg("-e")
            .arg(directory.join("error.log"));
        Process::start(command, port)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// FM6, FM8, FM9, CW13: a real backend over SQLite that forgets its WHERE clause.
#[test]
fn a_real_backend_without_its_where_clause_leaks_nothing() {
    if real::left_out("python3") {
        return;
    }
    let port = crate::support::ports::free_port();
    let mut command = std::process::Command::new("python3");
    let app = format!("{}/tests/real/leaky_app.py", env!("CARGO_MANIFEST_DIR"));
    command
        .arg(app)
        .arg(port.to_string())
        .args(["forgets", "acme", "bravo"]);
    let backend = Process::start(command, port);
    let gateway = guarded_at(
        Setup::usual_at(backend.1),
        &[("request_set", r#"["tenant_id"]"#)],
    )
    .route_to(
        "legacy",
        "/leases/{*rest}",
        &["GET", "POST"],
        Access::AnyKey,
        "host = \"guarded.example\"\nguard = \"tenants\"\n",
    )
    .start();
    let acme = gateway.key("acme");
    let ask = |method: &str, path: &str| {
        Request::new(method, path)
            .host("guarded.example")
            .bearer(&acme.text)
    };
    // All rows of all tenants: nothing of it.
    gateway.send(&ask("GET", "/leases")).expect(404);
    let own = gateway.send(&ask("GET", "/leases/101"));
    let own = own.expect(200).json();
    assert_eq!(
        (own["title"].clone(), own.get("tenant_id")),
        (json!("acme lease 1"), None)
    );
    gateway.send(&ask("GET", "/leases/201")).expect(404);
    // It believes the body: and the body says what the key says.
    let post = ask("POST", "/leases")
        .header("Content-Type", "application/json")
        .body(r#"{"tenant_id":"bravo","title":"new"}"#);
    let made = gateway.send(&post);
    assert_eq!(made.expect(201).json()["title"], "new");
    // The guard would have refused an answer with bravo's id.
    assert!(made.json().get("tenant_id").is_none());
}

// CHECK10: nginx compresses whether asked or not, and again between gateway and client.
#[test]
fn real_compression_behind_and_in_front_changes_nothing() {
    if real::left_out("nginx") {
        return;
    }
    let (behind, front) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let body = leases(500, "acme");
    let packed = behind.path().join("g/packed");
    std::fs::create_dir_all(&packed).unwrap();
    std::fs::write(
        packed.join("leases.json.gz"),
        gzip(body.to_string().as_bytes()),
    )
    .unwrap();
    std::fs::write(behind.path().join("g/plain.json"), body.to_string()).unwrap();
    let backend = Process::nginx("gzip_static.conf.in", behind.path(), "");
    let gateway = guarded_at(Setup::usual_at(backend.1), &[]).start();
    let key = gateway.key("acme");
    for path in ["/g/packed/leases.json", "/g/plain.json"] {
        let request = Request::get(path)
            .bearer(&key.text)
            .header("Accept-Encoding", "gzip");
        let got = gateway.send(&request.clone().header("Range", "bytes=5-9"));
        assert!(got.expect(200).json() == deleted(body.clone()), "{path}");
        let again = request.clone().header("If-None-Match", got.one("etag"));
        assert_eq!(gateway.send(&again).status, 304, "{path}");
        let fronted = Process::nginx(
            "gzip_front.conf.in",
            front.path(),
            &gateway.https().to_string(),
        );
        let got = Http1::plain(fronted.1).exchange(&request);
        assert_eq!(got.expect(200).one("content-encoding"), "gzip");
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&got.body[..])
            .read_to_end(&mut text)
            .unwrap();
        assert!(
            serde_json::from_slice::<Value>(&text).unwrap() == deleted(body.clone()),
            "{path}"
        );
    }
}

// CHECK10: 1 GiB passes the filter in flat memory.
#[test]
#[ignore = "takes a minute: tests/run --long"]
fn a_gibibyte_is_filtered_in_flat_memory() {
    let upstream = Upstream::start();
    let gateway = guarded(&upstream, &[]).start();
    let key = gateway.key("acme");
    let line = leases(6000, "acme").to_string() + "\n";
    let times = (1 << 30) / line.len() + 1;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        times * line.len()
    );
    upstream.script(
        "/g/huge",
        vec![
            Step::ReadBody,
            Step::Send(head.into_bytes()),
            Step::Repeat(line.into_bytes(), times),
        ],
    );
    let mut wire = client::tls(gateway.https(), "localhost", client::tls_config(&[])).unwrap();
    let before = crate::streaming::resident_bytes(std::process::id());
    let request = Request::get("/g/huge")
        .bearer(&key.text)
        .header("Connection", "close");
    wire.write_all(&request.bytes()).unwrap();
    let (mut piece, mut got, mut peak) = (vec![0; 1 << 20], 0_usize, 0);
    loop {
        let count = wire.read(&mut piece).unwrap_or(0);
        if count == 0 {
            break;
        }
        if got >> 26 != (got + count) >> 26 {
            peak = peak.max(crate::streaming::resident_bytes(std::process::id()));
        }
        got += count;
    }
    assert!(got > 600 << 20, "{got} bytes");
    assert!(
        peak.saturating_sub(before) < 64 << 20,
        "{} bytes more",
        peak - before
    );
    eventually("the request is accounted for", || {
        gateway.log_line("/g/huge")["end"]
            .as_str()
            .filter(|end| *end == "complete")
            .map(|_| Duration::ZERO)
    });
}
