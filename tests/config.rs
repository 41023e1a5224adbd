//! gateway.toml: the shipped file is the reference and holds to the code; each mistake gets its exact message.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use proptest::prelude::*;

use portcullis::config;
use portcullis::config::Config;

/// The smallest file: what has no default.
const MINIMAL: &str = "[tls]\ncertificate = \"cert.pem\"\nprivate_key = \"key.pem\"\n";

#[test]
fn the_reference_file_is_every_default() {
    let reference = parse(&reference());
    let minimal = parse(MINIMAL);
    assert_eq!(reference, minimal);
    assert_eq!(reference.dump(), minimal.dump());
}

#[test]
fn the_defaults_are_these() {
    assert_eq!(parse(MINIMAL).dump(), include_str!("config/defaults.dump"));
}

#[test]
fn every_key_stands_in_the_reference_file() {
    let loaded = config::parse(&with_examples(), Path::new("gateway.toml")).unwrap();
    assert_eq!(loaded.unset, Vec::<String>::new());
}

#[test]
fn every_example_of_the_reference_file_is_good() {
    let loaded = config::parse(&with_examples(), Path::new("gateway.toml")).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let config = loaded.config;
    assert_eq!(config.plans.len(), 2);
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.declared_keys.len(), 1);
    assert_eq!(config.upstreams.len(), 4);
    assert_eq!(config.hosts.len(), 1);
    assert_eq!(config.routes.len(), 5);
    assert_eq!(config.tls.sni.len(), 1);
}

#[test]
fn every_key_of_the_reference_file_is_explained() {
    let above = ["environments"];
    for (index, line) in reference().lines().enumerate() {
        let code = line.strip_prefix('#').unwrap_or(line);
        let key = code.split(" = ").next().unwrap_or_default();
        let is_key = !code.starts_with([' ', '#', '[']) && key != code;
        let explained = code.contains(" # ") || above.contains(&key);
        assert!(!is_key || explained, "line {}: {line}", index + 1);
    }
}

/// `key = 5  # 1 to 9; …`: 1 and 9 are taken, 0 and 10 are not.
#[test]
fn the_bounds_in_the_reference_file_are_those_of_the_code() {
    let text = with_examples();
    let mut seen = 0;
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && line.contains(" # "))
    {
        let (code, comment) = line.split_once(" # ").unwrap();
        let (key, value) = code.split_once(" = ").unwrap();
        let value = value.trim();
        let Some((min, max)) = bounds(comment) else {
            // A quantity between quotes has a unit; "404" is a word.
            let is_word = |unit: &str| value.starts_with('"') && unit.is_empty();
            let bounded = split_number(value.trim_matches('"')).is_some_and(|(_, unit)| {
                unit.bytes().all(|byte| byte.is_ascii_alphabetic()) && !is_word(unit)
            });
            assert!(!bounded, "no bounds: {line}");
            continue;
        };
        let out_of_bounds = |number: u64, unit: &str| {
            let word = match value.starts_with('"') {
                true => format!("\"{number}{unit}\""),
                false => format!("{number}{unit}"),
            };
            let changed = text.replace(line, &format!("{key} = {word}"));
            let report = config::parse(&changed, Path::new("gateway.toml")).err();
            report.is_some_and(|report| report.to_string().contains("out of bounds"))
        };
        assert!(!out_of_bounds(min.0, min.1), "least: {line}");
        assert!(!out_of_bounds(max.0, max.1), "greatest: {line}");
        assert!(out_of_bounds(max.0 + 1, max.1), "beyond: {line}");
        assert!(
            min.0 == 0 || out_of_bounds(min.0 - 1, min.1),
            "below: {line}"
        );
        seen += 1;
    }
    assert_eq!(seen, 68);
}

/// A number and its unit, which may be empty.
type Quantity<'a> = (u64, &'a str);

/// `A to B` at the start of a comment.
fn bounds(comment: &str) -> Option<(Quantity<'_>, Quantity<'_>)> {
    let (min, rest) = comment.trim().split_once(" to ")?;
    let max = rest.split([';', ',', ' ']).next()?;
    Some((split_number(min)?, split_number(max)?))
}

