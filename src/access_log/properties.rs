//! What must hold of the line of any request; proptest and fuzz target call it.

use std::net::IpAddr;

use http::HeaderValue;

use crate::access_log::Entry;
use crate::access_log::line::PercentDecoded;
use crate::access_log::line::Stamp;
use crate::access_log::line::TEXT_BYTES_MAX;
use crate::access_log::line::write_entry;
use crate::model::key::KeyId;
use crate::model::request_id::OWN_BYTES;
use crate::model::request_id::RequestId;
use crate::model::tenant::TenantId;

/// S27, S26: for any bytes one line, one JSON object, plain ASCII, the texts as they came, and no key in what a client chose. Fuzz target and
/// proptest call this.
pub(crate) fn any_entry_is_one_json_line(data: &[u8]) {
    const MEMBERS: [&str; 7] = [
        "http.request.method",
        "server.address",
        "url.path",
        "http.route",
        "upstream",
        "upstream.address",
        "detail",
    ];
    let texts: Vec<String> = data
        .split(|byte| *byte == 0x1e)
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .collect();
    let given = |index: usize| texts.get(index).map_or("", String::as_str);
    // Of any text what these types make of it.
    let id = HeaderValue::from_bytes(given(7).as_bytes()).ok();
    let id = id.and_then(|text| RequestId::given(&text));
    let id = id.unwrap_or(RequestId::own([b'-'; OWN_BYTES]));
    let tenant = TenantId::new(given(8)).ok();
    let key = given(9).as_bytes().first_chunk().copied().map(KeyId);
    let entry = Entry {
        unix_micros: data.len() as u64 * 1_234_567_890_123,
        method: given(0),
        host: given(1),
        path: given(2),
        request_id: &id,
        client: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        protocol: "1.1",
        status: 200,
        decision: "refused",
        reason: "unknown_key",
        would_refuse: "",
        route: given(3),
        tenant: tenant.as_ref(),
        token: None,
        key_id: key.as_ref(),
        upstream: given(4),
        server: given(5),
        detail: given(6),
        request_bytes: u64::MAX,
        response_bytes: 0,
        total_micros: 0,
        upstream_micros: 0,
        end: "complete",
    };
    let mut line = Vec::new();
    write_entry(&mut line, &mut Stamp::new(), &entry);
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')));
    let read: serde_json::Value = serde_json::from_slice(&line).expect("a line is JSON");
    assert_eq!(read["http.request.body.size"], u64::MAX);
    for (index, name) in MEMBERS.into_iter().enumerate() {
        let (came, written) = (given(index), read[name].as_str());
        let masked = index < 3 && written == Some("[redacted]") && came != "[redacted]";
        let as_it_came = match written {
            None => came.is_empty(),
            Some(text) => {
                came.starts_with(text) && (came == text || text.len() + 4 > TEXT_BYTES_MAX)
            }
        };
        assert!(masked || as_it_came, "{name}: {came:?} became {written:?}");
        if index < 3 && !masked {
            let shown = written.unwrap_or_default().to_owned();
            assert!(!looks_like_key(&shown), "{shown:?}");
        }
    }
}

/// Found another way than the mask finds it.
fn looks_like_key(shown: &str) -> bool {
    let decode = |text: &[u8]| -> Vec<u8> { PercentDecoded(text.iter().copied()).collect() };
    let once = decode(shown.as_bytes());
    let twice = decode(&once);
    [shown.as_bytes(), &once, &twice].into_iter().any(|text| {
        let words = text.split(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
        let mut parts = words.flat_map(|word| word.split(|byte| *byte == b'_').skip(1));
        parts.any(|part| part.len() >= 30)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_024))]

        #[test]
        fn s27_s26_any_entry_is_one_line_and_holds_no_key(
            texts in prop::collection::vec("(/|%5[fF]|_|%255f|[\"\\\\]|[é€😀\u{85}]|\r|\n|\u{1b}|\u{202e}|fp_live_[0-9A-Za-z]{26,36}|[a-z%]{0,40}){0,6}", 0..15),
            any in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            any_entry_is_one_json_line(texts.join("\u{1e}").as_bytes());
            any_entry_is_one_json_line(&any);
        }
    }
}
