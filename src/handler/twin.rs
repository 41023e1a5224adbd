//! The 404 twin: what is another's looks like what is not there, byte for byte (FA20, FM7).

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;
use http::response::Parts;
use http_body_util::BodyExt;
use http_body_util::Limited;

use crate::gate::Ended;
use crate::gate::Foreign;
use crate::upstream;
use crate::upstream::FailureKind;
use crate::upstream::ResponseBody;

use super::account::Account;
use super::answer;
use super::in_flight::Flight;

/// Makes an answer's body readable to us, where the id that it repeats is to be put right.
/// It opens no tunnel.
pub(crate) fn prepare(headers: &mut HeaderMap, foreign: &Foreign) {
    headers.remove(header::UPGRADE);
    if !foreign.echo.is_empty() {
        headers.remove(header::ACCEPT_ENCODING);
        headers.remove(header::RANGE);
    }
}

/// What a request for what is another's is answered.
pub(crate) enum Twin {
    /// The backend's own 404, to be passed on like any other.
    Backend(upstream::Answer),
    /// Words of the gateway's, or the backend's with the id put right.
    Own(Response<Bytes>),
    /// Nothing of it: the key has ended meanwhile.
    Ended(Ended),
}

/// Answers a request for what is another's: with the backend's own 404 for what cannot exist, or, where the backend said anything else, with
/// the gateway's.
pub(crate) async fn answer(
    account: &mut Account,
    flight: &Flight,
    answered: upstream::Answer,
    foreign: &Foreign,
) -> Twin {
    account.foreign(foreign);
    account.forwarded(Rc::clone(&answered.server), answered.response.status());
    if answered.response.status() != StatusCode::NOT_FOUND {
        return Twin::Own(made(account, flight));
    }
    if foreign.echo.is_empty() {
        return Twin::Backend(answered);
    }
    let (head, body) = answered.response.into_parts();
    let text = match whole(&head, body, flight).await {
        Err(ended) => return Twin::Ended(ended),
        Ok(text) => text.and_then(|text| echoed(text, &foreign.echo)),
    };
    let Some(text) = text else {
        return Twin::Own(made(account, flight));
    };
    flight.refuses();
    let response = Response::from_parts(restated(head, text.len(), account.is_head()), text);
    Twin::Own(answer::finish(response, flight.admission(), account))
}

/// The gateway's own words for it.
fn made(account: &mut Account, flight: &Flight) -> Response<Bytes> {
    flight.refuses();
    let answer = answer::twin(account, flight.admission());
    account.status(answer.status());
    answer
}

/// The same instead of an answer in which a guard saw what is another's.
pub(crate) fn instead(
    account: &mut Account,
    flight: &Flight,
    reason: &'static str,
) -> Response<Bytes> {
    let answer = made(account, flight);
    account.failed(reason, String::new(), answer.status());
    answer
}

/// The same instead of a write that names in its body what the caller has not (FM10).
pub(crate) fn of_reference(
    account: &mut Account,
    flight: &Flight,
    detail: String,
) -> Response<Bytes> {
    let answer = made(account, flight);
    account.refers_to_foreign(FailureKind::ReferenceForeign.reason(), detail);
    answer
}

/// The whole body, if it is plain and not too long.
async fn whole(
    head: &Parts,
    body: Box<ResponseBody>,
    flight: &Flight,
) -> Result<Option<Bytes>, Ended> {
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(None);
    }
    let mut collected = pin!(Limited::new(body, ECHO_BYTES_MAX).collect());
    let collected =
        poll_fn(|cx| flight.poll_unless_ended(cx, |cx| collected.as_mut().poll(cx))).await?;
    Ok(collected.ok().map(|collected| collected.to_bytes()))
}

/// The text with each id that was asked of the backend replaced by the one that the client asked for.
fn echoed(text: Bytes, ids: &[(String, String)]) -> Option<Bytes> {
    let mut text = String::from_utf8(text.into()).ok()?;
    for (probe, asked) in ids {
        let asked = asked.replace("%3A", ":").replace("%40", "@");
        // Nothing that HTML, JSON or a URL would have to escape: an answer is no place for a stranger's markup.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
        if !asked.bytes().all(plain) {
            return None;
        }
        if text.len() + text.matches(probe).count() * asked.len() > 2 * ECHO_BYTES_MAX {
            return None;
        }
        text = text.replace(probe, &asked);
    }
    Some(text.into())
}

/// A head that is true of other bytes than it came with.
fn restated(mut head: Parts, length: usize, is_head: bool) -> Parts {
    const OF_BYTES: [HeaderName; 5] = [
        header::ETAG,
        header::ACCEPT_RANGES,
        HeaderName::from_static("digest"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("content-md5"),
    ];
    for name in OF_BYTES {
        head.headers.remove(name);
    }
    if is_head {
        head.headers.remove(header::CONTENT_LENGTH);
    } else {
        let length = HeaderValue::from(length);
        head.headers.insert(header::CONTENT_LENGTH, length);
    }
    head
}

/// Longest 404 of a backend that is held to put an id right.
const ECHO_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_put_right_or_the_answer_is_ours() {
        let ids = |asked: &str| vec![("zzz".to_owned(), asked.to_owned())];
        let echo = |text: &'static str, asked: &str| {
            let text = echoed(Bytes::from_static(text.as_bytes()), &ids(asked))?;
            String::from_utf8(text.into()).ok()
        };
        assert_eq!(echo("no zzz, zzz", "bravo").unwrap(), "no bravo, bravo");
        assert_eq!(echo("no zzz", "a%40b%3A7").unwrap(), "no a@b:7");
        assert_eq!(echo("no zzz", "%3Cscript%3E"), None);
        assert_eq!(echo("no zzz", "a%22"), None);
        assert_eq!(echo("nothing", "x").unwrap(), "nothing");
        let many = Bytes::from("zzz".repeat(10_000));
        assert_eq!(echoed(many, &ids(&"a".repeat(100))), None);
    }
}