fn split_number(text: &str) -> Option<Quantity<'_>> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit))
}

#[test]
fn what_is_dumped_reads_the_same() {
    let config = parse(&with_examples());
    assert_eq!(parse(&config.dump()), config);
    let other = include_str!("config/everything-changed.toml");
    let config = config::parse(other, Path::new("gateway.toml"))
        .unwrap()
        .config;
    let again = config::parse(&config.dump(), Path::new("gateway.toml"))
        .unwrap()
        .config;
    assert_eq!(again, config);
    let changed: BTreeSet<_> = config.dump().lines().map(str::to_owned).collect();
    let defaults: Vec<_> = parse(MINIMAL).dump().lines().map(str::to_owned).collect();
    let same: Vec<_> = defaults
        .iter()
        .filter(|line| line.contains(" = ") && changed.contains(*line))
        .map(String::as_str)
        .collect();
    // A store that nodes share counts elsewhere: "strict" beside it is refused.
    assert_eq!(same, ["durability = \"interval\""]);
}

#[test]
fn relative_paths_begin_at_the_directory_of_the_file() {
    let config = config::parse(MINIMAL, Path::new("/etc/portcullis/gateway.toml"))
        .unwrap()
        .config;
    assert_eq!(
        config.tls.default.certificate,
        Path::new("/etc/portcullis/cert.pem")
    );
    assert_eq!(config.store.path, Path::new("/etc/portcullis/state"));
    assert_eq!(
        config.listen.admin_socket,
        Path::new("/etc/portcullis/state/admin.sock")
    );
    let absolute = MINIMAL.replace("cert.pem", "/tls/cert.pem");
    let config = config::parse(&absolute, Path::new("<stdin>"))
        .unwrap()
        .config;
    assert_eq!(config.tls.default.certificate, Path::new("/tls/cert.pem"));
    assert_eq!(config.store.path, Path::new("state"));
}

#[test]
fn only_what_is_read_at_start_needs_a_restart() {
    let config = parse(MINIMAL);
    let next = config::parse(
        include_str!("config/everything-changed.toml"),
        Path::new("gateway.toml"),
    );
    let all = [
        "listen.https",
        "listen.http",
        "listen.admin",
        "listen.admin_socket",
        "server.workers",
        "store.path",
        "store.kind",
        "store.redis_servers and the keys beside it",
        "log.access",
        "log.queue_bytes_max",
    ];
    assert_eq!(config.restart_needed(&next.unwrap().config), all);
    let next = parse(&with_examples());
    assert_eq!(config.restart_needed(&next), Vec::<&str>::new());
}

#[test]
fn what_nobody_uses_is_a_warning() {
    let text = format!(
        "{MINIMAL}[plans.p]\nquota = \"unlimited\"\nburst = \"unlimited\"\nscopes = []\n\
        [upstreams.spare]\nservers = [\"http://127.0.0.1:1\"]\n[upstreams.used]\nservers = [\"http://127.0.0.1:2\"]\nisolation = \"header\"\n\
        [[routes]]\npath = \"/\"\nscope = \"a:c\"\nupstream = \"used\"\n"
    );
    let loaded = config::parse(&text, Path::new("gateway.toml")).unwrap();
    assert_eq!(
        loaded.warnings.lines(),
        [
            "gateway.toml:8:12: no route leads to upstream \"spare\"; add a [[routes]] table, or take the upstream out",
            "gateway.toml:14:8: no plan grants scope \"a:c\": every key will get 403 here; grant it in the scopes of a plan, or correct the spelling",
        ]
    );
    let loaded = config::parse(MINIMAL, Path::new("gateway.toml")).unwrap();
    assert_eq!(
        loaded.warnings.lines(),
        [
            "gateway.toml: no [[routes]]: every request will be answered 404 or 401; add an [upstreams.NAME] and a [[routes]] table that leads to it"
        ]
    );
}

