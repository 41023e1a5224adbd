//! `[issuers.NAME]`: who may issue access tokens and sessions, and what routes take.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;

use crate::config::addresses;
use crate::config::entries::Declared;
use crate::config::entries::Placed;
use crate::config::entries::Places;
use crate::config::entries::inner;
use crate::config::entries::label;
use crate::config::entries::tenant_word;
use crate::config::file::Reader;
use crate::config::problem::Problem;
use crate::config::secrets;
use crate::config::settings::path;
use crate::config::values::Wrong;
use crate::config::values::wrong;
use crate::model::credential::Kind;
use crate::model::credential::Kinds;
use crate::model::issuer::Algorithm;
use crate::model::issuer::ClaimPath;
use crate::model::issuer::Introspection;
use crate::model::issuer::Issuer;
use crate::model::issuer::KeySource;
use crate::model::issuer::TenantOf;
use crate::model::tenant::TenantId;

/// `[issuers.NAME]`.
pub(in crate::config) fn issuers(
    root: &mut Reader<'_>,
    declared: &Declared<'_>,
    base: &Path,
) -> Vec<Placed<Arc<Issuer>>> {
    let read = root.named("issuers", |table, name| {
        label(table, &name);
        let help = "write issuer = \"https://auth.example.org\", as `iss` says it";
        let issuer = table.required("issuer", help, plain);
        let audience = audience(table);
        let credentials = kinds(table, "credentials", &[Kind::Jwt]);
        let keys = key_source(table, base);
        let at = Places {
            name: name.span(),
            ..Places::default()
        };
        let value = Issuer {
            name: (*name.get_ref()).to_owned(),
            issuer: issuer.map(Spanned::into_inner).unwrap_or_default(),
            audience,
            credentials: credentials.unwrap_or(Kinds::KEYS),
            keys,
            ca: table
                .word("ca", |text| path(base, text))
                .map(Spanned::into_inner),
            algorithms: algorithms(table),
            types: types(table),
            required: required(table),
            tenant: tenant(table),
            subject: claim(table, "subject_claim", "sub"),
            client: claim(table, "client_claim", "client_id"),
            scope: claim(table, "scope_claim", "scope"),
            leeway: table.duration("leeway", "30s", ("0s", "5min")),
            lifetime_max: table.duration("lifetime_max", "24h", ("1min", "8784h")),
            environment: declared.environment(table),
            refresh: table.duration("refresh", "10min", ("10s", "24h")),
            unknown_key_interval: table.duration("unknown_key_interval", "30s", ("1s", "1h")),
            timeout: table.duration("timeout", "5s", ("100ms", "1min")),
            introspection: introspection(table, base),
        };
        needs_keys(table, &value);
        Placed {
            value: Arc::new(value),
            at,
        }
    });
    alone(&read, root);
    read
}

/// Which kinds of credentials a key of the file lists; `None` where it says nothing.
pub(in crate::config) fn listed_kinds(table: &mut Reader<'_>, key: &'static str) -> Option<Kinds> {
    let listed = table.list(key, |text| match Kind::parse(text) {
        Some(kind) => Ok(kind),
        None => wrong(
            format!("\"{text}\" is no kind of credential"),
            "choose from \"key\", \"jwt\", \"opaque\" and \"session\"",
        ),
    })?;
    if table.list_is_empty(key) {
        table.notes().error(Problem::context(
            table.place(key),
            format!("{}: nobody could come in", table.name(key)),
            format!("write {key} = [\"key\"], or leave it out"),
        ));
    }
    let kinds: Kinds = listed.into_iter().map(Spanned::into_inner).collect();
    (!kinds.are_none()).then_some(kinds)
}

/// The same of an issuer, who issues no keys.
fn kinds(table: &mut Reader<'_>, key: &'static str, default: &[Kind]) -> Option<Kinds> {
    let kinds = listed_kinds(table, key).unwrap_or_else(|| default.iter().copied().collect());
    if kinds.contain(Kind::Key) {
        let wrong = Wrong {
            what: "keys are issued here, by nobody else".to_owned(),
            help: "take \"key\" out; foreign keys come by `portcullis keys import`".to_owned(),
        };
        table.refuse(table.place(key).unwrap_or_default(), key, wrong);
        return None;
    }
    Some(kinds)
}

