//! What routes take beside keys: whether there is anybody who issues it, and issuers written back.

use crate::config::check::Entries;
use crate::config::dump::Writer;
use crate::config::dump::key;
use crate::config::dump::kinds;
use crate::config::problem::Notes;
use crate::config::problem::Problem;
use crate::config::secrets;
use crate::config::values::show_duration;
use crate::model::credential::Kind;
use crate::model::issuer::Algorithm;
use crate::model::issuer::ClaimPath;
use crate::model::issuer::Issuer;
use crate::model::issuer::KeySource;
use crate::model::issuer::TenantOf;
use crate::model::resource::Resource;
use crate::model::route::Access;

/// What a route takes must come from somebody, and by a way that is open.
pub(super) fn routes(all: &Entries, notes: &Notes) {
    let trusted = |kind| all.issuers.iter().any(|issuer| issuer.value.issues(kind));
    for route in all
        .routes
        .iter()
        .filter(|route| route.value.access != Access::Public)
    {
        for kind in route
            .value
            .credentials
            .iter()
            .filter(|kind| *kind != Kind::Key)
        {
            if !trusted(kind) {
                notes.error(Problem::here(
                    route.at.credentials.clone(),
                    format!(
                        "[[routes]] credentials: nobody is trusted to issue a \"{}\"",
                        kind.as_str()
                    ),
                    format!(
                        "declare who is: [issuers.NAME] with credentials = [\"{}\"]",
                        kind.as_str()
                    ),
                ));
            }
            if kind == Kind::Session && all.sessions.cookie.is_none() {
                notes.error(Problem::here(
                    route.at.credentials.clone(),
                    "[[routes]] credentials: sessions come in a cookie, and none is named",
                    "write [sessions] cookie = \"__Host-session\"",
                ));
            }
            if matches!(kind, Kind::Jwt | Kind::Opaque) && !all.auth.bearer {
                notes.error(Problem::here(
                    route.at.credentials.clone(),
                    "[[routes]] credentials: access tokens come in Authorization alone, and [auth] headers leaves that out",
                    "add \"authorization\" to [auth] headers",
                ));
            }
        }
    }
}

/// Warns of issuers whose tokens no route takes.
pub(super) fn unused(all: &Entries, notes: &Notes) {
    for issuer in &all.issuers {
        let taken = all.routes.iter().any(|route| {
            let kinds = route.value.credentials.both(issuer.value.credentials);
            route.value.access != Access::Public && !kinds.are_none()
        });
        if !taken {
            notes.warn(Problem::context(
                Some(issuer.at.name.clone()),
                format!(
                    "no route takes what issuer \"{}\" issues",
                    issuer.value.name
                ),
                "add it to the credentials of a route, or take the issuer out",
            ));
        }
    }
}

/// One `[[resources]]`.
pub(super) fn dump_resource(out: &mut Writer, resource: &Resource) {
    out.table("[[resources]]");
    out.text("resource", &resource.identifier);
    out.list("issuers", &resource.issuers);
    out.list("scopes", &resource.scopes);
    out.text("name", resource.name.as_deref().unwrap_or(""));
    let documentation = resource.documentation.as_deref();
    out.text("documentation", documentation.unwrap_or(""));
}

/// One `[issuers.NAME]`.
pub(super) fn dump_issuer(out: &mut Writer, issuer: &Issuer, environment: &str) {
    out.table(&format!("[issuers.{}]", key(&issuer.name)));
    out.text("issuer", &issuer.issuer);
    out.list("audience", &issuer.audience);
    out.list("credentials", kinds(issuer.credentials));
    match &issuer.keys {
        None => {}
        Some(KeySource::Url(url)) => out.text("jwks_url", &url.text),
        Some(KeySource::File(file)) => out.path("jwks_file", file),
    }
    if let Some(ca) = &issuer.ca {
        out.path("ca", ca);
    }
    let algorithms = issuer.algorithms.iter().copied();
    out.list("algorithms", algorithms.map(Algorithm::as_str));
    out.list("types", &issuer.types);
    out.list("required_claims", &issuer.required);
    match &issuer.tenant {
        TenantOf::Fixed(tenant) => out.text("tenant", tenant.as_str()),
        TenantOf::Claim(path) => out.text("tenant_claim", path.as_str()),
    }
    let claims: [(&str, &ClaimPath); 3] = [
        ("subject_claim", &issuer.subject),
        ("client_claim", &issuer.client),
        ("scope_claim", &issuer.scope),
    ];
    for (name, path) in claims {
        out.text(name, path.as_str());
    }
    if let Some(introspection) = &issuer.introspection {
        out.text("introspection_url", &introspection.endpoint.text);
        out.text("client_id", &introspection.client_id);
        let secret = secrets::show(&introspection.secret);
        out.text("client_secret", &secret);
        out.text("introspection_cache", &show_duration(introspection.cached));
    }
    for (name, span) in [
        ("leeway", issuer.leeway),
        ("lifetime_max", issuer.lifetime_max),
        ("refresh", issuer.refresh),
        ("unknown_key_interval", issuer.unknown_key_interval),
        ("timeout", issuer.timeout),
    ] {
        out.text(name, &show_duration(span));
    }
    out.text("environment", environment);
}
