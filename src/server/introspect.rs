//! Asks issuers about tokens that only they can read (RFC 7662): authenticated, bounded, and never on a data thread.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::StatusCode;
use http::header;
use zeroize::Zeroizing;

use crate::config::secrets;
use crate::token::Inquiry;
use crate::token::Tokens;

use super::fetch;
use super::fetch::Kept;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Makes the inquiries that come, each in a task of its own, for ever.
pub(crate) async fn answer_all(tokens: Arc<Tokens>) {
    let Some(mut inbox) = tokens.inquiries().inbox() else {
        return;
    };
    let kept = Arc::new(Kept::default());
    while let Some(inquiry) = inbox.recv().await {
        let (tokens, kept) = (Arc::clone(&tokens), Arc::clone(&kept));
        tokio::spawn(async move {
            let answer = ask(&inquiry, &kept).await;
            let issuer = inquiry.issuer.name.as_str();
            if let Err(why) = &answer {
                tracing::error!(issuer, %why, "the issuer cannot be asked about tokens; those that it answered for lately stay good for that time");
            }
            let understood = tokens.inquiries().end(&inquiry, answer.as_deref().ok());
            if answer.is_ok() && !understood {
                tracing::error!(
                    issuer,
                    "what the issuer answers about tokens is no answer of RFC 7662"
                );
            }
        });
    }
}

async fn ask(inquiry: &Inquiry, kept: &Kept) -> Result<Bytes, String> {
    let issuer = &inquiry.issuer;
    let Some(introspection) = &issuer.introspection else {
        return Err("its table does not say how".to_owned());
    };
    let source = introspection.secret.clone();
    let secret = tokio::task::spawn_blocking(move || secrets::read(&source)).await;
    let secret = secret.map_err(|_| "the secret could not be read".to_owned())??;
    // RFC 6749 section 2.3.1: both in the form's encoding first.
    let id = encoded(introspection.client_id.as_bytes());
    let pair = Zeroizing::new(format!(
        "{}:{}",
        id.as_str(),
        encoded(secret.as_bytes()).as_str()
    ));
    let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut basic = http::HeaderValue::from_str(&basic).map_err(|error| error.to_string())?;
    basic.set_sensitive(true);
    let request = Request::post("/")
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::AUTHORIZATION, basic);
    let form = format!(
        "token={}&token_type_hint=access_token",
        encoded(&inquiry.token).as_str()
    );
    let url = &introspection.endpoint;
    let (ca, timeout) = (issuer.ca.as_ref(), issuer.timeout);
    let (bytes_max, kept) = (ANSWER_BYTES_MAX, Some(kept));
    let answer = fetch::call(kept, url, ca, request, form.into(), bytes_max, timeout).await;
    let answer = answer.map_err(|why| format!("{}: {why}", url.text))?;
    match answer.status {
        StatusCode::OK => Ok(answer.body),
        status => Err(format!("{}: it answered {status}", url.text)),
    }
}

/// `application/x-www-form-urlencoded`: all but letters, digits and `- . _ ~` as `%XX`.
fn encoded(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 3));
    for byte in bytes {
        match byte {
            b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
