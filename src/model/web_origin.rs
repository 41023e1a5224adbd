//! Origins of web pages as browsers write them, `https://app.example`; compared byte for byte.

/// Whether `list` lets this origin in: it stands there, or the list holds `*`. An opaque origin (`null`) passes only `*`.
#[must_use]
pub fn allowed(list: &[impl AsRef<str>], origin: &[u8]) -> bool {
    list.iter().any(|entry| {
        let entry = entry.as_ref();
        entry == "*" || entry.as_bytes() == origin
    })
}

/// Whether a text is an origin in the one form that browsers send (RFC 6454 section 6.2): scheme and host in lower case, a port only where it is
/// not the scheme's own, no path.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_[]:".contains(&byte);
    let port_is_needed = |port: &str| {
        let own = match scheme {
            "https" => 443,
            "http" => 80,
            _ => 0,
        };
        let number = port.parse::<u16>();
        number.is_ok_and(|number| number != own && number.to_string() == port)
    };
    let scheme_is_plain = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte)
        });
    text.len() <= LENGTH_MAX
        && scheme_is_plain
        && !host.is_empty()
        && host.bytes().all(plain)
        && port.is_none_or(port_is_needed)
}

/// Bytes: a scheme, a host name and a port.
const LENGTH_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        let good = [
            "https://app.example",
            "http://localhost:3000",
            "https://app.example:8443",
            "http://[::1]:3000",
            "http://[::1]",
            "chrome-extension://abcdef",
        ];
        for text in good {
            assert!(is_valid(text), "{text}");
        }
        let bad = [
            "",
            "*",
            "null",
            "app.example",
            "//app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "HTTPS://app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:",
            "https://app.example:08443",
            "https://app.example:99999",
            "https://user@app.example",
            "https://*.app.example",
            "https://app.example?x",
        ];
        for text in bad {
            assert!(!is_valid(text), "{text}");
        }
    }

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
