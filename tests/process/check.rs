//! `portcullis check`: what it finds, where it says it is, and its exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use crate::support;
use crate::support::gateway::Setup;
use crate::support::site::BINARY;
use crate::support::site::Site;
use crate::support::site::assert_exit;
use crate::support::site::errors;
use crate::support::upstream::Upstream;

// DESIGN section 9: `check` binds nothing and says all that is wrong, with place and way out; 78 is configuration.
#[test]
fn check_names_every_bad_line() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    assert_exit(&site.command(&["check"]), 0);
    let bad = site
        .setup
        .clone()
        .set("listen", "htps", "[]")
        .plan("open", "100/fortnight", "unlimited")
        .tenant("bravo", "gold");
    bad.write();
    let output = site.command(&["check"]);
    assert_exit(&output, 78);
    let text = errors(&output);
    for word in ["gateway.toml:", "htps", "https", "fortnight", "gold"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let before = text.lines().count();
    assert!(before > 6, "the source lines are shown: {text}");
    assert_exit(&site.command(&["run"]), 78);
}

#[test]
fn a_missing_file_exits_78() {
    let output = Command::new(BINARY)
        .args(["check", "--config", "/nonexistent/gateway.toml"])
        .output()
        .unwrap();
    assert_exit(&output, 78);
    assert!(errors(&output).contains("gateway.toml"));
}

// Certificates and keys that cannot be used are found by `check`.
#[test]
fn check_finds_unusable_certificates() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let directory = site.setup.directory();
    let key = directory.join("cert.key");
    let cases: [(&str, &dyn Fn()); 4] = [
        ("cert.key", &|| {
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap()
        }),
        ("cert.pem", &|| {
            fs::write(directory.join("cert.pem"), "nothing").unwrap()
        }),
        ("cert", &|| {
            support::certs::leaf(&["localhost"]).write(directory, "other");
            fs::copy(directory.join("other.key"), &key).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        }),
        ("cert.pem", &|| {
            fs::remove_file(directory.join("cert.pem")).unwrap()
        }),
    ];
    for (word, spoil) in cases {
        support::certs::usual().write(directory, "cert");
        assert_exit(&site.command(&["check"]), 0);
        spoil();
        let output = site.command(&["check"]);
        assert!(
            matches!(output.status.code(), Some(77 | 78)),
            "{}",
            errors(&output)
        );
        assert!(errors(&output).contains(word), "{}", errors(&output));
    }
}

// 77 is "no permission": a store that cannot be made or written is found by `check`, before `run` meets it.
#[test]
fn check_finds_a_store_that_cannot_be_written() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    site.setup.clone().set("log", "access", r#""off""#).write();
    let directory = site.setup.directory();
    // The key's mode is not what this is about: it is given to whoever runs the command.
    if rustix::process::geteuid().is_root() {
        let key = directory.join("cert.key");
        std::os::unix::fs::chown(key, Some(65534), None).unwrap();
    }
    set_mode(directory, 0o555);
    let store = directory.join("state");
    for made in [false, true] {
        if made {
            set_mode(directory, 0o755);
            fs::create_dir(&store).unwrap();
            set_mode(&store, 0o555);
        }
        for command in ["check", "run"] {
            let output = as_other(&site, &[command]);
            assert_exit(&output, 77);
            let text = errors(&output);
            assert!(text.contains("store's directory"), "{text}");
        }
    }
}

#[test]
fn files_that_this_user_may_not_read_exit_77() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let directory = site.setup.directory();
    set_mode(directory, 0o755);
    set_mode(&site.config, 0o644);
    set_mode(&directory.join("cert.key"), 0o000);
    let output = as_other(&site, &["check"]);
    assert_exit(&output, 77);
    assert!(errors(&output).contains("cert.key"), "{}", errors(&output));
    set_mode(&site.config, 0o000);
    for words in [&["check"][..], &["run"], &["keys", "list"], &["status"]] {
        let output = as_other(&site, words);
        assert_exit(&output, 77);
        assert!(errors(&output).contains("gateway.toml"));
    }
}

// Paths of the file that a start would stumble over: the same message and code from `check`.
#[test]
fn paths_that_cannot_be_used_are_named() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let log = r#""file:missing/access.log""#;
    site.setup.clone().set("log", "access", log).write();
    for command in ["check", "run"] {
        let output = site.command(&[command]);
        assert_exit(&output, 78);
        let text = errors(&output);
        let told = text.contains("log.access: ") && text.contains("the directory has to exist");
        assert!(told, "{text}");
    }
    fs::create_dir(site.setup.directory().join("missing")).unwrap();
    assert_exit(&site.command(&["check"]), 0);
    fs::write(site.setup.directory().join("file"), "mine").unwrap();
    for socket in [r#""missing/none/admin.sock""#, r#""file""#] {
        let setup = site.setup.clone();
        setup.set("listen", "admin_socket", socket).write();
        let output = site.command(&["run"]);
        assert_exit(&output, 78);
        let text = errors(&output);
        assert!(text.contains("listen.admin_socket"), "{text}");
    }
}

#[test]
fn check_reads_standard_input() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let check = |text: &str| {
        let piped = site.setup.directory().join("piped");
        fs::write(&piped, text).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["check", "--config", "-"]);
        command.current_dir(site.setup.directory());
        command.stdin(fs::File::open(piped).unwrap());
        command.output().unwrap()
    };
    let good = fs::read_to_string(&site.config).unwrap();
    assert_exit(&check(&good), 0);
    let output = check(&good.replace("[listen]", "[listne]"));
    assert_exit(&output, 78);
    assert!(errors(&output).contains("<stdin>:"), "{}", errors(&output));
}

// FF10: `check` names keys that may do more than they list.
#[test]
fn check_names_keys_that_are_whole_under_their_plan() {
    let upstream = Upstream::start();
    let site = Site::of(Setup::limited(&upstream, "100/hour", "unlimited").set(
        "key_rules",
        "warn_never",
        "false",
    ));
    let create = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--name",
        "x",
        "--scope",
        "leases:read",
    ];
    site.told(&create);
    let remarks = |site: &Site| {
        let output = site.command(&["check"]);
        assert_exit(&output, 0);
        errors(&output)
    };
    assert!(!remarks(&site).contains("granular_scopes"));
    let whole = (site.setup.clone()).set("plans.limited", "granular_scopes", "false");
    let told = remarks(&Site::of(whole));
    assert!(told.contains("granular_scopes = false: key_"), "{told}");
}

// Issue 3, operators' safety and C-30: `check` remarks on live keys that never end, and passes all the same.
#[test]
fn check_remarks_on_keys_that_never_end() {
    let upstream = Upstream::start();
    let site = Site::new(&upstream);
    let remarks = |site: &Site| {
        let output = site.command(&["check"]);
        assert_exit(&output, 0);
        errors(&output)
    };
    assert!(!remarks(&site).contains("never end"));
    site.key();
    let told = remarks(&site);
    assert!(told.contains("live keys that never end: key_"), "{told}");
    let id = site.told(&["keys", "list"]);
    let id = id.split('\t').next().unwrap().to_owned();
    site.told(&["keys", "update", &id, "--expires", "90d"]);
    assert!(!remarks(&site).contains("never end"));
}

/// Runs the binary as somebody who is not root: root may read and write everything.
fn as_other(site: &Site, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    if rustix::process::geteuid().is_root() {
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
    }
    let command = command.args(words).arg("--config").arg(&site.config);
    command.current_dir("/").output().unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
