//! TLS towards backends: whom it trusts, what it shows of itself, which protocol it asks for; made ready when a configuration is loaded.

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_platform_verifier::BuilderVerifierExt;

use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Prepared;
use crate::config::PreparedTls;
use crate::config::Upstream;
use crate::config::UpstreamProtocol;
use crate::config::UpstreamTls;
use crate::pem::TlsProblem;
use crate::pem::problem;
use crate::pem::read_chain;
use crate::pem::read_key;

/// Reads the files of every upstream and puts what they hold beside them. Blocking: a few file reads. Returns all problems at once, each with
/// its place from `places`; an upstream with a problem is not ready, and no connection to it is made.
#[must_use]
pub fn prepare(config: &mut Config, places: &BTreeMap<String, String>) -> Vec<TlsProblem> {
    let mut problems = Vec::new();
    for upstream in &mut config.upstreams {
        let Some(tls) = &upstream.tls else {
            continue;
        };
        let told = |key: &str, problem: TlsProblem| {
            let name = format!("[upstreams.{}.tls] {key}", upstream.name);
            let place = places.get(&name).cloned().unwrap_or_default();
            let file = problem.path.as_deref().map(Path::display);
            let file = file.map(|file| format!("{file}: ")).unwrap_or_default();
            let start = if place.is_empty() { "" } else { ": " };
            TlsProblem {
                path: None,
                text: format!("{place}{start}{name}: {file}{}", problem.text),
                is_denied: problem.is_denied,
            }
        };
        match client_config(tls, upstream.protocol) {
            Ok(client_config) => {
                let prepared = PreparedTls {
                    client_config: Arc::new(client_config),
                    fingerprint: content(upstream),
                };
                let upstream = Arc::make_mut(upstream);
                if let Some(tls) = &mut upstream.tls {
                    tls.prepared = Prepared(Some(prepared));
                }
            }
            Err(found) => {
                let found = found.into_iter();
                problems.extend(found.map(|(key, problem)| told(key, problem)));
            }
        }
    }
    problems
}

/// A number that changes when any of these files does: to poll for new ones. Blocking.
#[must_use]
pub fn fingerprint(config: &Config) -> u64 {
    let secure = config
        .upstreams
        .iter()
        .filter(|upstream| upstream.tls.is_some());
    secure.fold(0, |sum, upstream| sum.rotate_left(1) ^ content(upstream))
}

/// Of one upstream: what its files hold, and the name that is verified.
fn content(upstream: &Upstream) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(tls) = &upstream.tls {
        tls.server_name.hash(&mut hasher);
        let client = tls.client.as_ref();
        let files = [
            tls.ca.as_ref(),
            client.map(|files| &files.certificate),
            client.map(|files| &files.private_key),
        ];
        for file in files {
            file.hash(&mut hasher);
            let Some(file) = file else {
                continue;
            };
            std::fs::read(file).ok().hash(&mut hasher);
            let mode = std::fs::metadata(file).map(|data| data.permissions().mode());
            mode.ok().hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// There is no way to trust just anybody: a certificate of a private authority, or one made by hand, is named by `ca`.
fn client_config(
    tls: &UpstreamTls,
    protocol: UpstreamProtocol,
) -> Result<ClientConfig, Vec<(&'static str, TlsProblem)>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| whole("ca", &error))?;
    let roots = tls.ca.as_deref().map(authorities).transpose();
    let identity = tls.client.as_ref().map(identity).transpose();
    let (roots, identity) = match (roots, identity) {
        (Ok(roots), Ok(identity)) => (roots, identity),
        (roots, identity) => {
            let roots = roots.err().map(|problem| ("ca", problem));
            let identity = identity.err().into_iter().flatten();
            return Err(roots.into_iter().chain(identity).collect());
        }
    };
    let trusting = match roots {
        Some(roots) => builder.with_root_certificates(roots),
        None => builder.with_platform_verifier().map_err(|error| {
            let text = format!("the system's certificate authorities cannot be used: {error}; install ca-certificates, or name your own in ca");
            vec![("ca", problem(None, text))]
        })?,
    };
    let mut config = match (identity, &tls.client) {
        (Some((chain, key)), Some(files)) => trusting
            .with_client_auth_cert(chain, key)
            .map_err(|error| vec![("private_key", unfit(files, &error))])?,
        _ => trusting.with_no_client_auth(),
    };
    // One word only: a server that answers in another protocol than it was asked in is not spoken to at all.
    config.alpn_protocols = vec![alpn(protocol).to_vec()];
    Ok(config)
}

/// How an identity provider over TLS is trusted: by these authorities, or by those of the system. Blocking: a file read.
///
/// # Errors
/// The file cannot be used.
pub fn trusting(ca: Option<&Path>) -> Result<ClientConfig, TlsProblem> {
    let tls = UpstreamTls {
        ca: ca.map(Path::to_owned),
        client: None,
        server_name: None,
        prepared: Prepared::default(),
    };
    client_config(&tls, UpstreamProtocol::Http1).map_err(|mut problems| problems.remove(0).1)
}

/// What a server must agree to.
pub(super) fn alpn(protocol: UpstreamProtocol) -> &'static [u8] {
    match protocol {
        UpstreamProtocol::Http1 => b"http/1.1",
        UpstreamProtocol::Http2 => b"h2",
    }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(path)? {
        roots.add(certificate).map_err(|error| {
            let text = format!("a certificate in it cannot be trusted: {error}; write the authority's own certificate, as PEM");
            problem(Some(path), text)
        })?;
    }
    Ok(roots)
}

type Identity = (
    Vec<rustls_pki_types::CertificateDer<'static>>,
    rustls_pki_types::PrivateKeyDer<'static>,
);

fn identity(files: &CertificateFiles) -> Result<Identity, Vec<(&'static str, TlsProblem)>> {
    match (read_chain(&files.certificate), read_key(&files.private_key)) {
        (Ok(chain), Ok(key)) => Ok((chain, key)),
        (chain, key) => {
            let chain = chain.err().map(|problem| ("certificate", problem));
            let key = key.err().map(|problem| ("private_key", problem));
            Err(chain.into_iter().chain(key).collect())
        }
    }
}

fn unfit(files: &CertificateFiles, error: &rustls::Error) -> TlsProblem {
    let text = format!(
        "the private key cannot be used with the first certificate of {}: {error}; the two files must be from the same order, the chain leaf first",
        files.certificate.display()
    );
    problem(Some(&files.private_key), text)
}

fn whole(key: &'static str, error: &rustls::Error) -> Vec<(&'static str, TlsProblem)> {
    vec![(key, problem(None, format!("TLS cannot be set up: {error}")))]
}
