//! Hop-by-hop and forged headers out, our own in; and the backend's answer cleaned the same way.
//!
//! `request` makes a head fit for a backend and `answer` one fit for the client; `names` knows what passes neither way. `framing` says how long a
//! body is, `caches` who may keep an answer, `asked` what the client wants of the exchange. `passing` is what `answer` does, for fields that nobody has to look up.

mod answer;
mod asked;
mod caches;
mod framing;
mod names;
mod passing;
mod request;
#[cfg(test)]
mod tests;

pub(super) use answer::Identity;
pub(super) use answer::clean;
pub(super) use answer::clean_trailers;
pub(super) use answer::fault;
pub(super) use asked::grpc_timeout;
pub(super) use asked::takes_trailers;
pub(super) use framing::frame;
pub(super) use framing::frame_http2;
pub(super) use framing::restate_length;
pub(super) use passing::Passing;
pub(super) use request::Own;
pub(super) use request::clear;
pub(super) use request::of_lookup;
