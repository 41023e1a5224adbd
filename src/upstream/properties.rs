//! What must hold of every head that leaves for a backend, whatever head came in: fuzz targets and proptests call the same functions.

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::Version;
use http::header;
use http::request::Parts;

use crate::alerts::Alerts;
use crate::clock::Mono;
use crate::clock::Now;
use crate::clock::Wall;
use crate::config;
use crate::gate;
use crate::gate::Admission;
use crate::gate::Means;
use crate::gate::Peer;
use crate::gate::Via;
use crate::model::key_text;
use crate::model::properties::PATTERNS;
use crate::model::properties::assert_backends_agree;
use crate::model::request_id::RequestId;
use crate::model::route::Access;
use crate::quota::Quota;
use crate::snapshot::Snapshot;
use crate::snapshot::build;
use crate::store::Contents;
use crate::token::Patience;
use crate::token::Tokens;
use crate::upstream::headers;
use crate::upstream::headers::Own;

/// `$` in a line of input stands for it, so that few bytes get through the gate.
const KEY_RANDOM: &[u8; key_text::RANDOM_LENGTH] = b"zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ";

/// Names that speak of one connection or that only the gateway may say, as a backend that folds names reads them.
const NEVER_FROM_CLIENTS: [&str; 15] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "proxy-authorization",
    "http2-settings",
    "x-api-key",
    "x-real-ip",
    "forwarded",
    "proxy",
    "x-original-url",
];

/// The first byte chooses the configuration and the version; then come lines: `METHOD TARGET`, and `name: value` for each header. If the
/// gate lets the request pass, what leaves for the backend is its tenant's, in one spelling, on the path that was decided on (CHECK8, CHECK14).
pub(crate) fn requests(data: &[u8]) {
    let (flags, data) = data.split_first().unwrap_or((&0, &[]));
    let snapshot = &sites()[usize::from(flags & 3)];
    let version =
        [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][usize::from(flags >> 2) % 3];
    let Some(mut head) = read(data, version) else {
        return;
    };
    let came = head.headers.clone();
    let peer = Peer {
        address: ([192, 0, 2, 7], 50_000).into(),
        local: ([198, 51, 100, 1], 8443).into(),
        via: Via::Direct,
    };
    let now = Now {
        mono: Mono(1_000_000),
        wall: Wall(1_700_000_000_000_000),
    };
    let means = Means {
        quota: &Quota::new(),
        tokens: &Tokens::new(),
        alerts: &Alerts::queue().0,
        patience: Patience::Fresh,
        charged: None,
        early: None,
    };
    let Ok(admission) = gate::admit(snapshot, &means, now, &peer, &mut head) else {
        return;
    };
    // The key's one scope is the one of /any: whatever is spelled how, it never stands at /admin.
    let public = admission.route().access == Access::Public;
    assert_ne!(admission.route().path, "/admin/{*rest}");
    assert_eq!(admission.principal().is_none(), public);
    let id = RequestId::given(&HeaderValue::from_static("ours")).expect("an id");
    let own = Own::new(&peer, &id, head.version);
    headers::clear(&mut head, &admission);
    own.insert(&mut head.headers, &admission);
    assert!(head.uri.authority().is_none() && head.uri.scheme().is_none());
    assert_eq!(head.uri.path_and_query(), Some(admission.target()));
    assert_backends_agree(head.uri.path(), &admission.route().path);
    assert_is_clean(&head, &came, &admission);
}

fn assert_is_clean(head: &Parts, came: &HeaderMap, admission: &Admission) {
    let config = &admission.snapshot().config;
    let tenants: Vec<&HeaderValue> = folded_to(&head.headers, config.headers.tenant.as_str());
    match admission.principal() {
        Some(_) => assert_eq!(tenants, ["acme"]),
        None => assert!(tenants.is_empty(), "{tenants:?}"),
    }
    assert_eq!(folded_to(&head.headers, "x-request-id"), ["ours"]);
    assert_eq!(folded_to(&head.headers, "x-forwarded-for"), ["192.0.2.7"]);
    for name in NEVER_FROM_CLIENTS {
        assert!(folded_to(&head.headers, name).is_empty(), "{name}");
    }
    for line in folded_to(&head.headers, "authorization") {
        let bytes = line.as_bytes();
        let is_bearer = bytes.len() >= 6 && bytes[..6].eq_ignore_ascii_case(b"bearer");
        assert!(config.auth.pass_foreign_authorization && !is_bearer);
    }
    assert!(
        folded_to(&head.headers, "content-length").len()
            <= came.get_all("content-length").iter().count()
    );
    for name in head.headers.keys() {
        let kept = config.headers.keep_underscore || !name.as_str().contains('_');
        assert!(kept, "{name}");
        // S8: what a `Connection` line names goes with it, unless we set it ourselves.
        let ours = name.as_str().starts_with("x-forwarded-")
            || name == config.headers.tenant
            || name == "x-request-id"
            || name == header::VIA
            || name == header::HOST
            || name == header::CONTENT_LENGTH;
        assert!(ours || !is_nominated(came, name), "{name} was nominated");
    }
}

