//! Holds a client's whole body, within a bound, so that it can be looked into before anybody else sees any of it.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::BytesMut;
use http_body::Body;

use crate::upstream::Failure;
use crate::upstream::body::BodyFault;
use crate::upstream::forward::Exchange;
use crate::upstream::headers;
use crate::upstream::prepared::Prepared;

/// Reads the whole body, as the backend would get it, and states its length; to be put back by `begin_again`.
///
/// # Errors
/// It is larger than `bytes_max`, or the client failed while sending it.
pub(super) async fn hold(
    exchange: &Exchange<'_>,
    bytes_max: usize,
    request: &mut Prepared,
) -> Result<BytesMut, Failure> {
    let announced = request.body.size_hint().lower();
    if announced > bytes_max as u64 {
        return Err(exchange.client_failed(BodyFault::TooLarge, None));
    }
    let body = &mut *request.body;
    let mut read = BytesMut::new();
    while read.len() <= bytes_max {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|fault| exchange.client_failed(fault, None))?;
        read.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    if read.len() > bytes_max {
        body.begin_again(read);
        return Err(exchange.client_failed(BodyFault::TooLarge, None));
    }
    headers::restate_length(&mut request.head.headers, read.len() as u64);
    Ok(read)
}
