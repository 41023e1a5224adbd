//! A client's JSON on its way to a backend: members that only the gateway may set are taken out, and ours put in (FM9).

use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;
use http::HeaderMap;
use http::HeaderName;
use http::header;

use crate::guard::Fault;
use crate::guard::Filter;
use crate::guard::Rules;
use crate::guard::Utf8;
use crate::guard::is_one_text;
use crate::guard::is_utf8;
use crate::model::guard::Guard;
use crate::model::guard::OtherTypes;

/// Rewrites one body, or only holds what of it was read before it goes on.
#[derive(Debug)]
pub(super) struct Inject {
    /// `None` where it goes on as it came.
    rewriting: Option<(Filter, Utf8)>,
    /// Whether anything has come: a request without a body stays one.
    begun: bool,
    ended: bool,
    /// What may go to the backend.
    ready: BytesMut,
    /// Largest body that is held until its length is known, in bytes.
    bytes_held: usize,
}

impl Inject {
    /// For a body with these headers; `None` when it passes as it is.
    ///
    /// # Errors
    /// A body of another type, where such are refused, or an encoded one: what nobody reads, nobody can change.
    pub(super) fn new(
        guard: &Guard,
        tenant: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<Box<Inject>>, ()> {
        if !is_json(headers) {
            return match guard.other_types {
                OtherTypes::Refuse => Err(()),
                OtherTypes::Pass => Ok(None),
            };
        }
        if is_encoded(headers) {
            return Err(());
        }
        let filter = Filter::new(&Rules {
            members: Arc::clone(&guard.requests),
            own: None,
            lenient: false,
            sniff: false,
            insert: Some(Arc::from(ours(guard, tenant))),
        });
        Ok(Some(Box::new(Inject {
            rewriting: Some((filter, Utf8::default())),
            begun: false,
            ended: false,
            ready: BytesMut::new(),
            bytes_held: guard.bytes_held,
        })))
    }

    /// For a body that goes on as it came; `ended` when no more of it will.
    pub(super) fn nothing(ended: bool) -> Box<Inject> {
        Box::new(Inject {
            rewriting: None,
            begun: true,
            ended,
            ready: BytesMut::new(),
            bytes_held: 0,
        })
    }

    /// Takes back what it gave.
    pub(super) fn put_back(&mut self, read: BytesMut) {
        let rest = std::mem::replace(&mut self.ready, read);
        self.ready.unsplit(rest);
    }

    /// Takes a piece of the client's.
    pub(super) fn feed(&mut self, piece: Bytes) -> Result<(), Fault> {
        self.begun |= !piece.is_empty();
        let Some((filter, utf8)) = &mut self.rewriting else {
            self.ready.extend_from_slice(&piece);
            return Ok(());
        };
        if !utf8.takes(&piece) {
            return Err(Fault::Broken("it is not UTF-8"));
        }
        let out = filter.feed(piece)?;
        self.ready.extend_from_slice(&out);
        Ok(())
    }

    /// The client's body is over.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.ended = true;
        if self.begun
            && let Some((filter, _)) = &mut self.rewriting
        {
            let out = filter.finish()?;
            self.ready.extend_from_slice(&out);
        }
        Ok(())
    }

    /// What may go on now.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        (!self.ready.is_empty()).then(|| self.ready.split().freeze())
    }

    /// Whether all of it has come.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether as much is ready as may be held.
    pub(super) fn is_full(&self) -> bool {
        self.ready.len() > self.bytes_held
    }

    /// The length of what is still to go, once that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.ended.then_some(self.ready.len() as u64)
    }
}

/// Whether a body with these headers is said to be one JSON text.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(media), None) => is_one_text(media.as_bytes()),
        _ => false,
    }
}

/// Whether it is said to be compressed, or to be other text than UTF-8.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        || !types.all(|media| is_utf8(media.as_bytes()))
}

/// The members that are set, as JSON without a comma at either end.
fn ours(guard: &Guard, tenant: Option<&str>) -> String {
    let tenant = tenant.unwrap_or_default();
    let members: Vec<String> = guard
        .set
        .iter()
        .map(|name| {
            // Neither holds a control character: the configuration refuses them, and tenant ids have none.
            let name = name.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{name}\":\"{tenant}\"")
        })
        .collect();
    members.join(",")
}

/// What a client says of its body and is no longer true.
pub(super) fn forget_digests(headers: &mut HeaderMap) {
    for name in ["content-md5", "digest", "content-digest", "repr-digest"] {
        headers.remove(HeaderName::from_static(name));
    }
}
