//! Which media types are JSON, by their names alone; and whether a text is UTF-8, which JSON between systems must be.

use crate::guard::Form;

/// Types whose bodies are JSON texts, one or several, beside all that end in `+json`.
const JSON: [&str; 9] = [
    "application/json",
    "text/json",
    "application/x-json",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json-seq",
    "application/jsonlines",
];

/// What a body of this `Content-Type` is to be read as; `None` is not JSON. An empty type is not stated.
#[must_use]
pub fn form(content_type: &[u8]) -> Option<Form> {
    let media = essence(content_type);
    if media.is_empty() {
        return Some(Form::Unstated);
    }
    if media == "text/event-stream" {
        return Some(Form::Events);
    }
    let is_json =
        JSON.contains(&media.as_str()) || media.ends_with("+json") || media.ends_with("+json-seq");
    is_json.then_some(Form::Json)
}

/// Whether a body of this type is one JSON text.
#[must_use]
pub fn is_one_text(content_type: &[u8]) -> bool {
    let media = essence(content_type);
    matches!(
        media.as_str(),
        "application/json" | "text/json" | "application/x-json"
    ) || media.ends_with("+json")
}

/// Whether a body of this type is UTF-8 to everybody who reads the type: some decoders believe a `charset`, and in `utf-7` or `iso-2022-jp` the same
/// bytes say something else.
#[must_use]
pub fn is_utf8(content_type: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    let mut parameters = text.split(';').skip(1);
    parameters.all(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match parameter.contains("charset") {
            false => true,
            true => {
                name.trim() == "charset"
                    && matches!(value.trim(), "utf-8" | "utf8" | "\"utf-8\"" | "\"utf8\"")
            }
        }
    })
}

/// Type and subtype in lower case, without parameters.
fn essence(content_type: &[u8]) -> String {
    let media = content_type.split(|byte| *byte == b';').next();
    String::from_utf8_lossy(media.unwrap_or_default().trim_ascii()).to_ascii_lowercase()
}

/// Checks a text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    /// The beginning of a character whose rest has not come.
    begun: Vec<u8>,
}

impl Utf8 {
    /// Whether the text is UTF-8 so far.
    pub fn takes(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while !self.begun.is_empty() {
            let Some((&byte, after)) = rest.split_first() else {
                return true;
            };
            rest = after;
            self.begun.push(byte);
            match std::str::from_utf8(&self.begun) {
                Ok(_) => self.begun.clear(),
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => true,
            Err(error) => {
                self.begun.extend_from_slice(&rest[error.valid_up_to()..]);
                error.error_len().is_none()
            }
        }
    }

    /// Whether it may end here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_apart_by_their_names() {
        for (content_type, expected) in [
            ("application/json", Some(Form::Json)),
            ("Application/JSON; charset=utf-8", Some(Form::Json)),
            ("application/problem+json", Some(Form::Json)),
            ("application/x-ndjson", Some(Form::Json)),
            ("text/event-stream;x=y", Some(Form::Events)),
            ("", Some(Form::Unstated)),
            ("text/html", None),
            ("application/jsonp", None),
        ] {
            assert_eq!(form(content_type.as_bytes()), expected, "{content_type}");
        }
        assert!(
            is_one_text(b"application/merge-patch+json") && !is_one_text(b"application/x-ndjson")
        );
        assert!(!is_one_text(b""));
    }

    #[test]
    fn a_charset_is_utf_8_or_is_not_read() {
        for utf8 in [
            "application/json",
            "application/json;",
            "application/json; charset=utf-8",
            "application/json;x=y; CharSet = \"UTF-8\"",
        ] {
            assert!(is_utf8(utf8.as_bytes()), "{utf8}");
        }
        for other in [
            "application/json; charset=utf-7",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json; charset=\"utf-\\7\"",
            "application/json; charset*=utf-8''utf-7",
            "application/json; x=\"a;charset=utf-7\"",
            "application/json; charset",
            "application/json; charset=",
        ] {
            assert!(!is_utf8(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn characters_may_be_cut_anywhere() {
        let text = "aä€😀".as_bytes();
        for size in 1..5 {
            let mut check = Utf8::default();
            assert!(text.chunks(size).all(|piece| check.takes(piece)) && check.is_whole());
        }
        for wrong in [&b"a\xff"[..], b"\xc3(", b"\xed\xa0\x80", b"\xc0\xaf"] {
            let mut check = Utf8::default();
            assert!(
                !wrong.chunks(1).all(|piece| check.takes(piece)),
                "{wrong:?}"
            );
        }
        let mut check = Utf8::default();
        assert!(check.takes(b"\xe2\x82") && !check.is_whole());
    }
}
