//! The head of an answer, and its trailers, made fit for the client.

use http::HeaderMap;
use http::HeaderName;
use http::Version;
use http::header;
use http::response;

use crate::config::Auth;
use crate::config::Headers;
use crate::refusal::UpstreamFailure;
use crate::upstream::headers::caches::directs_one_cache;
use crate::upstream::headers::caches::keep_for_one_caller;
use crate::upstream::headers::framing::framed_once;
use crate::upstream::headers::names::is_hop_by_hop;
use crate::upstream::headers::names::nominated;
use crate::upstream::headers::names::remove_all;
use crate::upstream::headers::names::same_name;

/// The headers by which a backend learns who calls. They are between the gateway and the backend, and no answer carries them on.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    tenant: HeaderName,
    subject: Option<HeaderName>,
}

impl Identity {
    pub(crate) fn of(rules: &Headers) -> Identity {
        Identity {
            tenant: rules.tenant.clone(),
            subject: rules.subject.clone(),
        }
    }

    /// Whether this is one of them in any spelling.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        let is = |own: &HeaderName| same_name(name, own.as_str().as_bytes());
        is(&self.tenant) || self.subject.as_ref().is_some_and(is)
    }
}

/// Makes the head of an answer fit for the client: no hop-by-hop header and no tenant or subject header in any spelling leaves the
/// gateway. `keys` says where keys are taken from, if this request had one: then no shared cache may give the answer to another (FM5).
pub(crate) fn clean(head: &mut response::Parts, identity: &Identity, keys: Option<&Auth>) {
    let headers = &mut head.headers;
    let mut doomed = nominated(headers);
    for name in headers.keys() {
        // `Trailer` stays: a client of HTTP/1.1 gets those trailers only that it names.
        let text = name.as_str().as_bytes();
        let hop_by_hop = is_hop_by_hop(text) && name != header::TRAILER;
        let directs_caches = keys.is_some() && directs_one_cache(text);
        if hop_by_hop || directs_caches || identity.has(text) {
            doomed.push(name.clone());
        }
    }
    remove_all(headers, &doomed);
    // RFC 9110 section 8.6: a 204 has no Content-Length.
    if head.status == http::StatusCode::NO_CONTENT {
        headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(auth) = keys {
        keep_for_one_caller(headers, auth);
    }
    // What else was read with the head is the backend's connection's; whoever writes it knows the version that the client speaks.
    head.version = Version::HTTP_11;
    head.extensions.clear();
}

/// Takes out of an answer's trailers what may not stand in its head either (S11, S43).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap, identity: &Identity) {
    let doomed: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let text = name.as_str().as_bytes();
            is_hop_by_hop(text)
                || identity.has(text)
                || matches!(**name, header::CONTENT_LENGTH | header::HOST)
        })
        .cloned()
        .collect();
    remove_all(trailers, &doomed);
}

