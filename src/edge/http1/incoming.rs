//! What a client's bytes are taken from, by the shortest way that there is.

use std::io;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use bytes::BytesMut;
use tokio::io::AsyncBufRead;
use tokio_rustls::server::TlsStream;

use crate::edge::watched::Watched;
use crate::upstream::Transport;
use crate::upstream::poll_piece;

/// A client's connection.
pub(in crate::edge) trait Incoming: Transport {
    /// Puts what has come next behind what `into` holds, 16 KiB of it at most; zero is the end.
    fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>>;
}

impl Incoming for TlsStream<Watched> {
    /// What one TLS record held, from where it was decrypted. To read from the stream instead would copy it once more, and ask the socket whether there is
    /// another record.
    fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        let record = ready!(Pin::new(&mut *self).poll_fill_buf(cx))?;
        into.extend_from_slice(record);
        let count = record.len();
        Pin::new(self).consume(count);
        Poll::Ready(Ok(count))
    }
}

impl Incoming for Watched {
    fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_piece(self, cx, into)
    }
}

#[cfg(any(test, fuzzing))]
impl Incoming for tokio::io::DuplexStream {
    fn poll_more(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        poll_piece(self, cx, into)
    }
}
