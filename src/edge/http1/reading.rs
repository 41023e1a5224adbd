//! Where in a request the reader of its body stands (RFC 9112 section 6).

use bytes::Bytes;
use bytes::BytesMut;

use crate::upstream::ClientFault;
use crate::upstream::http1::Chunks;
use crate::upstream::http1::Next;

use super::head::Framing;

/// What is left of a request behind its head.
#[derive(Debug)]
pub(super) enum Reading {
    /// All of it is read.
    Done,
    /// So many bytes.
    Length(u64),
    Chunked(Chunks),
    /// Its framing is broken, or it ended before its end.
    Broken(ClientFault),
}

impl Reading {
    /// Behind a head that says so.
    pub(super) fn of(framing: Framing) -> Reading {
        match framing {
            Framing::Length(0) => Reading::Done,
            Framing::Length(length) => Reading::Length(length),
            Framing::Chunked => Reading::Chunked(Chunks::new()),
        }
    }

    /// How many bytes are to come, if that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Reading::Done => Some(0),
            Reading::Length(rest) => Some(*rest),
            Reading::Chunked(_) | Reading::Broken(_) => None,
        }
    }

    /// Takes what is there of the body; `None` when there is nothing, at its end or before.
    ///
    /// # Errors
    /// From when it is broken.
    pub(super) fn take(&mut self, received: &mut BytesMut) -> Result<Option<Bytes>, ClientFault> {
        match self {
            Reading::Done => Ok(None),
            Reading::Length(rest) => {
                let there = usize::try_from(*rest).map_or(received.len(), |rest| {
                    // No more than was announced.
                    rest.min(received.len())
                });
                if there == 0 {
                    return Ok(None);
                }
                let data = match there == received.len() {
                    true => std::mem::take(received).freeze(),
                    false => received.split_to(there).freeze(),
                };
                *rest -= there as u64;
                if *rest == 0 {
                    *self = Reading::Done;
                }
                Ok(Some(data))
            }
            Reading::Chunked(chunks) => match chunks.next(received) {
                Ok(Next::Data(data)) => {
                    if chunks.ends_here(received) {
                        *self = Reading::Done;
                    }
                    Ok(Some(data))
                }
                // Trailers do not go on (S11).
                Ok(Next::End(_)) => {
                    *self = Reading::Done;
                    Ok(None)
                }
                Ok(Next::More) => Ok(None),
                Err(malformed) => {
                    tracing::debug!(why = malformed.0, "a client's body is malformed");
                    *self = Reading::Broken(ClientFault::Malformed);
                    Err(ClientFault::Malformed)
                }
            },
            Reading::Broken(fault) => Err(*fault),
        }
    }
}