/// What makes an answer head unfit to be passed on, although hyper could parse it (S33, S42).
pub(crate) fn fault(head: &response::Parts) -> Option<UpstreamFailure> {
    let status = head.status.as_u16();
    if !(200..600).contains(&status) || !framed_once(&head.headers) {
        return Some(UpstreamFailure::ProtocolError);
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::HeaderName;
    use http::HeaderValue;
    use http::Response;
    use http::StatusCode;

    use super::Identity;
    use super::clean;
    use super::clean_trailers;
    use super::fault;
    use crate::refusal::UpstreamFailure;

    fn identity() -> Identity {
        Identity {
            tenant: HeaderName::from_static("x-tenant-id"),
            subject: Some(HeaderName::from_static("x-subject-id")),
        }
    }

    fn auth() -> crate::config::Auth {
        crate::config::Auth {
            bearer: true,
            failures: None,
            x_api_key: true,
            realm: "api".to_owned(),
            pass_foreign_authorization: false,
            query_parameter: None,
            credentials: crate::model::credential::Kinds::KEYS,
            refuse_secret_keys_in_browsers: false,
        }
    }

    #[test]
    fn answers_lose_what_speaks_of_the_backends_connection_and_of_the_caller() {
        let response = Response::builder()
            .header("connection", "keep-alive, x-hop")
            .header("connection", "content-length")
            .header("keep-alive", "timeout=5")
            .header("transfer-encoding", "chunked")
            .header("upgrade", "h2c")
            .header("x-hop", "1")
            .header("x-tenant-id", "acme")
            .header("x_tenant.id", "acme")
            .header("x-subject-id", "user-7")
            .header("X.Subject_Id", "user-7")
            .header("server", "legacy")
            .header("x-powered-by", "old")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("trailer", "x-sum")
            .header("content-length", "5");
        let mut head = response.body(()).unwrap().into_parts().0;
        clean(&mut head, &identity(), Some(&auth()));
        let mut names: Vec<&str> = head.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let expected = [
            "cache-control",
            "content-length",
            "server",
            "set-cookie",
            "set-cookie",
            "trailer",
            "x-powered-by",
        ];
        assert_eq!(names, expected);
        assert_eq!(head.headers["cache-control"], "private");
    }

    // FM5: what the backend left open is private; what it called shared is kept apart by key; public routes are left alone.
    #[test]
    fn fm5_no_answer_to_a_key_is_shared_by_caches() {
        let both = "Authorization, X-API-Key";
        let cases: [(&[&str], &str, &str); 14] = [
            (&[], "private", ""),
            (&[""], "private", ""),
            (&["max-age=60"], "max-age=60, private", ""),
            (
                &["max-age=60", "must-revalidate"],
                "max-age=60, must-revalidate, private",
                "",
            ),
            (&["no-cache"], "no-cache, private", ""),
            (&["private=\"x-name\""], "private=\"x-name\", private", ""),
            (&["private"], "private", ""),
            (&["max-age=1, Private"], "max-age=1, Private", ""),
            (&["no-store"], "no-store", ""),
            (&["private, public"], "private, public", ""),
            (&["public"], "public", both),
            (&["PUBLIC, max-age=60"], "PUBLIC, max-age=60", both),
            (&["s-maxage=60"], "s-maxage=60", both),
            (
                &["max-age=5", "s-maxage = 60"],
                "max-age=5|s-maxage = 60",
                both,
            ),
        ];
        for (lines, policy, vary) in cases {
            let mut response = Response::builder()
                .header("x-accel-expires", "600")
                .header("surrogate-control", "max-age=600")
                .header("cdn-cache-control", "max-age=600")
                .header("cloudflare-cdn-cache-control", "public");
            for line in lines {
                response = response.header("cache-control", *line);
            }
            let came = response.body(()).unwrap().into_parts().0;
            let all = |head: &http::response::Parts, name: &str| {
                let lines = head.headers.get_all(name).iter();
                let lines: Vec<&str> = lines.map(|line| line.to_str().unwrap()).collect();
                lines.join("|")
            };
            let mut of_key = came.clone();
            clean(&mut of_key, &identity(), Some(&auth()));
            assert_eq!(all(&of_key, "cache-control"), policy, "{lines:?}");
            assert_eq!(all(&of_key, "vary"), vary, "{lines:?}");
            let more = of_key.headers.len() - lines.len().max(1).min(policy.split('|').count());
            assert_eq!(more, usize::from(!vary.is_empty()), "{lines:?}");
            let mut of_nobody = came.clone();
            clean(&mut of_nobody, &identity(), None);
            assert_eq!(of_nobody.headers, came.headers, "{lines:?}");
        }
    }

    #[test]
    fn a_204_has_no_length() {
        let response = Response::builder()
            .status(204)
            .header("content-length", "0");
        let mut head = response.body(()).unwrap().into_parts().0;
        clean(&mut head, &identity(), None);
        assert!(head.headers.is_empty());
    }

    #[test]
    fn statuses_outside_the_protocol_are_faults() {
        let cases = [
            (100, Some(UpstreamFailure::ProtocolError)),
            (199, Some(UpstreamFailure::ProtocolError)),
            (200, None),
            (304, None),
            (599, None),
            (600, Some(UpstreamFailure::ProtocolError)),
            (999, Some(UpstreamFailure::ProtocolError)),
        ];
        for (status, expected) in cases {
            let mut head = Response::new(()).into_parts().0;
            head.status = StatusCode::from_u16(status).unwrap();
            assert_eq!(fault(&head), expected, "{status}");
        }
    }

    #[test]
    fn trailers_never_carry_framing_or_the_caller() {
        let mut trailers = HeaderMap::new();
        for name in [
            "x-tenant-id",
            "x_tenant_id",
            "x-subject-id",
            "x_subject_id",
            "transfer-encoding",
            "content-length",
            "host",
            "trailer",
            "connection",
            "grpc-status",
        ] {
            trailers.append(name, HeaderValue::from_static("0"));
        }
        clean_trailers(&mut trailers, &identity());
        let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["grpc-status"]);
    }
}