// Issue 3, operators' safety: what can never matter is told, and the file is good all the same.
#[test]
fn what_can_never_matter_is_a_warning() {
    let text = format!(
        "{MINIMAL}[scopes]\nsuperuser = [\"admin\"]\n\
        [plans.p]\nquota = \"unlimited\"\nburst = \"unlimited\"\nscopes = [\"*\", \"a:*\", \"leses:read\"]\n\
        [[tenants]]\nid = \"acme\"\nplan = \"p\"\nscopes = [\"admin\", \"a:b\", \"a:typo\"]\n\
        [[key_defaults]]\nkind = \"public\"\nscopes = []\n[[key_defaults]]\nscopes = [\"a:b\"]\n[[key_defaults]]\nkind = \"secret\"\nscopes = []\n\
        [upstreams.u]\nservers = [\"http://127.0.0.1:2\"]\nisolation = \"header\"\n\
        [[routes]]\npath = \"/x/{{id}}\"\nscope = \"a:b\"\nupstream = \"u\"\n\
        [[routes]]\npath = \"/x/{{name}}\"\nhost = \"a.example.com\"\nmethods = [\"GET\"]\nscope = \"a:b\"\nupstream = \"u\"\n\
        [[routes]]\npath = \"/y\"\nhost = \"a.example.com\"\nscope = \"a:b\"\nupstream = \"u\"\n\
        [[routes]]\npath = \"/y\"\nhost = \"b.example.com\"\nscope = \"a:b\"\nupstream = \"u\"\n"
    );
    let loaded = config::parse(&text, Path::new("gateway.toml")).unwrap();
    let told: Vec<String> = loaded.warnings.lines().to_vec();
    let expected = [
        "[[key_defaults]] number 3 never counts: number 2 fits all of its keys",
        "no route demands scope \"leses:read\" of plan \"p\"",
        "no route demands scope \"a:typo\" of tenant \"acme\"",
        "at \"a.example.com\" this route hides /x/{id} of any host, for every method",
    ];
    for line in expected {
        assert!(
            told.iter().any(|told| told.contains(line)),
            "{line}\n{told:#?}"
        );
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

// CHECK14, S18: spellings that a lenient backend takes for a guarded path are told of where a wider route lets them through; not where it asks for as
// much, leads elsewhere, or a route stands between.
#[test]
fn spellings_that_go_through_a_looser_route_are_a_warning() {
    let file = |routes: &str| {
        let text = format!(
            "{MINIMAL}[plans.p]\nquota = \"unlimited\"\nburst = \"unlimited\"\nscopes = [\"*\"]\n\
            [upstreams.u]\nservers = [\"http://127.0.0.1:1\"]\nisolation = \"header\"\n\
            [upstreams.v]\nservers = [\"http://127.0.0.1:2\"]\nisolation = \"header\"\n\
            [[routes]]\npath = \"/v\"\naccess = \"any-key\"\nupstream = \"v\"\n{routes}"
        );
        let loaded = config::parse(&text, Path::new("gateway.toml")).unwrap();
        loaded.warnings.lines().to_vec()
    };
    let route = |path: &str, demand: &str, upstream: &str| {
        format!("[[routes]]\npath = \"{path}\"\n{demand}\nupstream = \"{upstream}\"\n")
    };
    let admin = "scope = \"admin:all\"";
    let any = "access = \"any-key\"";
    let wide = route("/{*rest}", any, "u");
    assert_eq!(
        file(&(route("/admin", admin, "u") + &wide)),
        [
            "gateway.toml:19:8: \"/ADMIN\" and \"/admin/\" go through /{*rest}, which asks for less; a backend that takes such spellings for /admin answers them there; make sure that the backend tells them apart, or give the wider route an upstream or a demand that holds for both"
        ]
    );
    let told = file(&(route("/admin/{*rest}", admin, "u") + &wide));
    assert!(
        told.len() == 1 && told[0].contains("\"/ADMIN\" goes through"),
        "{told:?}"
    );
    let told = file(
        &(route(
            "/t/{id}",
            "access = \"any-key\"\nbind = { id = \"tenant\" }",
            "u",
        ) + &wide),
    );
    assert!(
        told.len() == 1 && told[0].contains("\"/T/1\" and \"/t/1/\" go"),
        "{told:?}"
    );
    for quiet in [
        route("/admin", admin, "v") + &wide,
        route("/admin", admin, "u") + &route("/{*rest}", admin, "u"),
        route("/admin", admin, "u") + &route("/other/{*rest}", any, "u"),
        route("/123/{*rest}", admin, "u") + &wide,
    ] {
        assert_eq!(file(&quiet), Vec::<String>::new(), "{quiet}");
    }
}

// FM13, issue 3: an upstream that says nothing of isolation is told where keys lead to it, and not where none do; a tenant without a place is named.
#[test]
fn isolation_that_nobody_states_is_a_warning() {
    let text = format!(
        "{MINIMAL}[plans.p]\nquota = \"unlimited\"\nburst = \"unlimited\"\nscopes = [\"*\"]\n\
        [[tenants]]\nid = \"acme\"\nplan = \"p\"\n[[tenants]]\nid = \"bravo\"\nplan = \"p\"\n\
        [upstreams.open]\nservers = [\"http://127.0.0.1:1\"]\n[upstreams.silent]\nservers = [\"http://127.0.0.1:2\"]\n\
        [upstreams.apart]\nisolation = \"physical\"\ntenants.acme = \"http://127.0.0.1:3\"\n\
        [[routes]]\npath = \"/open\"\naccess = \"public\"\nupstream = \"open\"\n\
        [[routes]]\npath = \"/silent\"\naccess = \"any-key\"\nupstream = \"silent\"\n\
        [[routes]]\npath = \"/apart\"\naccess = \"any-key\"\nupstream = \"apart\"\n"
    );
    let loaded = config::parse(&text, Path::new("gateway.toml")).unwrap();
    assert_eq!(
        loaded.warnings.lines(),
        [
            "gateway.toml:16:12: upstream \"silent\" does not state what keeps tenants apart; write isolation = \"header\" if the backend filters by the tenant header; else \"physical\", \"path\" or \"guard\"",
            "gateway.toml:18:12: upstream \"apart\" has no place for tenant bravo: its requests there get 503; add it to tenants",
        ]
    );
}

#[test]
fn an_unreadable_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gateway.toml");
    let report = |path: &Path| config::load(path).unwrap_err().to_string();
    assert!(
        report(&path).contains("cannot be read: No such file"),
        "{}",
        report(&path)
    );
    assert!(report(dir.path()).contains("cannot be read: Is a directory"));
    std::fs::write(&path, b"# fine\n# \xff\n").unwrap();
    assert!(
        report(&path).contains("line 2 is not UTF-8"),
        "{}",
        report(&path)
    );
    assert!(report(&path).contains(&path.display().to_string()));
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(
        config::load(&path).unwrap().config.store.path,
        dir.path().join("state")
    );
}

/// Each `tests/config/NAME.toml` beside a `NAME.expected`. `BLESS=1 cargo test --test config` writes the expectations anew.
#[test]
fn each_mistake_gets_its_exact_message() {
    let mut seen = 0;
    for path in files("toml") {
        let expected = path.with_extension("expected");
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "everything-changed.toml" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let report = config::parse(&text, Path::new(name))
            .expect_err(name)
            .to_string();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected, report.clone() + "\n").unwrap();
        }
        let wanted = std::fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(report + "\n", wanted, "{name}");
        let count = match name {
            "many-problems.toml" => 30,
            "upstream-care.toml" => 11,
            "store-shared-half-said.toml" => 3,
            _ => 1,
        };
        let first = wanted.lines().last().unwrap().to_owned();
        assert!(
            first.starts_with(&format!("{name}: {count} problem")),
            "{first}"
        );
        seen += 1;
    }
    assert!(seen >= 25, "{seen}");
}

