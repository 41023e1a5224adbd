//! How the gateway's own answers are written, by host and by client.

use http::HeaderMap;
use http::HeaderValue;
use http::header;

use super::LIVE;
use super::World;
use super::config;
use super::head;
use super::run;
use crate::config::Errors;
use crate::config::Host;
use crate::gate::is_grpc;
use crate::gate::style;
use crate::quota::Quota;
use crate::refusal::Shape;

#[test]
fn each_host_has_its_style() {
    let mut config = config();
    let errors = Errors {
        shape: Shape::Flat,
        name_permission: false,
        foreign_is_forbidden: false,
    };
    config.hosts = vec![Host {
        name: "*.council.example".to_owned(),
        errors,
        environment: LIVE,
    }];
    assert_eq!(style(&config, None, false).shape, Shape::Problem);
    assert_eq!(
        style(&config, Some("x.example"), false).shape,
        Shape::Problem
    );
    let flat = style(&config, Some("a.council.example"), true);
    assert_eq!(
        (flat.shape, flat.name_permission, flat.grpc),
        (Shape::Flat, false, true)
    );
    assert_eq!(flat.realm, "api");
}

#[test]
fn grpc_is_told_by_its_content_type() {
    let cases = [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x=y", true),
        ("application/grpc-web", false),
        ("application/json", false),
    ];
    for (kind, expected) in cases {
        let head = head("POST", "/", &[("content-type", kind)]);
        assert_eq!(is_grpc(&head.headers), expected, "{kind}");
    }
    assert!(!is_grpc(&HeaderMap::new()));
}

#[test]
fn the_host_of_a_refusal_chooses_its_style() {
    let snapshot = World::new().build();
    let mut refused = head("GET", "/a;b", &[]);
    refused
        .headers
        .insert(header::HOST, HeaderValue::from_static("API.example:8443"));
    let host = run(&snapshot, &Quota::new(), 0, &mut refused)
        .unwrap_err()
        .host;
    assert_eq!(host.as_deref(), Some("api.example"));
    let mut two = head("GET", "/", &[("host", "other")]);
    let refused = run(&snapshot, &Quota::new(), 0, &mut two).unwrap_err();
    assert_eq!((refused.reason, refused.host), ("host_repeated", None));
}