fn audience(table: &mut Reader<'_>) -> Vec<String> {
    let audience = inner(table.list("audience", plain));
    if table.list_is_empty("audience") {
        let help = "write audience = [\"https://api.example.org\"]: a token that is for others must not be taken here";
        table.missing("audience", help);
    }
    audience
}

fn key_source(table: &mut Reader<'_>, base: &Path) -> Option<KeySource> {
    let url = table.word("jwks_url", addresses::endpoint);
    let file = table.word("jwks_file", |text| path(base, text));
    if let (Some(_), Some(file)) = (&url, &file) {
        let wrong = Wrong {
            what: "jwks_url says already where the keys are".to_owned(),
            help: "take one of the two out".to_owned(),
        };
        table.refuse(file.span(), "jwks_file", wrong);
    }
    let url = url.map(|url| KeySource::Url(url.into_inner()));
    url.or(file.map(|file| KeySource::File(file.into_inner())))
}

/// What signs nothing can issue no JWT.
fn needs_keys(table: &mut Reader<'_>, issuer: &Issuer) {
    let said = table.has("jwks_url") || table.has("jwks_file");
    let asks = table.has("introspection_url");
    if issuer.issues(Kind::Opaque) && !asks {
        let help = "write introspection_url = \"https://auth.example.org/introspect\": nobody else can read its opaque tokens";
        table.missing("introspection_url", help);
    }
    if !said && (issuer.issues(Kind::Jwt) || (issuer.issues(Kind::Session) && !asks)) {
        let help =
            "write jwks_url = \"https://auth.example.org/jwks\", or jwks_file = \"jwks.json\"";
        table.missing("jwks_url", help);
    }
}

/// How it is asked about what only it can read; all of it, or nothing.
fn introspection(table: &mut Reader<'_>, base: &Path) -> Option<Introspection> {
    let endpoint = table.word("introspection_url", addresses::endpoint);
    let client_id = table.word("client_id", plain);
    if let Some(place) = table
        .place("client_secret")
        .filter(|_| table.has("client_secret"))
    {
        // It may be the secret itself.
        table.notes().hide(place);
    }
    let secret = table.word("client_secret", |text| secrets::source(text, base));
    let cached = table.duration("introspection_cache", "1min", ("1s", "10min"));
    let parts = ["introspection_url", "client_id", "client_secret"];
    for key in parts
        .into_iter()
        .filter(|_| parts.iter().any(|key| table.has(key)))
    {
        if !table.has(key) {
            table.missing(key, "asking an issuer about tokens takes introspection_url, client_id and client_secret: write all three, or take them out");
        }
    }
    Some(Introspection {
        endpoint: endpoint?.into_inner(),
        client_id: client_id?.into_inner(),
        secret: secret?.into_inner(),
        cached,
    })
}

fn algorithms(table: &mut Reader<'_>) -> Vec<Algorithm> {
    let listed = table.list("algorithms", |text| match Algorithm::parse(text) {
        Some(algorithm) => Ok(algorithm),
        None => wrong(
            format!("\"{text}\" is no signature that is taken"),
            "choose from RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA; there is no symmetric one and no \"none\"",
        ),
    });
    not_empty(table, "algorithms", "no token could be verified");
    let default = vec![
        Algorithm::Rs256,
        Algorithm::Ps256,
        Algorithm::Es256,
        Algorithm::EdDsa,
    ];
    listed.map_or(default, |listed| inner(Some(listed)))
}

fn types(table: &mut Reader<'_>) -> Vec<String> {
    let listed = table.list("types", |text| match text {
        "" => Ok(String::new()),
        text => plain(text).map(|text| text.to_ascii_lowercase()),
    });
    not_empty(table, "types", "no token could be of a right type");
    listed.map_or_else(|| vec!["at+jwt".to_owned()], |listed| inner(Some(listed)))
}

