//! Rules about the source itself: the way of imports, first lines, cited promises, least versions. Each is also seen to fail.

#![allow(
    clippy::unwrap_used,
    reason = "test code fails by panicking, also in its helpers"
)]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The rooms, lowest first: each imports only from those before it.
const LAYERS: [&str; 29] = [
    "clock",
    "prefetch",
    "aside",
    "descriptors",
    "pem",
    "socket",
    "metrics",
    "refusal",
    "model",
    "access_log",
    "guard",
    "config",
    "store",
    "meter",
    "observed",
    "snapshot",
    "token",
    "quota",
    "usage",
    "alerts",
    "gate",
    "upstream",
    "shutdown",
    "handler",
    "edge",
    "admin",
    "server",
    "cli",
    "fuzzing",
];

/// Import nothing of this crate, but for what stands in [`LEAF_EXCEPTIONS`].
const LEAVES: [&str; 7] = [
    "clock",
    "prefetch",
    "descriptors",
    "pem",
    "socket",
    "metrics",
    "refusal",
];

const LEAF_EXCEPTIONS: [(&str, &str); 1] = [("refusal", "crate::model::scope")];

/// What the advisories in SECURITY section 3 ask for.
const LEAST_VERSIONS: [(&str, [u64; 3]); 14] = [
    ("hyper", [1, 11, 0]),
    ("h2", [0, 4, 16]),
    ("rustls", [0, 23, 18]),
    ("rustls-webpki", [0, 103, 13]),
    ("tracing-subscriber", [0, 3, 20]),
    ("bytes", [1, 11, 1]),
    ("aws-lc-sys", [0, 39, 0]),
    ("ring", [0, 17, 12]),
    ("tokio", [1, 44, 2]),
    ("dashmap", [5, 1, 0]),
    ("arc-swap", [1, 1, 0]),
    ("slab", [0, 4, 11]),
    ("tungstenite", [0, 20, 1]),
    ("quinn-proto", [0, 11, 15]),
];

const REFUSALS_BEGIN: &str = "<!-- refusals: begin (held to the code by a test) -->";

const REFUSALS_END: &str = "<!-- refusals: end -->";

const README_LINES_MAX: usize = 199;

/// A file of the tree: its path below the root, and its text.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn of(path: &str, text: &str) -> Source {
        Source {
            path: PathBuf::from(path),
            text: text.to_owned(),
        }
    }

    /// The room it belongs to: `gate` for `src/gate/mod.rs`, `clock` for `src/clock.rs`; `None` for the doors of the crate.
    fn room(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src").ok()?;
        let first = below.components().next()?.as_os_str().to_str()?;
        let room = first.strip_suffix(".rs").unwrap_or(first);
        (!["lib", "main"].contains(&room)).then_some(room)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut found);
    }
    assert!(!found.is_empty(), "there are sources");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(Source {
                text: fs::read_to_string(&path).unwrap(),
                path: path.strip_prefix(root()).unwrap().to_owned(),
            });
        }
    }
}

/// Checks every source with `rule` and fails with all that it says.
#[track_caller]
fn hold(sources: &[Source], rule: impl Fn(&Source) -> Vec<String>) {
    let said: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            let path = source.path.display().to_string();
            rule(source)
                .into_iter()
                .map(move |what| format!("{path}: {what}"))
        })
        .collect();
    assert!(said.is_empty(), "\n{}", said.join("\n"));
}

fn first_line_states_the_purpose(source: &Source) -> Vec<String> {
    let first = source.text.lines().next().unwrap_or("");
    match first.strip_prefix("//! ") {
        Some(purpose) if purpose.len() > 10 => Vec::new(),
        _ => vec!["the first line is a `//!` sentence that says what the file is for".into()],
    }
}

fn imports_are_one_per_line(source: &Source) -> Vec<String> {
    let grouped = |line: &&str| {
        let line = line
            .trim_start()
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        line.starts_with("use crate::") && line.contains('{') || line.starts_with("use crate::{")
    };
    let lines = source.text.lines().filter(grouped);
    lines
        .map(|line| format!("one import per line: `{}`", line.trim()))
        .collect()
}

fn imports_point_downwards(source: &Source) -> Vec<String> {
    let Some(room) = source.room() else {
        return Vec::new();
    };
    let level = |room: &str| LAYERS.iter().position(|layer| *layer == room);
    let Some(own) = level(room) else {
        return vec![format!(
            "`{room}` has no place in the order of the rooms (LAYERS)"
        )];
    };
    let mut said = Vec::new();
    for path in crate_paths(&source.text) {
        let other = path["crate::".len()..].split("::").next().unwrap_or("");
        if other == room {
            continue;
        }
        let allowed = LEAF_EXCEPTIONS
            .iter()
            .any(|(leaf, prefix)| *leaf == room && path.starts_with(prefix));
        let Some(level) = level(other) else {
            said.push(format!("`{path}` is in no room"));
            continue;
        };
        if !allowed && (level >= own || LEAVES.contains(&room)) {
            said.push(format!("`{room}` must not import `{path}`"));
        }
    }
    said
}