/// The first line is the status, the rest are headers of a backend's answer: what goes on to the client speaks of no connection and of no
/// caller in any spelling (S8, FM8), and an answer that is passed on has one framing (S33).
pub(crate) fn answers(data: &[u8]) {
    let config = &sites()[0].config;
    let identity = headers::Identity::of(&config.headers);
    let mut lines = data.split(|byte| *byte == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let mut head = Response::new(()).into_parts().0;
    head.status = match status.and_then(|text| text.parse().ok()) {
        Some(status) => status,
        None => return,
    };
    append_lines(&mut head.headers, lines);
    let came = head.headers.clone();
    let fine = headers::fault(&head).is_none();
    let mut trailers = head.headers.clone();
    headers::clean(&mut head, &identity, Some(&config.auth));
    headers::clean_trailers(&mut trailers, &identity);
    for headers in [&head.headers, &trailers] {
        for name in [
            "connection",
            "keep-alive",
            "transfer-encoding",
            "upgrade",
            "x-tenant-id",
        ] {
            assert!(folded_to(headers, name).is_empty(), "{name}");
        }
    }
    assert!(head.headers.contains_key(header::CACHE_CONTROL));
    assert!(!trailers.contains_key(header::CONTENT_LENGTH) && !trailers.contains_key(header::HOST));
    for name in head.headers.keys() {
        let framing =
            name == header::CONTENT_LENGTH || name == header::HOST || name == header::CACHE_CONTROL;
        assert!(
            framing || !is_nominated(&came, name),
            "{name} was nominated"
        );
    }
    if fine {
        let lengths: Vec<_> = head
            .headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .collect();
        assert!(lengths.len() <= 1);
        assert!(
            lengths
                .iter()
                .all(|length| length.as_bytes().iter().all(u8::is_ascii_digit))
        );
    }
}

/// All values of names that a backend may take for this one.
/// A body whose references are looked up (FM10).
pub(crate) fn references(data: &[u8]) {
    crate::upstream::references::properties::assert_found(data);
}

fn folded_to<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a HeaderValue> {
    let fold = |name: &str| -> Vec<u8> {
        let plain = |byte: u8| {
            if byte.is_ascii_alphanumeric() {
                byte.to_ascii_lowercase()
            } else {
                b'-'
            }
        };
        name.bytes().map(plain).collect()
    };
    headers
        .iter()
        .filter(|(found, _)| fold(found.as_str()) == fold(name))
        .map(|(_, value)| value)
        .collect()
}

fn is_nominated(came: &HeaderMap, name: &HeaderName) -> bool {
    came.get_all(header::CONNECTION).iter().any(|line| {
        let mut options = line.as_bytes().split(|byte| *byte == b',');
        options.any(|option| {
            option
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_str().as_bytes())
        })
    })
}

fn read(data: &[u8], version: Version) -> Option<Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::new(());
    *request.method_mut() = http::Method::from_bytes(&first[..space]).ok()?;
    *request.uri_mut() = with_key(&first[space + 1..]).as_slice().try_into().ok()?;
    *request.version_mut() = version;
    append_lines(request.headers_mut(), lines);
    Some(request.into_parts().0)
}

fn append_lines<'a>(headers: &mut HeaderMap, lines: impl Iterator<Item = &'a [u8]>) {
    for line in lines.take(60) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = with_key(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(&value),
        ) {
            headers.append(name, value);
        }
    }
}

fn with_key(text: &[u8]) -> Vec<u8> {
    let key = key_text::make("fp", "live", KEY_RANDOM).into_bytes();
    let mut out = Vec::new();
    for byte in text {
        match byte {
            b'$' => out.extend_from_slice(&key),
            byte => out.push(*byte),
        }
    }
    out
}

/// One view for each of: underscores dropped or kept; keys in the query and foreign schemes passed on, or not.
fn sites() -> &'static [Arc<Snapshot>; 4] {
    static SITES: OnceLock<[Arc<Snapshot>; 4]> = OnceLock::new();
    SITES.get_or_init(|| std::array::from_fn(|number| site(number & 1 != 0, number & 2 != 0)))
}

