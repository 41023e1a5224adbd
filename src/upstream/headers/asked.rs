//! What the head of a client asks of the exchange: trailers, an end.

use std::time::Duration;

use http::HeaderMap;
use http::header;

/// Whether the client wants trailers.
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::TE).iter();
    let mut codings = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// How long a gRPC client waits for all of an exchange. What is not written as gRPC writes it says nothing.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = is_number.then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;
    use http::HeaderValue;

    use super::grpc_timeout;
    use super::takes_trailers;

    #[test]
    fn a_grpc_deadline_is_written_as_grpc_writes_it() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("10S", Some(Duration::from_secs(10))),
            ("0S", Some(Duration::ZERO)),
            ("150m", Some(Duration::from_millis(150))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("10", None),
            ("10s", None),
            ("+1S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1 S", None),
        ];
        for (text, span) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_str(text).unwrap());
            assert_eq!(grpc_timeout(&headers), span, "{text}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn trailers_are_wanted_when_a_te_line_says_so() {
        let cases: [(&[&str], bool); 5] = [
            (&[], false),
            (&["trailers"], true),
            (&["gzip"], false),
            (&["gzip, Trailers"], true),
            (&["gzip", " trailers "], true),
        ];
        for (lines, wanted) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("te", HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(takes_trailers(&headers), wanted, "{lines:?}");
        }
    }
}