/// Every `crate::…` path outside comments.
fn crate_paths(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or("");
        for (at, _) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if before
                .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == '$')
            {
                continue;
            }
            let rest = &code[at..];
            let end = rest
                .find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'))
                .unwrap_or(rest.len());
            found.push(&rest[..end]);
        }
    }
    found
}

fn a_room_is_a_folder_or_a_file(source: &Source) -> Vec<String> {
    let folder = source.path.with_extension("");
    let both = source.path.extension().is_some() && root().join(&folder).is_dir();
    if both && source.path.starts_with("src") {
        return vec![format!(
            "stands beside the folder {}: move it to mod.rs",
            folder.display()
        )];
    }
    Vec::new()
}

fn no_machine_is_named(source: &Source) -> Vec<String> {
    // Written apart, so that this file keeps the rule itself.
    let words = ["/ho", "/ro", "/wo", "/Us"];
    let ends = ["me/", "ot/", "rk/", "ers/"];
    let mut said = Vec::new();
    for (word, end) in words.iter().zip(ends) {
        let path = format!("{word}{end}");
        let named = |line: &&str| {
            line.match_indices(&path).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|letter| {
                    !letter.is_alphanumeric() && !matches!(letter, '/' | '.' | '}')
                })
            })
        };
        for line in source.text.lines().filter(named) {
            said.push(format!("a path of some machine: `{}`", line.trim()));
        }
    }
    said
}

// S29: a hasher without a random seed is for digests only, which no stranger chooses byte by byte.
fn hashers_are_seeded(source: &Source) -> Vec<String> {
    // Digests of what was made here, or signed by an issuer, are as good as random.
    let homes = ["snapshot/key_table.rs", "token/cache.rs"];
    let at_home = homes.iter().any(|home| source.path.ends_with(home));
    let unseeded = ["BuildHasherDefault", "FxHash", "fnv::"];
    let found = unseeded.iter().filter(|word| source.text.contains(**word));
    found
        .filter(|_| !at_home && source.path.starts_with("src"))
        .map(|word| format!("{word}: a table that strangers fill needs a random seed"))
        .collect()
}

#[test]
fn every_file_states_its_purpose() {
    hold(
        &sources(&["src", "tests", "benches", "fuzz/fuzz_targets"]),
        first_line_states_the_purpose,
    );
}

#[test]
fn imports_are_not_grouped() {
    hold(
        &sources(&["src", "tests", "benches"]),
        imports_are_one_per_line,
    );
}

#[test]
fn imports_point_one_way() {
    hold(&sources(&["src"]), imports_point_downwards);
}

#[test]
fn no_room_is_both_a_folder_and_a_file() {
    hold(&sources(&["src"]), a_room_is_a_folder_or_a_file);
}

#[test]
fn no_file_names_a_machine() {
    let mut all = sources(&["src", "tests", "benches", "fuzz/fuzz_targets"]);
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "gateway.toml",
        "Cargo.toml",
        "deny.toml",
        "fuzz/Cargo.toml",
        "fuzz/README.md",
        "tests/run",
        ".ci/run",
    ] {
        let text = fs::read_to_string(root().join(name)).unwrap_or_default();
        all.push(Source::of(name, &text));
    }
    hold(&all, no_machine_is_named);
}

#[test]
fn tables_that_strangers_fill_have_a_random_seed() {
    hold(&sources(&["src"]), hashers_are_seeded);
}