fn not_empty(table: &mut Reader<'_>, key: &'static str, what: &str) {
    if table.has(key) && table.list_is_empty(key) {
        table.notes().error(Problem::context(
            table.place(key),
            format!("{}: {what}", table.name(key)),
            "leave it out for the usual ones",
        ));
    }
}

fn required(table: &mut Reader<'_>) -> Vec<ClaimPath> {
    let listed = table.list("required_claims", claim_path);
    let usual = ["sub", "client_id", "iat", "jti"];
    let usual = usual.iter().filter_map(|name| claim_path(name).ok());
    listed.map_or_else(|| usual.collect(), |listed| inner(Some(listed)))
}

fn tenant(table: &mut Reader<'_>) -> TenantOf {
    let fixed = table.word("tenant", |text| tenant_word(TenantId::new(text), text));
    let claim = claim(table, "tenant_claim", "tenant");
    if table.has("tenant") && table.has("tenant_claim") {
        let wrong = Wrong {
            what: "tenant says already whose all its tokens are".to_owned(),
            help: "take one of the two out".to_owned(),
        };
        let at = table.place("tenant_claim").unwrap_or_default();
        table.refuse(at, "tenant_claim", wrong);
    }
    match fixed {
        Some(tenant) => TenantOf::Fixed(tenant.into_inner()),
        None => TenantOf::Claim(claim),
    }
}

/// Where a claim stands.
pub(in crate::config) fn claim(
    table: &mut Reader<'_>,
    key: &'static str,
    default: &'static str,
) -> ClaimPath {
    let read = table.word(key, claim_path).map(Spanned::into_inner);
    read.or_else(|| ClaimPath::parse(default).ok())
        .expect("a default is a good path")
}

fn claim_path(text: &str) -> Result<ClaimPath, Wrong> {
    ClaimPath::parse(text).or_else(|why| {
        wrong(
            format!("\"{text}\" is no claim"),
            format!("{why}; for example \"sub\" or \"/org/id\""),
        )
    })
}

/// Text that is compared byte for byte.
fn plain(text: &str) -> Result<String, Wrong> {
    match !text.is_empty() && text.len() <= 512 && text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        true => Ok(text.to_owned()),
        false => wrong(
            format!("\"{text}\" cannot stand in a token"),
            "write 1 to 512 printable ASCII characters without spaces, as the issuer does",
        ),
    }
}

/// What is trusted for one kind must be told apart by `iss` alone; what only its issuer can read says nothing of who that is.
fn alone(all: &[Placed<Arc<Issuer>>], root: &Reader<'_>) {
    for kind in [Kind::Opaque, Kind::Session] {
        let mut asked = all
            .iter()
            .filter(|one| one.value.introspection.is_some() && one.value.issues(kind));
        if let (Some(first), Some(second)) = (asked.next(), asked.next()) {
            let what = format!(
                "[issuers.{}]: a second issuer is asked about tokens of kind \"{}\", which do not say whose they are",
                second.value.name,
                kind.as_str()
            );
            let problem = Problem::here(
                second.at.name.clone(),
                what,
                "take introspection_url or the kind out of one of them",
            );
            root.notes()
                .error(problem.beside(first.at.name.clone(), "the first"));
        }
    }
    for (index, one) in all.iter().enumerate() {
        let shared = |other: &&Placed<Arc<Issuer>>| {
            other.value.issuer == one.value.issuer
                && !(other.value.credentials.both(one.value.credentials)).are_none()
        };
        if let Some(first) = all[..index].iter().find(shared) {
            let problem = Problem::here(
                one.at.name.clone(),
                format!(
                    "[issuers.{}]: the same issuer is trusted for the same credentials twice",
                    one.value.name
                ),
                "give the two different credentials, or make one table of them",
            );
            let problem = problem.beside(first.at.name.clone(), "the first table");
            root.notes().error(problem);
        }
    }
}
