//! What stands in a body: JSON read as it flows, members taken out or put in, another tenant's id noticed; pure, in flat memory.
//!
//! `names` knows a member in every spelling; `json` is the filter; `events` applies it to server-sent events; `media` knows the types; `decode` undoes
//! gzip, br and zstd within bounds; `stage` puts them together for one body. Nothing here knows HTTP.

mod decode;
mod events;
mod json;
mod media;
mod names;
mod stage;
#[cfg(test)]
mod tests;

pub use decode::Bounds;
pub use decode::Coding;
pub use json::Filter;
pub use json::Rules;
pub use media::Utf8;
pub use media::form;
pub use media::is_one_text;
pub use media::is_utf8;
pub use names::same_member;
pub use stage::Form;
pub use stage::Stage;

/// Why a body does not go on. What came out before is always a prefix of what a sound body would have become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Another tenant's id stands in the member of this index.
    Foreign(usize),
    /// It is no JSON, or none that can be judged; says what is wrong with it.
    Broken(&'static str),
    /// It cannot be decoded; says what is wrong with it.
    Undecodable(&'static str),
    /// It would become larger than the bounds allow.
    Bomb,
}
