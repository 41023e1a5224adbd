//! The fields of an answer on their way from the backend's connection to the client's, line by line, where nothing about them has to be looked up.
//!
//! What goes and what stays is what `answer::clean` makes of the same fields in a map.

use http::HeaderName;
use http::HeaderValue;
use http::header;

use crate::config::Auth;
use crate::model::fields::Fields;
use crate::upstream::headers::Identity;
use crate::upstream::headers::caches::directs_one_cache;
use crate::upstream::headers::caches::says;
use crate::upstream::headers::names::is_hop_by_hop;
use crate::upstream::http1::Kind;
use crate::upstream::http1::Lines;

/// How the fields of one answer are passed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passing {
    /// The request had a key.
    has_key: bool,
    /// The backend says nothing of who may keep the answer.
    is_private: bool,
}

impl Passing {
    /// `None` where a map is to be made of them. `keys` says where keys are taken from, if this request had one.
    pub(crate) fn of(lines: &Lines, keys: Option<&Auth>) -> Option<Passing> {
        let plain = |option: &[u8]| {
            let option = option.trim_ascii();
            option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
        };
        let mut connection = lines.values(Kind::Connection);
        let nominates = connection.any(|line| !line.split(|byte| *byte == b',').all(plain));
        if nominates || lines.has(Kind::Odd) {
            return None;
        }
        let has_policy = lines.has(Kind::CachePolicy);
        let is_for_one = || says(lines.values(Kind::CachePolicy), &["private", "no-store"]);
        match keys {
            Some(_) if has_policy && !is_for_one() => None,
            _ => Some(Passing {
                has_key: keys.is_some(),
                is_private: keys.is_some() && !has_policy,
            }),
        }
    }

    /// Writes those that go on behind what `out` holds, but for framing and for what `is_ours`; says whether a date is among them.
    pub(crate) fn write(
        self,
        lines: &Lines,
        identity: &Identity,
        is_ours: impl Fn(&[u8]) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        lines.write(
            |kind, name| self.goes_on(kind, name, identity, &is_ours),
            out,
        );
        if self.is_private {
            out.extend_from_slice(b"cache-control: private\r\n");
        }
        lines.has(Kind::Date)
    }

    /// Puts the same among the fields of an answer, and says the same; `None` where no map takes one.
    pub(crate) fn put(
        self,
        lines: &Lines,
        identity: &Identity,
        is_ours: impl Fn(&[u8]) -> bool,
        fields: &mut Fields<'_>,
    ) -> Option<bool> {
        lines.put(
            |kind, name| self.goes_on(kind, name, identity, &is_ours),
            fields,
        )?;
        if self.is_private {
            fields.keep(&CACHE_CONTROL, &PRIVATE);
        }
        Some(lines.has(Kind::Date))
    }

    fn goes_on(
        self,
        kind: Kind,
        name: &[u8],
        identity: &Identity,
        is_ours: impl Fn(&[u8]) -> bool,
    ) -> bool {
        match kind {
            Kind::Length | Kind::Coding | Kind::Connection => false,
            Kind::Date | Kind::CachePolicy => true,
            Kind::Other | Kind::Usual | Kind::Odd => {
                !(is_hop_by_hop(name)
                    || identity.has(name)
                    || self.has_key && directs_one_cache(name)
                    || is_ours(name))
            }
        }
    }
}

