//! `[errors]`, `[limits]` and `[revocation]`: what a client is told, and when it is stopped.

use crate::config::file::Reader;
use crate::model::limit::Mode;
use crate::refusal::Shape;

/// `[errors]`, and per host in `[[hosts]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errors {
    /// Body shape.
    pub shape: Shape,
    /// Whether 403 names the missing permission (FA19; PB13 wants it off).
    pub name_permission: bool,
    /// Whether what is another tenant's is 403 instead of the 404 twin (C-15).
    pub foreign_is_forbidden: bool,
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Whose windows a request is charged to.
    pub subject: LimitSubject,
    /// `X-RateLimit-*` on authenticated answers.
    pub x_headers: bool,
    /// `RateLimit` and `RateLimit-Policy` on authenticated answers.
    pub ietf_headers: bool,
    /// Whether `X-RateLimit-Reset` says how many seconds are left instead of the Unix time (C-23).
    pub reset_as_delta: bool,
    /// Whether any limit holds or all are only observed.
    pub mode: Mode,
}

/// Whose windows a request is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSubject {
    /// Each key has its own (the default, FA21).
    Key,
    /// All keys of a tenant share one, by the tenant's plan.
    Tenant,
    /// Both, in one step.
    Both,
}

/// `[revocation]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whether requests in flight are ended with their key; `false` lets them finish (C-20).
    pub abort_in_flight: bool,
    /// Whether a secret key that came in clear is revoked (FA29).
    pub revoke_plaintext: bool,
}

/// `[errors]`, and `errors` of a host, which starts from `default`.
pub(in crate::config) fn errors(
    parent: &mut Reader<'_>,
    kind: &'static str,
    default: Errors,
) -> Errors {
    parent.table("errors", kind, |table| Errors {
        shape: table.choice(
            "shape",
            default.shape,
            &[
                ("problem", Shape::Problem),
                ("nested", Shape::Nested),
                ("flat", Shape::Flat),
            ],
        ),
        name_permission: table.flag("name_permission", default.name_permission),
        foreign_is_forbidden: table.choice(
            "foreign",
            default.foreign_is_forbidden,
            &[("404", false), ("403", true)],
        ),
    })
}

/// `[limits]`.
pub(in crate::config) fn limits(root: &mut Reader<'_>) -> LimitsConfig {
    root.table("limits", "limits", |table| LimitsConfig {
        subject: table.choice(
            "subject",
            LimitSubject::Key,
            &[
                ("key", LimitSubject::Key),
                ("tenant", LimitSubject::Tenant),
                ("both", LimitSubject::Both),
            ],
        ),
        x_headers: table.flag("x_headers", true),
        ietf_headers: table.flag("ietf_headers", true),
        reset_as_delta: table.choice("reset", false, &[("unix", false), ("delta", true)]),
        mode: mode(table),
    })
}

/// `mode` of the limits, a plan or a route.
pub(in crate::config) fn mode(table: &mut Reader<'_>) -> Mode {
    let words = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
    table.choice("mode", Mode::Enforce, &words)
}

/// `[revocation]`.
pub(in crate::config) fn revocation(root: &mut Reader<'_>) -> Revocation {
    root.table("revocation", "revocation", |table| Revocation {
        abort_in_flight: table.choice("in_flight", true, &[("abort", true), ("finish", false)]),
        revoke_plaintext: table.choice("plaintext_key", false, &[("log", false), ("revoke", true)]),
    })
}
