//! Origins of web pages as browsers write them, `https://app.example`; compared byte for byte.

/// Whether `list` lets this origin in: it stands there, or the list holds `*`. An opaque origin (`null`) passes only `*`.
#[must_use]
pub fn allowed(list: &[impl AsRef<str>], origin: &[u8]) -> bool {
    list.iter().any(|entry| {
        let entry = entry.as_ref();
        entry == "*" || entry.as_bytes() == origin
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_listed_is_let_in() {
        let list = ["https://app.example", "http://localhost:3000"];
        assert!(allowed(&list, b"https://app.example"));
        for origin in [
            "https://app.example.evil",
            "https://evil",
            "http://app.example",
            "https://APP.example",
            "null",
            "*",
            "",
        ] {
            assert!(!allowed(&list, origin.as_bytes()), "{origin}");
        }
        assert!(allowed(&["*"], b"null"));
        assert!(!allowed(&[""; 0], b"https://app.example"));
    }
}