/// Keys belong in no message, wherever they were pasted.
#[test]
fn a_pasted_key_is_never_shown() {
    let key = "fp_live_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789";
    let lines = [
        format!("[[keys]]\nkey = \"{key}\"\n"),
        format!("[[keys]]\ndigest = \"{key}\"\n"),
        "[[keys]]\ndigest = \"AbCdEf\"\n".to_owned(),
        "[[keys]]\nkey = \"AbCdEf\"\n".to_owned(),
        "[[keys]]\nkey = { value = \"AbCdEf\" }\n".to_owned(),
        format!("[[keys]]\ndigest = {key}\n"),
        format!("{key} = 1\n[[keys]]\n"),
    ];
    for text in lines {
        let report = config::parse(&text, Path::new("gateway.toml")).unwrap_err();
        for shown in [
            report.to_string(),
            report.render(true),
            report.lines().join("\n"),
            format!("{report:?}"),
        ] {
            assert!(!shown.contains("AbCdEf"), "{text}: {shown}");
        }
    }
}

/// What only seems to be missing, because its line is broken, is not reported; everything else is.
#[test]
fn syntax_errors_do_not_hide_other_problems() {
    let text = "colour = 1\n[plans.free]\nquota = 100/hour\nquota = \"1/hour\"\nburst = 5\nscopes = [\n[tls]\n";
    let report = config::parse(text, Path::new("gateway.toml")).unwrap_err();
    let lines = report.lines();
    let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
    assert!(has("gateway.toml:1:1: unknown key `colour`"), "{report}");
    assert!(
        has("gateway.toml:3:9: not TOML: string values must be quoted"),
        "{report}"
    );
    assert!(has("gateway.toml:4:1: not TOML: duplicate key"), "{report}");
    assert!(
        has("gateway.toml:5:9: [plans.free] burst: \"5\" is not a rate"),
        "{report}"
    );
    assert!(
        !lines.iter().any(|line| line.contains("missing")),
        "{report}"
    );
}

