//! What a backend sees of the head of a client.

use std::sync::Arc;

use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Version;
use http::request;
use proptest::prelude::*;

use super::Own;
use super::clear;
use super::names::folded;
use crate::config::Config;
use crate::gate::Admission;
use crate::model::request_id::RequestId;
use crate::upstream::http1;
use crate::upstream::tests::admission;
use crate::upstream::tests::config;
use crate::upstream::tests::peer;

fn head(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Makes a head fit, with what is ours within; and sees to it that the same goes over the wire where ours is written behind the others.
fn prepare(head: &mut request::Parts, admission: &Admission, id: &HeaderValue) {
    let id = RequestId::given(id).unwrap();
    let own = Own::new(&peer(), &id, head.version);
    clear(head, admission);
    let host = head.headers.get("host").cloned();
    let write =
        |out: &mut Vec<u8>| own.write(host.as_ref().map(HeaderValue::as_bytes), admission, out);
    let mut written = Vec::new();
    http1::write(head, Some(&write), &mut written);
    own.insert(&mut head.headers, admission);
    let mut inserted = Vec::new();
    http1::write(head, None, &mut inserted);
    assert_eq!(sorted(&written), sorted(&inserted));
}

fn sorted(head: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

/// The head that the backend sees, as sorted lines.
fn prepared(config: Config, authenticated: bool, head: request::Parts) -> Vec<String> {
    let mut head = head;
    let admission = admission(&Arc::new(config), authenticated, "/leases");
    let id = HeaderValue::from_static("ours");
    prepare(&mut head, &admission, &id);
    let mut lines: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort_unstable();
    lines
}

/// What of these headers reaches the backend beyond what the gateway sets itself.
fn passed(config: Config, headers: &[(&str, &str)]) -> Vec<String> {
    let set_by_us = prepared(config.clone(), true, head("/leases", &[]));
    prepared(config, true, head("/leases", headers))
        .into_iter()
        .filter(|line| !set_by_us.contains(line))
        .collect()
}

#[test]
fn no_spelling_of_a_trusted_name_reaches_the_backend() {
    let names = [
        "X-Tenant-ID",
        "x-tenant-id",
        "X_Tenant_ID",
        "X_TENANT_ID",
        "X-Tenant_ID",
        "X_Tenant-Id",
        "X.Tenant.ID",
        "X-Tenant.Id",
        "X~Tenant~Id",
        "X!Tenant|Id",
        "X*Tenant'Id",
        "X`Tenant^Id",
        "X#Tenant$Id",
        "X%Tenant&Id",
        "X+Tenant+Id",
        "X-Request-Id",
        "X_Request_Id",
        "X.Request.Id",
        "X-Forwarded-For",
        "X_Forwarded_For",
        "X-Forwarded-Host",
        "X-Forwarded-Prefix",
        "X_Forwarded_Prefix",
        "X-Forwarded-User",
        "X-Forwarded-Client-Cert",
        "X.Forwarded.Port",
        "X-Forwarded",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "CF_Connecting_IP",
        "Client-Cert",
        "Client_Cert",
        "Client-Cert-Chain",
        "X-Original-URL",
        "X_Original_URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X_HTTP_Method_Override",
        "X-Method-Override",
        "X-HTTP-Method",
        "X-API-Key",
        "X_API_KEY",
        "X.Api.Key",
        "Authorization",
        "Connection",
        "Proxy-Connection",
        "Keep-Alive",
        "TE",
        "Transfer-Encoding",
        "Transfer_Encoding",
        "Transfer.Encoding",
        "Content_Length",
        "Content.Length",
        "Upgrade",
        "Trailer",
        "Expect",
        "Proxy-Authorization",
        "Proxy_Authorization",
        "HTTP2-Settings",
        "Proxy",
    ];
    for keep_underscore in [false, true] {
        for name in names {
            let mut config = config(&[]);
            config.headers.keep_underscore = keep_underscore;
            let evil = [(name, "evil"), (name, "evil, too"), ("x-fine", "1")];
            assert_eq!(passed(config, &evil), ["x-fine: 1"], "{name}");
        }
    }
}

#[test]
fn other_headers_pass_untouched() {
    let headers = [
        ("accept", "*/*"),
        ("content-type", "text/plain"),
        ("dnt", "1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("x-forward", "no dash"),
        ("x-tenant-ids", "longer"),
        ("xtenantid", "shorter"),
    ];
    let expected: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    assert_eq!(passed(config(&[]), &headers), expected);
}

#[test]
fn names_with_an_underscore_pass_only_where_they_are_kept() {
    let headers = [("my_header", "1"), ("my.header", "2")];
    assert_eq!(passed(config(&[]), &headers), ["my.header: 2"]);
    let mut keeping = config(&[]);
    keeping.headers.keep_underscore = true;
    assert_eq!(passed(keeping, &headers), ["my.header: 2", "my_header: 1"]);
}

#[test]
fn names_that_the_operator_lists_are_removed_in_every_spelling() {
    let mut config = config(&[]);
    config.headers.remove = vec![HeaderName::from_static("x-internal-role")];
    let headers = [("X-Internal-Role", "1"), ("X.Internal.Role", "2")];
    assert!(passed(config, &headers).is_empty());
}

#[test]
fn a_tenant_header_named_with_an_underscore_has_aliases_too() {
    let mut config = config(&[]);
    config.headers.tenant = HeaderName::from_static("x_tenant");
    let lines = prepared(config, true, head("/leases", &[("X-Tenant", "evil")]));
    assert!(lines.contains(&"x_tenant: acme".to_owned()), "{lines:?}");
    assert!(!lines.contains(&"x-tenant: evil".to_owned()), "{lines:?}");
}

#[test]
fn all_connection_lines_are_obeyed_but_never_against_framing_host_or_ours() {
    let headers = [
        ("connection", "close, x-one"),
        ("connection", "X-Two,, ,x-tenant-id ,via"),
        (
            "connection",
            "host, content-length, x-request-id, x-forwarded-for",
        ),
        ("x-one", "1"),
        ("x-two", "2"),
        ("x-three", "3"),
        ("host", "api.example"),
        ("content-length", "5"),
    ];
    let lines = prepared(config(&[]), true, head("/leases", &headers));
    for expected in [
        "content-length: 5",
        "host: api.example",
        "via: 1.1 portcullis",
        "x-forwarded-for: 192.0.2.7",
        "x-request-id: ours",
        "x-tenant-id: acme",
        "x-three: 3",
    ] {
        assert!(lines.contains(&expected.to_owned()), "{lines:?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("x-one")));
    assert!(!lines.iter().any(|line| line.starts_with("x-two")));
    assert!(!lines.iter().any(|line| line.starts_with("connection")));
}

#[test]
fn nobody_has_no_tenant() {
    let lines = prepared(
        config(&[]),
        false,
        head("/leases", &[("x-tenant-id", "evil")]),
    );
    assert!(!lines.iter().any(|line| line.starts_with("x-tenant-id")));
}

#[test]
fn forwarded_headers_are_ours_or_absent() {
    let mut off = config(&[]);
    off.headers.forwarded = false;
    let lines = prepared(
        off,
        true,
        head("/leases", &[("x-forwarded-for", "1.2.3.4")]),
    );
    assert!(!lines.iter().any(|line| line.starts_with("x-forwarded")));
}

#[test]
fn authorization_of_another_scheme_passes_where_it_may() {
    let cases = [
        (true, true, "Basic abc", true),
        (true, true, "Bearer fp_live_x", false),
        (true, true, "bEARER fp_live_x", false),
        (true, false, "Bearer foreign", true),
        (false, true, "Basic abc", false),
        (false, false, "Bearer x", false),
    ];
    for (pass, bearer, value, passes) in cases {
        let mut config = config(&[]);
        config.auth.pass_foreign_authorization = pass;
        config.auth.bearer = bearer;
        let lines = passed(config, &[("authorization", value)]);
        assert_eq!(!lines.is_empty(), passes, "{pass} {bearer} {value}");
    }
}

#[test]
fn cookie_crumbs_become_one_line() {
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    assert_eq!(passed(config(&[]), &crumbs), ["cookie: a=1; b=2; c=3"]);
}

#[test]
fn via_names_the_protocol_of_the_client_and_keeps_who_came_before() {
    let cases = [
        (Version::HTTP_10, "via: 1.0 portcullis"),
        (Version::HTTP_11, "via: 1.1 portcullis"),
        (Version::HTTP_2, "via: 2 portcullis"),
    ];
    for (version, expected) in cases {
        let mut head = head("/leases", &[("via", "1.1 cache")]);
        head.version = version;
        let lines = prepared(config(&[]), true, head);
        assert!(lines.contains(&"via: 1.1 cache".to_owned()), "{lines:?}");
        assert!(lines.contains(&expected.to_owned()), "{lines:?}");
    }
}

#[test]
fn the_target_is_the_admitted_one_whatever_the_head_says() {
    for uri in ["/leases", "https://evil.example/leases?x", "/other?x"] {
        let mut head = head(uri, &[]);
        let admission = admission(&Arc::new(config(&[])), true, "/leases?a=1&b=%2f");
        let id = HeaderValue::from_static("ours");
        prepare(&mut head, &admission, &id);
        assert_eq!(head.uri.to_string(), "/leases?a=1&b=%2f");
    }
}

#[test]
fn nothing_of_the_clients_connection_goes_on() {
    let mut head = head("/leases", &[]);
    head.version = Version::HTTP_10;
    head.extensions.insert("upgrade handle");
    let admission = admission(&Arc::new(config(&[])), true, "/leases");
    let id = HeaderValue::from_static("ours");
    prepare(&mut head, &admission, &id);
    assert_eq!(head.version, Version::HTTP_11);
    assert!(head.extensions.is_empty());
}

proptest! {
    #[test]
    fn whatever_a_client_sends_the_backend_sees_one_tenant_and_it_is_ours(
        names in proptest::collection::vec(
            "[xX][-_.~!][tT][eE][nN][aA][nN][tT][-_.~!][iI][dD]|[a-zA-Z_.!-]{1,14}|connection",
            0..12,
        ),
        value in "[ -~]{0,20}",
    ) {
        let mut head = head("/leases", &[]);
        for name in &names {
            let name: HeaderName = name.parse().unwrap();
            head.headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        let admission = admission(&Arc::new(config(&[])), true, "/leases");
        let id = HeaderValue::from_static("ours");
        prepare(&mut head, &admission, &id);
        let fold = |name: &str| -> Vec<u8> { name.bytes().map(folded).collect() };
        let tenants: Vec<&HeaderValue> = head
            .headers
            .iter()
            .filter(|(name, _)| fold(name.as_str()) == b"x-tenant-id")
            .map(|(_, value)| value)
            .collect();
        prop_assert_eq!(tenants, ["acme"]);
        prop_assert!(!head.headers.contains_key("connection"));
    }
}
