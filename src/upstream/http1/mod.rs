//! HTTP/1.1 towards a backend: one connection, one exchange at a time, driven by who waits for the answer.
//!
//! A request's own task writes and reads the socket, but that requests which come at once are begun by one for all: no task of the connection's, no channel
//! between, no copy of the head for a second try.
//! An idle connection is a socket and nothing else. Chunks are read here for clients, too.

mod chunks;
mod connection;
mod head;
mod lines;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
#[cfg(test)]
mod tests;

pub(crate) use chunks::Chunks;
pub(crate) use chunks::Next;
pub(super) use connection::Connection;
pub(super) use connection::Limits;
pub(super) use connection::SharedConnection;
#[cfg(test)]
pub(super) use head::take;
#[cfg(test)]
pub(super) use head::write;
pub(super) use lines::Kind;
pub(super) use lines::Lines;

use crate::upstream::http1::chunks::Malformed;

/// Why an exchange came to nothing.
#[derive(Debug)]
pub(super) enum Fault {
    /// Not a byte of the request was written.
    Unsent(String),
    /// The connection ended before the head of the answer was there.
    Ended {
        /// Whether some of the answer had come.
        answering: bool,
        /// For the log.
        detail: String,
    },
    /// The head of the answer has too many bytes or fields.
    HeadTooLarge,
    /// What came is not HTTP/1.1, or can be read in two ways; for the log.
    Protocol(&'static str),
    /// The body of the request failed; why is known to it.
    Client,
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::Protocol(malformed.0)
    }
}