/// Ids of declared keys are stable: they name counters and usage on disk.
#[test]
fn a_declared_key_keeps_its_id_when_its_digest_changes() {
    let text = with_examples();
    let before = parse(&text).declared_keys.remove(0);
    let changed = text.replace(
        &text[text.find("sha256:").unwrap()..][..20],
        "sha256:1111111111111",
    );
    let after = parse(&changed).declared_keys.remove(0);
    assert_ne!(before.digest, after.digest);
    assert_eq!(before.id, after.id);
    assert_eq!(before.id.to_string(), "key_2mr6pMtGhx6u");
    let renamed = parse(&text.replace("billing service", "other"))
        .declared_keys
        .remove(0);
    assert_ne!(renamed.id, before.id);
}

proptest! {
    /// However a file is mangled, it is either refused with a report or means something that can be written back.
    #[test]
    fn no_text_panics(cuts in proptest::collection::vec((0..20_000_usize, 0..80_usize, "\\PC{0,6}|[\\[\\]{}=\"',.#\n ]{0,4}"), 1..6)) {
        let mut text = with_examples();
        for (place, length, insert) in cuts {
            let boundary = |byte: usize| (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            let (start, end) = (boundary(place), boundary(place + length));
            text.replace_range(start..end.max(start), &insert);
        }
        match config::parse(&text, Path::new("gateway.toml")) {
            Ok(loaded) => {
                let again = config::parse(&loaded.config.dump(), Path::new("gateway.toml"));
                prop_assert_eq!(again.unwrap().config, loaded.config);
            }
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.to_string().contains("gateway.toml"));
                prop_assert_eq!(problems.lines().len(), problems.len().min(100));
            }
        }
    }
}

fn parse(text: &str) -> Config {
    config::parse(text, Path::new("gateway.toml"))
        .unwrap()
        .config
}

fn reference() -> String {
    include_str!("../gateway.toml").to_owned()
}

/// The reference file with the `#` taken away from every example, as its head says.
fn with_examples() -> String {
    let uncommented = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example.to_owned(),
        _ => line.to_owned(),
    };
    reference()
        .lines()
        .map(uncommented)
        .collect::<Vec<_>>()
        .join("\n")
}

fn files(extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn every_profile_is_good() {
    let mut seen = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let loaded = config::parse(&text, &path).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
        seen += 1;
    }
    assert_eq!(seen, 4);
}
