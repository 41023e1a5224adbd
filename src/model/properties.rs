//! What must hold of key texts, paths, routes and rates for any bytes: fuzz targets and proptests call the same functions.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::model::key_text;
use crate::model::key_text::Shape;
use crate::model::limit::Rate;
use crate::model::route::Found;
use crate::model::route::Route;
use crate::model::route::RouteTable;
use crate::model::route::path;

/// A text is told to be ours only if it is what `make` would have made; every other text of our shape has a wrong checksum.
pub(crate) fn key_texts(data: &[u8]) {
    let environments = ["live", "test", "live_eu"].map(str::to_owned);
    let prefixes = ["fp", "pk", "fp_live"];
    let shape = key_text::shape(data, &prefixes, &environments);
    let made = |random: &[u8; key_text::RANDOM_LENGTH]| {
        let pairs = prefixes
            .iter()
            .flat_map(|prefix| environments.iter().map(move |name| (prefix, name)));
        pairs
            .map(|(prefix, name)| key_text::make(prefix, name, random))
            .any(|text| text.as_bytes() == data)
    };
    let random = data
        .len()
        .checked_sub(key_text::RANDOM_LENGTH + 6)
        .and_then(|start| data[start..].first_chunk())
        // `make` is given nothing else; of other characters it would make a text that has no shape of ours.
        .filter(|random: &&[u8; key_text::RANDOM_LENGTH]| {
            random.iter().all(u8::is_ascii_alphanumeric)
        });
    assert_eq!(shape == Shape::Ours, random.is_some_and(made));
    if let Some(random) = random {
        let text = key_text::make("fp", "live", random);
        let shape = key_text::shape(text.as_bytes(), &prefixes, &environments);
        assert_eq!(shape, Shape::Ours);
    }
}

/// Whatever is read as a rate is written back to the same rate, and lies within its bounds.
pub(crate) fn rates(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Rate::parse(&text) {
        Ok(rate) => {
            assert!((1..=1_000_000_000).contains(&rate.count));
            assert!((1..=366 * 86_400).contains(&rate.seconds));
            assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }
        Err(error) => assert!(!error.help.is_empty() && !error.to_string().contains("panicked")),
    }
}

/// CHECK14, S18: a path that is served is served by the route that it is decided on, also as three backends read what is forwarded.
pub(crate) fn routes(data: &[u8]) {
    let path = format!("/{}", String::from_utf8_lossy(data));
    let canonical = path::canonical(&path);
    if canonical.doubt.is_some() {
        return;
    }
    assert_eq!(path::canonical(&canonical.text), canonical, "{path:?}");
    let (table, _) = site();
    if let Found::Route(route) = table.find("h", &canonical.text, "GET") {
        assert_backends_agree(&canonical.text, &route.path);
    }
}

/// Fails unless each backend's reading of this path leads to the route with this pattern of `site`.
pub(crate) fn assert_backends_agree(forwarded: &str, decided: &str) {
    let (_, patterns) = site();
    for (backend, read) in READINGS {
        let Some(seen) = read(forwarded.as_bytes()) else {
            continue;
        };
        let reached = reached(patterns, &seen);
        let seen = String::from_utf8_lossy(&seen);
        assert_eq!(
            reached,
            Some(decided),
            "{backend} reads {forwarded:?} as {seen:?}"
        );
    }
}

/// The patterns of the routes below, so that a configuration can have the same.
pub(crate) const PATTERNS: [&str; 8] = [
    "/",
    "/admin/{*rest}",
    "/any/{*rest}",
    "/any/{id}/secret",
    "/jobs:run",
    "/jobs/{id}",
    "/caf%C3%A9/{*rest}",
    "/public/{*rest}",
];

fn site() -> &'static (RouteTable, [Vec<Vec<u8>>; PATTERNS.len()]) {
    static SITE: OnceLock<(RouteTable, [Vec<Vec<u8>>; PATTERNS.len()])> = OnceLock::new();
    SITE.get_or_init(|| {
        let routes: Vec<Arc<Route>> = PATTERNS.iter().map(|path| route(path)).collect();
        let table = RouteTable::build(&routes).expect("no two of these routes match the same");
        let patterns = PATTERNS.map(|path| segments(&percent_decoded(path.as_bytes())));
        (table, patterns)
    })
}

fn route(path: &str) -> Arc<Route> {
    Arc::new(Route::for_tests(path))
}

/// How a backend finds the path that it acts upon; `None` where it answers that there is no such thing.
type Reading = fn(&[u8]) -> Option<Vec<u8>>;

const READINGS: [(&str, Reading); 3] = [("WSGI", wsgi), ("Node", node), ("nginx", nginx)];

/// Decodes once; applications there take a backslash for a slash and resolve dots.
fn wsgi(path: &[u8]) -> Option<Vec<u8>> {
    let decoded = percent_decoded(path);
    Some(resolved(&replaced(&decoded, b'\\', b'/'), true))
}

/// The WHATWG rules: dots are resolved before anything is decoded, `%2e` is one, a backslash is a slash; then `decodeURI`, which
/// leaves reserved characters encoded and fails on what is not UTF-8.
fn node(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.split(|byte| *byte == b'#').next()?;
    let path = replaced(path, b'\\', b'/');
    let dots: Vec<Vec<u8>> = segments(&path)
        .into_iter()
        .map(|segment| match &*segment.to_ascii_lowercase() {
            b"%2e" => b".".to_vec(),
            b".%2e" | b"%2e." | b"%2e%2e" => b"..".to_vec(),
            _ => segment,
        })
        .collect();
    let path = resolved(&[b"/".to_vec(), dots.join(&b'/')].concat(), false);
    let decoded = percent_decoded(&path);
    String::from_utf8(decoded.clone()).ok()?;
    Some(decoded)
}

