//! Host names with one wildcard: which names `*.example.com` covers, and which of several covers best.

/// Whether a configured name, exact or `*.` wildcard, covers a host. Both are lower case and without port. A wildcard stands for one or
/// more whole labels, so `*.example.com` covers `a.b.example.com` but not `example.com`.
#[must_use]
pub fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => name == host,
    }
}

/// The best of several: an exact name, else the longest wildcard.
#[must_use]
pub fn best<'a, T>(entries: &'a [T], name_of: impl Fn(&T) -> &str, host: &str) -> Option<&'a T> {
    entries
        .iter()
        .filter(|entry| covers(name_of(entry), host))
        .max_by_key(|entry| rank(name_of(entry)))
}

/// Greater is better.
fn rank(name: &str) -> (bool, usize) {
    (!name.starts_with('*'), name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_or_more_labels() {
        let cases = [
            ("a.example.com", "a.example.com", true),
            ("a.example.com", "b.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "aexample.com", false),
            ("example.com", "", false),
        ];
        for (name, host, expected) in cases {
            assert_eq!(covers(name, host), expected, "{name} {host}");
        }
    }

    #[test]
    fn exact_beats_longer_wildcard_beats_shorter() {
        let names = ["*.example.com", "a.b.example.com", "*.b.example.com"];
        let best = |host| best(&names, |name| name, host).copied();
        assert_eq!(best("a.b.example.com"), Some("a.b.example.com"));
        assert_eq!(best("c.b.example.com"), Some("*.b.example.com"));
        assert_eq!(best("c.example.com"), Some("*.example.com"));
        assert_eq!(best("example.org"), None);
    }
}
