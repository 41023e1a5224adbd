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
use crate::model::guard::Guard;
use crate::model::guard::OtherTypes;

/// Rewrites one body.
#[derive(Debug)]
pub(super) struct Inject {
    filter: Filter,
    utf8: Utf8,
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
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let is_json = match (types.next(), types.next()) {
            (Some(media), None) => is_one_text(media.as_bytes()),
            _ => false,
        };
        if !is_json {
            return match guard.other_types {
                OtherTypes::Refuse => Err(()),
                OtherTypes::Pass => Ok(None),
            };
        }
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(());
        }
        Ok(Some(Box::new(Inject {
            filter: Filter::new(&Rules {
                members: Arc::clone(&guard.requests),
                own: None,
                lenient: false,
                sniff: false,
                insert: Some(Arc::from(ours(guard, tenant))),
            }),
            utf8: Utf8::default(),
            begun: false,
            ended: false,
            ready: BytesMut::new(),
            bytes_held: guard.bytes_held,
        })))
    }

    /// Takes a piece of the client's.
    pub(super) fn feed(&mut self, piece: Bytes) -> Result<(), Fault> {
        self.begun |= !piece.is_empty();
        if !self.utf8.takes(&piece) {
            return Err(Fault::Broken("it is not UTF-8"));
        }
        let out = self.filter.feed(piece)?;
        self.ready.extend_from_slice(&out);
        Ok(())
    }

    /// The client's body is over.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        self.ended = true;
        if self.begun {
            let out = self.filter.finish()?;
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