fn site(keep_underscores: bool, lenient: bool) -> Arc<Snapshot> {
    let key = key_text::make("fp", "live", KEY_RANDOM);
    let digest = key_text::digest_of(key.as_bytes());
    let hex: String = digest.0.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!(
        r#"
        [tls]
        certificate = "c"
        private_key = "k"
        [auth]
        query_parameter = "{}"
        foreign_authorization = "{}"
        [tenant_header]
        name = "X-Tenant-ID"
        [headers]
        underscore_headers = "{}"
        [plans.free]
        quota = "unlimited"
        burst = "unlimited"
        scopes = ["*"]
        [[tenants]]
        id = "acme"
        plan = "free"
        [[keys]]
        digest = "sha256:{hex}"
        tenant = "acme"
        name = "the one key"
        scopes = ["any"]
        [upstreams.legacy]
        servers = ["http://127.0.0.1:1"]
        "#,
        if lenient { "api_key" } else { "" },
        if lenient { "pass" } else { "refuse" },
        if keep_underscores { "keep" } else { "drop" },
    );
    for pattern in PATTERNS {
        let access = match pattern {
            "/admin/{*rest}" => "scope = \"admin\"",
            "/public/{*rest}" => "access = \"public\"",
            "/" | "/jobs:run" => "access = \"any-key\"",
            _ => "scope = \"any\"",
        };
        text.push_str(&format!(
            "[[routes]]\npath = \"{pattern}\"\n{access}\nupstream = \"legacy\"\n"
        ));
    }
    let loaded = config::parse(&text, Path::new("gateway.toml"));
    let loaded = loaded.unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let built = build::build(Arc::new(loaded.config), &Contents::default(), 1);
    Arc::new(built.expect("this configuration has a view").snapshot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/",
            "/",
            "admin",
            "any",
            "public",
            "x",
            "..",
            ".",
            "%2e",
            "%2f",
            "%5c",
            ";",
            "//",
            "\\",
            "%00",
            "jobs:run",
            "jobs%3Arun",
            "%61ny",
            "caf%C3%A9",
            "secret",
            "#",
        ]);
        let start = prop::sample::select(vec![
            "/any/",
            "/public/",
            "/",
            "/any/x/secret",
            "https://h/any/",
            "http://u@h/public/",
        ]);
        let query = prop::sample::select(vec![
            "",
            "?a=1&b=%2f",
            "?api_key=$",
            "?x&api%5Fkey=$",
            "?api_key=$&api_key=$",
        ]);
        (start, prop::collection::vec(piece, 0..5), query)
            .prop_map(|(start, pieces, query)| format!("{start}{}{query}", pieces.concat()))
    }

    fn line() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            "[xX][-_.~!][tT][eE][nN][aA][nN][tT][-_.~!][iI][dD]",
            prop::sample::select(vec![
                "Authorization",
                "X-API-Key",
                "Connection",
                "Connection",
                "Upgrade",
                "TE",
                "Transfer-Encoding",
                "Transfer_Encoding",
                "Content-Length",
                "Keep-Alive",
                "X-Forwarded-For",
                "X_Forwarded_For",
                "X-Request-Id",
                "x.request.id",
                "Cookie",
                "Via",
                "Proxy",
                "X-Real-IP",
                "Forwarded",
                "X-Hop",
                "Trailer",
                "Expect",
            ])
            .prop_map(str::to_owned),
            "[a-zA-Z_.!-]{1,14}",
        ];
        let value = prop_oneof![
            prop::sample::select(vec![
                "Bearer $",
                "$",
                "Basic x",
                "bearer x",
                "x-tenant-id",
                "X-Tenant-ID, close",
                "x-hop",
                "host, content-length",
                "chunked",
                "5",
                "via, cookie",
            ])
            .prop_map(str::to_owned),
            "[ -~]{0,12}",
        ];
        (name, value).prop_map(|(name, value)| format!("{name}: {value}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn check8_whatever_comes_one_tenant_leaves_on_the_path_that_was_decided_on(
            flags in 0_u8..12,
            method in "GET|POST|get|HEAD",
            target in target(),
            authenticated in prop::bool::weighted(0.8),
            lines in prop::collection::vec(line(), 0..8),
        ) {
            let credential = if authenticated { "Authorization: Bearer $\n" } else { "" };
            let text = format!("{method} {target}\nHost: h\n{credential}{}", lines.join("\n"));
            requests(&[&[flags], text.as_bytes()].concat());
        }

        #[test]
        fn s8_s33_an_answer_speaks_of_no_connection_and_no_caller(
            status in 100_u16..700,
            lines in prop::collection::vec(line(), 0..8),
        ) {
            answers(format!("{status}\n{}", lines.join("\n")).as_bytes());
        }
    }

    // The property would be worth nothing if nothing passed the gate.
    #[test]
    fn an_honest_request_passes() {
        for flags in 0..4 {
            let data = b"\x04GET /any/x\nHost: h\nAuthorization: Bearer $\nX_Tenant_Id: evil";
            let head = read(&data[1..], Version::HTTP_11).unwrap();
            let peer = Peer {
                address: ([192, 0, 2, 7], 1).into(),
                local: ([192, 0, 2, 1], 2).into(),
                via: Via::Direct,
            };
            let admitted = gate::admit(
                &sites()[flags],
                &Means {
                    quota: &Quota::new(),
                    tokens: &Tokens::new(),
                    alerts: &Alerts::queue().0,
                    patience: Patience::Fresh,
                    charged: None,
                    early: None,
                },
                Now::default(),
                &peer,
                &mut { head },
            );
            assert!(admitted.is_ok(), "{admitted:?}");
        }
    }
}