/// The fuzz targets are another crate, which is not built here: each property has its target, and each target its property and its line in the table.
#[test]
fn every_property_has_its_fuzz_target() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (properties, manifest) = (read("src/fuzzing.rs"), read("fuzz/Cargo.toml"));
    let table = read("fuzz/README.md");
    let names: Vec<&str> = properties
        .lines()
        .filter_map(|line| line.trim().split_once(" => crate::"))
        .map(|(name, _)| name)
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let target = read(&format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(target.contains(&format!("fuzzing::{name}(data)")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(table.contains(&format!("`{name}`")), "{name}");
    }
    // `guard` compares the public filter with another parser, and needs no door into a room.
    assert!(table.contains("`guard`"));
    assert_eq!(manifest.matches("[[bin]]").count(), names.len() + 1);
}

/// README prints what clients see; `BLESS=1` writes it anew.
#[test]
fn readme_prints_the_refusals_of_the_code() {
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(REFUSALS_BEGIN).expect("the begin mark");
    let (printed, after) = rest.split_once(REFUSALS_END).expect("the end mark");
    let expected = format!("\n{}", portcullis::refusal::Refusal::table());
    if std::env::var_os("BLESS").is_some() {
        let fresh = format!("{before}{REFUSALS_BEGIN}{expected}{REFUSALS_END}{after}");
        fs::write(path, fresh).unwrap();
        return;
    }
    assert_eq!(
        printed, expected,
        "run with BLESS=1 and look at the difference"
    );
}

/// The words for the access log's `reason` that README gives as examples are words of the code.
#[test]
fn readme_names_reasons_that_the_code_has() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let begin = readme.find("in `reason`:").expect("the paragraph");
    let paragraph = readme[begin..].split("\n\n").next().unwrap_or_default();
    let words = paragraph.split('`').skip(3).step_by(2);
    let words: Vec<&str> = words.filter(|word| word.contains('_')).collect();
    assert!(words.len() > 8, "{words:?}");
    let sources = sources(&["src"]);
    for word in words {
        let quoted = word.trim_end_matches("_total");
        let quoted = format!("\"{quoted}\"");
        let known = sources.iter().any(|source| source.text.contains(&quoted));
        assert!(known, "{word}");
    }
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md"))
        .unwrap()
        .lines()
        .count();
    assert!(lines <= README_LINES_MAX, "README.md has {lines} lines");
}

#[test]
fn dependencies_are_new_enough() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let said = too_old(&lock);
    assert!(said.is_empty(), "\n{}", said.join("\n"));
}

/// What the lock file holds below [`LEAST_VERSIONS`]; a crate that is not there at all is fine.
fn too_old(lock: &str) -> Vec<String> {
    let mut said = Vec::new();
    let mut lines = lock.lines();
    while let Some(line) = lines.next() {
        let Some(name) = quoted(line, "name = ") else {
            continue;
        };
        let version = lines
            .next()
            .and_then(|line| quoted(line, "version = "))
            .unwrap_or("");
        let core = version.split(['-', '+']).next().unwrap_or("");
        let numbers: Vec<u64> = core
            .split('.')
            .filter_map(|part| part.parse().ok())
            .collect();
        for (known, least) in LEAST_VERSIONS {
            if known == name && numbers[..] < least[..] {
                said.push(format!("{name} {version} is older than {least:?}"));
            }
        }
    }
    said
}

fn quoted<'a>(line: &'a str, before: &str) -> Option<&'a str> {
    line.strip_prefix(before)?
        .strip_prefix('"')?
        .strip_suffix('"')
}

#[test]
fn every_promise_is_kept_by_a_test_or_planned() {
    let list = fs::read_to_string(root().join("tests/gateway/promises.txt")).unwrap();
    let mut tests: Vec<String> = sources(&["tests"])
        .into_iter()
        .map(|source| source.text)
        .collect();
    // In the product only the tests count: a comment beside the code promises, it does not show.
    for source in sources(&["src"]) {
        if let Some((_, tests_part)) = source.text.split_once("#[cfg(test)]") {
            tests.push(tests_part.to_owned());
        }
    }
    let said = uncited(&list, &tests.concat());
    assert!(said.is_empty(), "\n{}", said.join("\n"));
}

/// The contradictions of the reference APIs, C-1 to C-30: the reference file has an option for each, or says why none is needed.
#[test]
fn every_contradiction_stands_in_the_reference_file() {
    /// One word of another room each: the token endpoint's form (C-24), the answer for a foreign resource (C-15).
    const ELSEWHERE: [usize; 2] = [15, 24];
    let text = fs::read_to_string(root().join("gateway.toml")).unwrap();
    let missing = uncited_contradictions(&text, &ELSEWHERE);
    assert!(missing.is_empty(), "{missing:?}");
    let without = text.replace("C-30", "");
    assert_eq!(uncited_contradictions(&without, &ELSEWHERE), [30]);
}

fn uncited_contradictions(text: &str, elsewhere: &[usize]) -> Vec<usize> {
    let comments: String = text
        .lines()
        .filter_map(|line| Some(line.split_once('#')?.1))
        .flat_map(|comment| [comment, "\n"])
        .collect();
    let cited: Vec<usize> = comments
        .split("C-")
        .skip(1)
        .filter_map(|after| {
            let end = after.find(|letter: char| !letter.is_ascii_digit());
            after[..end.unwrap_or(after.len())].parse().ok()
        })
        .collect();
    (1..=30)
        .filter(|id| !cited.contains(id) && !elsewhere.contains(id))
        .collect()
}

