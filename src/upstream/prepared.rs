//! A request as it goes out, but for what depends on the server that gets it.

use http::request::Parts;

use crate::upstream::body::RequestBody;

/// Both on the heap: they go from hand to hand, and stay where they are meanwhile.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) head: Box<Parts>,
    pub(super) body: Box<RequestBody>,
}