/// Decodes once, merges slashes, resolves dots, cuts a fragment off, and has no use for a zero byte.
fn nginx(path: &[u8]) -> Option<Vec<u8>> {
    let path = path.split(|byte| *byte == b'#').next()?;
    let decoded = percent_decoded(path);
    (!decoded.contains(&0)).then(|| resolved(&decoded, true))
}

fn replaced(path: &[u8], from: u8, to: u8) -> Vec<u8> {
    let replace = |byte: &u8| if *byte == from { to } else { *byte };
    path.iter().map(replace).collect()
}

/// Dot segments resolved; repeated slashes merged where the backend does that. A final slash stays.
fn resolved(path: &[u8], merge: bool) -> Vec<u8> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let all = segments(path);
    for (index, segment) in all.iter().enumerate() {
        let last = index + 1 == all.len();
        match &**segment {
            b"." | b".." => {
                if segment.len() == 2 {
                    kept.pop();
                }
                if last {
                    kept.push(Vec::new());
                }
            }
            b"" if merge && !last => {}
            _ => kept.push(segment.clone()),
        }
    }
    [b"/".to_vec(), kept.join(&b'/')].concat()
}

fn segments(path: &[u8]) -> Vec<Vec<u8>> {
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    let parts = relative.split(|byte| *byte == b'/');
    parts.map(<[u8]>::to_vec).collect()
}

fn percent_decoded(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::new();
    let mut place = 0;
    while place < path.len() {
        let pair = (digit(path.get(place + 1)), digit(path.get(place + 2)));
        match (path[place], pair) {
            (b'%', (Some(high), Some(low))) => {
                decoded.push((high * 16 + low) as u8);
                place += 3;
            }
            (byte, _) => {
                decoded.push(byte);
                place += 1;
            }
        }
    }
    decoded
}

/// The pattern that a decoded path falls under: the one whose first difference from any other is the more specific.
fn reached(patterns: &[Vec<Vec<u8>>; PATTERNS.len()], path: &[u8]) -> Option<&'static str> {
    let path = segments(path);
    let fits = patterns.iter().zip(PATTERNS).filter_map(|(pattern, text)| {
        let mut ranks = Vec::new();
        for (index, word) in pattern.iter().enumerate() {
            if word == b"{*rest}" {
                ranks.push(2);
                return Some((ranks, text));
            }
            let is_param = word.starts_with(b"{");
            let segment = path.get(index)?;
            if is_param && segment.is_empty() || !is_param && segment != word {
                return None;
            }
            ranks.push(u8::from(is_param));
        }
        (pattern.len() == path.len()).then_some((ranks, text))
    });
    fits.min().map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Paths made of what is dangerous and of what is served, so that few cases find much.
    pub(crate) fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => Just("/".to_owned()),
            1 => prop::sample::select(vec![".", "..", ";", "%", "\\", "#", "*", ":", "+"]).prop_map(str::to_owned),
            3 => prop::sample::select(vec!["admin", "any", "secret", "jobs:run", "jobs", "caf%C3%A9", "public", "x"]).prop_map(str::to_owned),
            2 => prop::sample::select(vec!["%61dmin", "%41", "jobs%3Arun", "jobs%3arun", "caf%c3%a9", "%C3%A9"]).prop_map(str::to_owned),
            2 => "%(25)?(2[ef]|5[cC]|00|3[abB]|40|61|e9)",
            1 => "%[0-9a-fA-F]{2}",
            1 => "[a-zA-Z0-9]",
            1 => "\\PC",
        ];
        // Most begin where something is served, so that what follows can lead astray.
        let starts = vec![
            "any/",
            "any/..",
            "any/x/",
            "jobs/",
            "jobs",
            "public/",
            "caf%C3%A9/",
            "admin/",
            "",
        ];
        (
            prop::sample::select(starts),
            prop::collection::vec(piece, 0..5),
        )
            .prop_map(|(start, pieces)| format!("{start}{}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn only_what_make_made_is_ours(
            text in "(fp|pk|sk|fp_live)_(live|test|live_eu)_[0-9A-Za-z]{28,37}",
            any in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            key_texts(text.as_bytes());
            key_texts(&any);
            let random = std::array::from_fn(|place| any.get(place).copied().unwrap_or(b'-'));
            key_texts(key_text::make("fp", "live", &random).as_bytes());
        }

        #[test]
        fn rates_read_back(text in "[0-9]{0,11}/?[0-9]{0,10}(s|min|hour|day|h|D|)|\\PC{0,8}") {
            rates(text.as_bytes());
        }

        #[test]
        fn check14_three_backends_see_the_route_that_was_decided_on(path in paths()) {
            routes(path.as_bytes());
        }
    }

    // Without its rules a path is read differently: the readings and the oracle do see it.
    #[test]
    fn the_readings_see_what_the_rules_forbid() {
        let (_, patterns) = site();
        let cases = [
            ("/any/../admin/x", "/admin/{*rest}"),
            ("/any/..%2fadmin/x", "/admin/{*rest}"),
            ("/any//secret", "/any/{*rest}"),
            ("/jobs%3Arun", "/jobs:run"),
        ];
        for (path, expected) in cases {
            let seen = READINGS.map(|(_, read)| reached(patterns, &read(path.as_bytes()).unwrap()));
            assert!(seen.contains(&Some(expected)), "{path}: {seen:?}");
        }
    }
}
