//! One thing asked for as the caller would, and what the answer says.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Request;
use http::StatusCode;
use http::Uri;
use http::header;
use http::uri::PathAndQuery;
use http_body::Body;

use crate::config::UpstreamProtocol;
use crate::gate::Admission;
use crate::guard::Bounds;
use crate::guard::Coding;
use crate::guard::Fault;
use crate::guard::Rules;
use crate::guard::Stage;
use crate::guard::form;
use crate::model::guard::Broken;
use crate::model::guard::Guard;
use crate::model::limit::Mode;
use crate::refusal::UpstreamFailure;
use crate::upstream::Answer;
use crate::upstream::Failure;
use crate::upstream::FailureKind;
use crate::upstream::Forwarded;
use crate::upstream::ResponseBody;
use crate::upstream::body::RequestBody;
use crate::upstream::deadline::Silence;
use crate::upstream::drain::Unread;
use crate::upstream::forward::Exchange;
use crate::upstream::headers;
use crate::upstream::inject;
use crate::upstream::prepared::Prepared;

/// Asks for one thing as the caller would.
///
/// # Errors
/// `FailureKind::ReferenceForeign` where it is not there for the caller; the backend's failure where it does not say.
pub(super) async fn look_up(
    exchange: &Exchange<'_>,
    prepared: &HeaderMap,
    target: PathAndQuery,
) -> Result<(), Failure> {
    let beside = exchange.beside();
    let config = &exchange.admission.snapshot().config;
    let silence = Silence::new(exchange.upstream.idle_timeout, exchange.end);
    let unread = Unread::of(&HeaderMap::new(), &config.connections);
    let body = RequestBody::none(Rc::clone(&beside.upload), silence, unread);
    let mut head = Request::new(()).into_parts().0;
    head.uri = Uri::from(target);
    head.headers = headers::of_lookup(prepared, &config.headers);
    let request = Prepared {
        head: Box::new(head),
        body: Box::new(body),
    };
    let forwarded = match exchange.upstream.protocol {
        UpstreamProtocol::Http2 => Box::pin(beside.run_http2(request)).await?,
        UpstreamProtocol::Http1 => Box::pin(beside.run(request)).await?,
    };
    match forwarded {
        Forwarded::Answer(answer) => judge(exchange, answer).await,
        // Nobody asked for it.
        Forwarded::Switched(switched) => Err(doubtful(exchange, &switched.server, "a tunnel")),
    }
}

/// What the backend's answer says.
async fn judge(exchange: &Exchange<'_>, answer: Answer) -> Result<(), Failure> {
    let status = answer.response.status();
    let (head, body) = answer.response.into_parts();
    let server = answer.server;
    match status {
        _ if status.is_success() => {}
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
            discard(body).await;
            return Err(foreign(
                &server,
                format!("{} to its lookup", status.as_u16()),
            ));
        }
        _ => {
            discard(body).await;
            let said = format!("{} to its lookup", status.as_u16());
            return Err(doubtful(exchange, &server, &said));
        }
    }
    let guard = exchange.admission.route().guard.as_deref();
    let watching = |guard: &&Guard| {
        guard.mode == Mode::Enforce && guard.answers.iter().any(|member| member.watch)
    };
    let Some(guard) = guard.filter(watching) else {
        discard(body).await;
        return Ok(());
    };
    let silent = exchange.upstream.first_byte_timeout;
    let watched = tokio::time::timeout(
        silent,
        watch(exchange.admission, guard, &head.headers, body),
    );
    match watched.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Doubt::Foreign)) => Err(foreign(
            &server,
            "the guard saw another tenant's id".to_owned(),
        )),
        Ok(Err(Doubt::Unclear(why))) => Err(doubtful(exchange, &server, why)),
        Err(_) => Err(doubtful(exchange, &server, "an answer that does not end")),
    }
}

/// Reads an answer as the route's guard would, for a backend that answers 200 to whoever asks.
async fn watch(
    admission: &Admission,
    guard: &Guard,
    headers: &HeaderMap,
    mut body: Box<ResponseBody>,
) -> Result<(), Doubt> {
    let media = headers.get(header::CONTENT_TYPE);
    let Some(form) = form(media.map_or(b"", |media| media.as_bytes())) else {
        return Ok(());
    };
    if inject::is_encoded(headers) {
        return Err(Doubt::Unclear("an encoded answer to a lookup in plain"));
    }
    let rules = Rules {
        members: Arc::clone(&guard.answers),
        own: admission
            .tenant()
            .map(|tenant| Arc::from(tenant.id.as_str())),
        lenient: guard.broken == Broken::Pass,
        sniff: false,
        insert: None,
    };
    let bounds = Bounds {
        bytes_max: guard.decoded_bytes_max,
        ratio_max: guard.decoded_ratio_max,
    };
    let mut stage = Stage::new(&rules, form, Coding::Identity, bounds)?;
    let mut bytes = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Doubt::Unclear("an answer that broke off"))?;
        let data = frame.into_data().unwrap_or_default();
        bytes += data.len();
        if bytes > ANSWER_BYTES_MAX {
            return Err(Doubt::Unclear("an answer too large to be judged"));
        }
        stage.push(data);
        while stage.pull()?.is_some() {}
    }
    stage.finish()?;
    Ok(())
}

/// Why an answer is not believed.
enum Doubt {
    Foreign,
    Unclear(&'static str),
}

impl From<Fault> for Doubt {
    fn from(fault: Fault) -> Doubt {
        match fault {
            Fault::Foreign(_) => Doubt::Foreign,
            Fault::Broken(why) | Fault::Undecodable(why) => Doubt::Unclear(why),
            Fault::Bomb => Doubt::Unclear("an answer too large to be judged"),
        }
    }
}

/// Takes an answer off its connection, so that the next request can have that, unless it is long.
async fn discard(mut body: Box<ResponseBody>) {
    let rest = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            bytes += frame.data_ref().map_or(0, |data| data.len());
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // Late is as good as long: the connection closes.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

fn foreign(server: &Rc<str>, detail: String) -> Failure {
    Failure {
        kind: FailureKind::ReferenceForeign,
        server: Some(Rc::clone(server)),
        detail,
    }
}

/// Neither yes nor no.
fn doubtful(exchange: &Exchange<'_>, server: &Rc<str>, said: &str) -> Failure {
    let name = &exchange.upstream.name;
    Failure {
        kind: FailureKind::Backend(UpstreamFailure::ProtocolError),
        server: Some(Rc::clone(server)),
        detail: format!("upstream {name}: {said}"),
    }
}

/// Largest answer to a lookup that a guard judges.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How much of an answer is read that nobody wants, and for how long.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);
