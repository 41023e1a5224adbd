//! Keeps the keys of issuers fetched: ahead of need, when somebody asks for one that is not there, and through outages.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header;

use crate::clock::Clock;
use crate::config::Config;
use crate::config::secrets;
use crate::model::issuer::Issuer;
use crate::model::issuer::KeySource;
use crate::snapshot::Snapshot;
use crate::token::IssuerKeys;
use crate::token::Tokens;
use crate::token::keys::BYTES_MAX;
use crate::token::keys::KeySet;

use super::error::StartError;
use super::fetch;

/// How often it is looked whether anything is due, when nobody asks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often remembered tokens are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// How often a file of keys is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Fetches what is due and what is asked for, for ever.
pub(crate) async fn keep_fetched(
    tokens: Arc<Tokens>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    clock: Clock,
) {
    let mut swept = clock.now().mono;
    loop {
        let now = clock.now();
        if now.mono.since(swept) >= SWEEP_INTERVAL {
            swept = now.mono;
            tokens.sweep(&snapshot.load(), now);
        }
        let config = Arc::clone(&snapshot.load().config);
        for keys in tokens.issuers().keep(&config.issuers) {
            let Some(source) = keys.issuer().keys.clone() else {
                continue;
            };
            let ahead = match source {
                KeySource::File(_) => FILE_INTERVAL,
                KeySource::Url(_) => keys.issuer().refresh,
            };
            if keys.begin(now.mono, ahead) {
                tokio::spawn(fetch_one(keys, source));
            }
        }
        let _ = tokio::time::timeout(LOOK_INTERVAL, tokens.issuers().woken()).await;
    }
}

async fn fetch_one(keys: Arc<IssuerKeys>, source: KeySource) {
    let issuer = keys.issuer();
    let fetched = match &source {
        KeySource::File(path) => read_file(path.clone()).await,
        KeySource::Url(url) => fetch_url(issuer, url).await,
    };
    let name = issuer.name.as_str();
    let failed = |why: &str| {
        tracing::error!(issuer = name, %why, keys = keys.set().len(), "the keys of this issuer cannot be had; those that are known stay in use");
    };
    match fetched {
        Err(why) => {
            let _ = keys.end(None);
            failed(&why);
        }
        Ok(text) => match keys.end(Some(&text)) {
            Err(why) => failed(&why),
            Ok(true) => {
                tracing::info!(
                    issuer = name,
                    keys = keys.set().len(),
                    "new keys of this issuer"
                );
            }
            Ok(false) => {}
        },
    }
}

async fn fetch_url(issuer: &Issuer, url: &crate::model::issuer::Endpoint) -> Result<Bytes, String> {
    let request =
        Request::get("/").header(header::ACCEPT, "application/jwk-set+json, application/json");
    let (ca, timeout) = (issuer.ca.as_ref(), issuer.timeout);
    let answer = fetch::call(None, url, ca, request, Bytes::new(), BYTES_MAX, timeout).await;
    let answer = answer.map_err(|why| format!("{}: {why}", url.text))?;
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        status => Err(format!("{}: it answered {status}", url.text)),
    }
}

async fn read_file(path: std::path::PathBuf) -> Result<Bytes, String> {
    let read = tokio::task::spawn_blocking(move || file_text(&path)).await;
    read.unwrap_or_else(|_| Err("the file could not be read".to_owned()))
}

fn file_text(path: &Path) -> Result<Bytes, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_or(0, |data| data.len());
    if length > BYTES_MAX as u64 {
        return Err(format!("{shown}: it is larger than {BYTES_MAX} bytes"));
    }
    let text = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    Ok(text.into())
}

/// Whether the files of keys and authorities that the configuration names can be used. Blocking.
///
/// # Errors
/// All that cannot, and the way out.
pub(crate) fn check_files(config: &Config) -> Result<(), StartError> {
    let mut problems = Vec::new();
    for issuer in &config.issuers {
        let name = &issuer.name;
        if let Some(KeySource::File(path)) = &issuer.keys {
            let read = file_text(path).and_then(|text| {
                KeySet::read(&text, &issuer.algorithms, 1)
                    .map_err(|why| format!("{}: {why}", path.display()))
            });
            if let Err(why) = read {
                problems.push(format!("[issuers.{name}] jwks_file: {why}"));
            }
        }
        if let Some(introspection) = &issuer.introspection
            && let Err(why) = secrets::read(&introspection.secret)
        {
            problems.push(format!("[issuers.{name}] client_secret: {why}"));
        }
        if let Some(ca) = &issuer.ca
            && let Err(problem) = crate::upstream::tls::trusting(Some(ca))
        {
            problems.push(format!("[issuers.{name}] ca: {problem}"));
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(StartError::config(problems.join("\n"))),
    }
}