/// Promises that no test cites, and lines that are not `ID | promise | planned: …`.
fn uncited(list: &str, tests: &str) -> Vec<String> {
    let cited: std::collections::HashSet<&str> = tests
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .collect();
    let mut seen = std::collections::HashSet::new();
    let mut said = Vec::new();
    for line in list.lines() {
        let parts: Vec<&str> = line.split('|').map(str::trim).collect();
        let [id, promise, planned] = parts[..] else {
            said.push(format!("not `ID | promise | planned: …`: {line}"));
            continue;
        };
        if promise.is_empty() || !seen.insert(id) {
            said.push(format!("{id}: said twice, or not said"));
        }
        if !planned.is_empty() && !planned.starts_with("planned: ") {
            said.push(format!("{id}: `{planned}` is not `planned: …`"));
        }
        if planned.is_empty() && !cited.contains(id) {
            said.push(format!("{id}: no test cites it ({promise})"));
        }
    }
    said
}

#[test]
fn the_list_of_promises_is_whole() {
    let list = fs::read_to_string(root().join("tests/gateway/promises.txt")).unwrap();
    let ids: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(" |").next())
        .collect();
    for (prefix, count) in [
        ("FA", 33),
        ("FM", 13),
        ("FF", 21),
        ("PB", 21),
        ("CW", 14),
        ("S", 46),
        ("CHECK", 15),
        ("IMP", 5),
    ] {
        for number in 1..=count {
            let id = format!("{prefix}{number}");
            assert!(ids.contains(&id.as_str()), "{id} is missing");
        }
    }
}

// Each rule fails on what it forbids, and passes what it allows.
#[test]
fn the_rules_see_what_they_forbid() {
    type Rule = fn(&Source) -> Vec<String>;
    let machine = format!("let path = \"{}{}user/x\";", "/ho", "me/");
    let cases: [(Rule, &str, &str, bool); 17] = [
        (
            first_line_states_the_purpose,
            "src/gate/x.rs",
            "use std::fs;\n",
            false,
        ),
        (
            first_line_states_the_purpose,
            "src/gate/x.rs",
            "//!\n//! Later.\n",
            false,
        ),
        (
            first_line_states_the_purpose,
            "src/gate/x.rs",
            "//! Says what it is for.\n",
            true,
        ),
        (
            imports_are_one_per_line,
            "src/gate/x.rs",
            "use crate::{clock, model};\n",
            false,
        ),
        (
            imports_are_one_per_line,
            "src/gate/x.rs",
            "use crate::clock::{Mono, Wall};\n",
            false,
        ),
        (
            imports_are_one_per_line,
            "src/gate/x.rs",
            "use crate::clock::Mono;\n",
            true,
        ),
        (
            imports_point_downwards,
            "src/gate/x.rs",
            "use crate::upstream::Pools;\n",
            false,
        ),
        (
            imports_point_downwards,
            "src/gate/x.rs",
            "fn f() { crate::handler::handle() }\n",
            false,
        ),
        (
            imports_point_downwards,
            "src/gate/x.rs",
            "use crate::gate::Peer;\nuse crate::quota::Quota;\n",
            true,
        ),
        (
            imports_point_downwards,
            "src/metrics/mod.rs",
            "use crate::clock::Mono;\n",
            false,
        ),
        (
            imports_point_downwards,
            "src/refusal.rs",
            "use crate::model::key::KeyId;\n",
            false,
        ),
        (
            imports_point_downwards,
            "src/refusal.rs",
            "use crate::model::scope::Scope;\n",
            true,
        ),
        (imports_point_downwards, "src/utils/mod.rs", "", false),
        (a_room_is_a_folder_or_a_file, "src/gate.rs", "", false),
        (no_machine_is_named, "src/x.rs", &machine, false),
        (
            hashers_are_seeded,
            "src/edge/x.rs",
            "BuildHasherDefault<Fast>",
            false,
        ),
        (
            hashers_are_seeded,
            "src/snapshot/key_table.rs",
            "BuildHasherDefault<DigestHasher>",
            true,
        ),
    ];
    for (index, (rule, path, text, fine)) in cases.into_iter().enumerate() {
        let said = rule(&Source::of(path, text));
        assert_eq!(said.is_empty(), fine, "case {index} ({path}): {said:?}");
    }
    assert_eq!(too_old("name = \"hyper\"\nversion = \"1.10.9\"\n").len(), 1);
    assert_eq!(too_old("name = \"hyper\"\nversion = \"1.11.0\"\n").len(), 0);
    assert_eq!(uncited("X1 | a promise |\n", "// X2").len(), 1);
    assert_eq!(
        uncited(
            "X1 | a promise |\nX2 | later | planned: it\n",
            "// X1: shown"
        )
        .len(),
        0
    );
    assert_eq!(uncited("X1 | a promise |\n", "// X11").len(), 1);
    assert_eq!(uncited("X1 | a promise | soon\n", "// X1").len(), 1);
}