static CACHE_CONTROL: HeaderName = header::CACHE_CONTROL;
static PRIVATE: HeaderValue = HeaderValue::from_static("private");

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::HeaderMap;
    use http::HeaderName;
    use http::Method;
    use http::Response;
    use http::header;
    use proptest::prelude::*;

    use super::Passing;
    use crate::config::Auth;
    use crate::model::fields::Fields;
    use crate::upstream::headers::Identity;
    use crate::upstream::headers::clean;
    use crate::upstream::http1::Limits;
    use crate::upstream::http1::Lines;
    use crate::upstream::http1::take;
    use crate::upstream::tests::config;

    const LIMITS: Limits = Limits {
        head_bytes_max: 1 << 16,
        header_count_max: 100,
    };

    /// What goes on line by line; `None` where it does not.
    fn passed(head: &str, identity: &Identity, keys: Option<&Auth>) -> Option<Vec<String>> {
        let mut lines = Lines::default();
        let mut received = BytesMut::from(head);
        take(&mut received, &mut 0, &Method::GET, &LIMITS, &mut lines).unwrap()?;
        let passing = Passing::of(&lines, keys)?;
        let mut out = Vec::new();
        let is_dated = passing.write(&lines, identity, |_| false, &mut out);
        let text = String::from_utf8(out).unwrap();
        let mut passed: Vec<String> = text.split_terminator("\r\n").map(str::to_owned).collect();
        let has_date = passed.iter().any(|line| line.starts_with("date:"));
        assert_eq!(is_dated, has_date);
        passed.sort_unstable();
        let mut map = HeaderMap::new();
        let mut fields = Fields::over(&mut map, false);
        let is_dated = passing.put(&lines, identity, |_| false, &mut fields);
        assert_eq!(is_dated.unwrap(), has_date);
        fields.rest().settle(&mut map);
        assert_eq!(written(&map), passed, "in a map as in lines");
        Some(passed)
    }

    fn written(fields: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort_unstable();
        lines
    }

    /// What goes on of the same fields in a map, framing aside.
    fn cleaned(head: &str, identity: &Identity, keys: Option<&Auth>) -> Vec<String> {
        let mut lines = Lines::default();
        let mut received = BytesMut::from(head);
        take(&mut received, &mut 0, &Method::GET, &LIMITS, &mut lines).unwrap();
        let mut answer = Response::new(()).into_parts().0;
        let mut fields = HeaderMap::new();
        lines.to_map(&mut fields).unwrap();
        answer.headers = fields;
        clean(&mut answer, identity, keys);
        answer.headers.remove(header::CONTENT_LENGTH);
        written(&answer.headers)
    }

    fn identity() -> Identity {
        let mut rules = config(&[]).headers;
        rules.subject = Some(HeaderName::from_static("x-subject-id"));
        Identity::of(&rules)
    }

    fn line() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "Server",
            "Date",
            "date",
            "Content-Type",
            "ETag",
            "Set-Cookie",
            "Vary",
            "X-Tenant-ID",
            "x_tenant.id",
            "X-Subject_Id",
            "Keep-Alive",
            "keep_alive",
            "Upgrade",
            "TE",
            "Expect",
            "Proxy-Connection",
            "Proxy-Authenticate",
            "HTTP2-Settings",
            "Trailer",
            "Location",
            "Connection",
            "Close",
            "X-Hop",
            "Cache-Control",
            "X-Accel-Expires",
            "Surrogate-Control",
            "CDN-Cache-Control",
            "X-RateLimit-Limit",
            "X-Request-Id",
            "x",
        ]);
        let value = prop::sample::select(vec![
            "",
            "1",
            "keep-alive",
            "close",
            "Close , keep-alive",
            "keep-alive, x-hop",
            "private",
            "no-store, max-age=1",
            "max-age=60",
            "public",
            "private=\"x\"",
            "a b",
            "/there",
            "x-sum",
        ]);
        let before = prop::sample::select(vec![" ", " ", " ", "", "  ", "\t"]);
        let after = prop::sample::select(vec!["", "", "", " ", "\t"]);
        let parts = (name, before, value, after);
        parts.prop_map(|(name, before, value, after)| format!("{name}:{before}{value}{after}\r\n"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// S11, S43, FM5: line by line goes what goes by map, or it does not go line by line.
        #[test]
        fn line_by_line_goes_what_a_map_lets_go(
            fields in prop::collection::vec(line(), 0..8),
            has_key in any::<bool>(),
        ) {
            let auth = config(&[]).auth;
            let (identity, keys) = (identity(), has_key.then_some(&auth));
            let lines = fields.concat();
            let head = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 1\r\n\r\n");
            if let Some(passed) = passed(&head, &identity, keys) {
                prop_assert_eq!(passed, cleaned(&head, &identity, keys));
            }
        }
    }

    #[test]
    fn an_everyday_answer_goes_line_by_line() {
        let auth = config(&[]).auth;
        let head = "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 29 Nov 2026 00:00:00 GMT\r\nContent-Type: text/html\r\n\
                    Content-Length: 7\r\nConnection: keep-alive\r\nX-Tenant-ID: acme\r\nEmpty:\r\n\r\n";
        let expected = [
            "cache-control: private",
            "content-type: text/html",
            "date: Sun, 29 Nov 2026 00:00:00 GMT",
            "empty: ",
            "server: nginx",
        ];
        assert_eq!(passed(head, &identity(), Some(&auth)).unwrap(), expected);
    }

    #[test]
    fn what_has_to_be_looked_up_does_not() {
        let auth = config(&[]).auth;
        for line in [
            "Connection: x-hop",
            "Trailer: x",
            "Location: /x",
            "Close: 1",
            "Cache-Control: max-age=60",
            "Cache-Control: public",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 1\r\n\r\n");
            assert_eq!(passed(&head, &identity(), Some(&auth)), None, "{line}");
        }
    }
}
