//! The promises of the gateway, each shown end to end: a real gateway on real sockets before a recording backend.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "test code fails by panicking, waits in real time, and its harness is not an API"
)]

mod support;

mod abuse;
mod access_tokens;
mod admin;
mod admin_api;
mod alerts;
mod audit;
mod authentication;
mod browsers;
mod cluster;
mod cluster_clocks;
mod cluster_failures;
mod cluster_leases;
mod cluster_usage;
mod conformance;
mod crowd;
mod dashboard;
mod declared;
mod denied_tokens;
mod environments;
mod grpc;
mod guard;
mod harness;
mod health;
mod hostile;
mod http2_upstreams;
mod https_upstreams;
mod in_flight;
mod isolation;
mod key_lifecycle;
mod key_verbs;
mod messages;
mod oauth_endpoints;
mod observability;
mod observe;
mod opaque_tokens;
mod permissions;
mod profiles;
mod proxies;
mod queue;
mod rate_limits;
mod real_backends;
mod real_identity;
mod reload;
mod sessions;
mod shutdown;
mod streaming;
mod tenancy;
mod token_matrix;
mod transport;
mod tunnels;
mod usage;
