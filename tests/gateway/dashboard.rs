//! The dashboard, used in a real Chromium as an operator does.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::support::client::Http1;
use crate::support::gateway::Setup;
use crate::support::real::left_out;
use crate::support::real::tool;
use crate::support::request::Request;
use crate::support::upstream::Upstream;

// DESIGN section 10: own files only, none of them to be framed, sniffed or fed with scripts; nothing while there is no token.
#[test]
fn the_dashboard_is_four_files_under_a_strict_policy() {
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream).start();
    gateway.admin_get("/").expect(404);
    let (code, _, said) =
        gateway.command(&["admin-tokens", "create", "--name", "x", "--role", "full"]);
    assert_eq!(code, 0, "{said}");
    for (path, kind) in [
        ("/", "text/html"),
        ("/app.js", "text/javascript"),
        ("/app.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let answer = gateway.admin_get(path);
        answer.expect(200);
        assert!(answer.one("content-type").starts_with(kind));
        assert_eq!(answer.one("x-content-type-options"), "nosniff");
        assert_eq!(answer.one("x-frame-options"), "DENY");
        let policy = answer.one("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'")
        );
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        let text = answer.text();
        assert!(
            !text.contains("://") || path == "/icon.svg" || path == "/app.js",
            "{path} names another place"
        );
        assert!(
            !text.contains("innerHTML") && !text.contains(" style="),
            "{path}"
        );
    }
    // Not on the public side.
    let key = gateway.key("acme");
    gateway.get("/app.js", &key).expect(404);
    gateway.send(&Request::get("/")).expect(401);
}

// PB19, FF5 to FF8, FF14, FF15: a key is made in the page and used at the edge, its use is seen, it is switched off, regenerated and revoked in the
// page; by keyboard, in light and dark, on a phone; accessible (axe); no console message, nothing from elsewhere, no name that becomes a script.
#[test]
fn an_operator_lives_in_the_dashboard() {
    if left_out("chromium") || left_out("playwright") || left_out("nodejs") {
        return;
    }
    let modules = tool("playwright", "node_modules/playwright-core");
    let tools = modules.parent().and_then(Path::parent).unwrap();
    let upstream = Upstream::start();
    let gateway = Setup::usual(&upstream)
        .plan("small", "5/hour", "unlimited")
        .more("[[tenants]]\nid = \"hostile\"\nname = \"</td><img src=x onerror=window.hurt=1>\"\nplan = \"open\"\n")
        .start();
    let token = |option: &str, whose: &str| {
        let words = [
            "admin-tokens",
            "create",
            "--name",
            "<b onclick=window.hurt=1>ops</b>",
            option,
            whose,
        ];
        let (code, token, said) = gateway.command(&words);
        assert_eq!(code, 0, "{said}");
        token.trim().to_owned()
    };
    let hostile = gateway.make_key(portcullis::store::NewKey {
        name: "<img src=x onerror=window.hurt=1>".to_owned(),
        note: Some("<script>window.hurt=1</script>".to_owned()),
        ..crate::support::gateway::new_key("hostile")
    });
    gateway.get("/any/x", &hostile).expect(200);
    let old = gateway.key("hostile");
    let store = rusqlite::Connection::open(gateway.directory().join("state/keys.db")).unwrap();
    let name = "UPDATE api_key SET name = 'old' || char(0x202e) || 'mark' WHERE id = ?1";
    assert_eq!(store.execute(name, [&old.id]).unwrap(), 1);
    let screens = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screens");
    std::fs::create_dir_all(&screens).unwrap();
    // An alert to look at.
    Http1::plain(gateway.http())
        .exchange(&Request::get("/any/x").bearer(&hostile.text))
        .expect(403);
    let made = gateway.command(&["tenants", "create", "initech", "--plan", "small"]);
    assert_eq!(made.0, 0, "{}", made.2);
    let (full, reader) = (token("--role", "full"), token("--role", "read-only"));
    let own = token("--tenant", "acme");
    let log = gateway.directory().join("dashboard.log");
    let file = std::fs::File::create(&log).unwrap();
    let mut child = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/dashboard.mjs"))
        .arg(format!("http://{}", gateway.admin()))
        .args([&full, &reader, &own])
        .arg(format!("https://{}", gateway.https()))
        .arg(tools)
        .arg(&screens)
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .expect("node starts");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > Duration::from_secs(600) {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(status.is_some_and(|status| status.success()), "{said}");
    assert!(said.trim_end().ends_with("done"), "{said}");
}
