//! What a guard does with the JSON of a route: members taken out of answers, tenants watched for, members set in requests.

use std::sync::Arc;

use http::HeaderName;

use crate::model::limit::Mode;

/// Longest name of a guarded member, in bytes; a longer one could not be told apart in a bounded buffer.
pub const MEMBER_BYTES_MAX: usize = 64;

/// Most members of one list.
pub const MEMBERS_MAX: usize = 16;

/// One `[guards.NAME]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The name that routes call it by.
    pub name: String,
    /// What is looked for in answers.
    pub answers: Arc<[Member]>,
    /// What becomes of an answer in which another tenant's id stands.
    pub foreign: Foreign,
    /// What becomes of an answer that calls itself JSON and is not.
    pub broken: Broken,
    /// Whether answers are changed, or what would be done is only reported.
    pub mode: Mode,
    /// How much of an answer is looked at before its head is sent, in bytes; 0 holds nothing.
    pub bytes_held: usize,
    /// How much a compressed answer may become, in bytes.
    pub decoded_bytes_max: u64,
    /// How many times its own size a compressed answer may become.
    pub decoded_ratio_max: u64,
    /// Header fields taken out of answers.
    pub remove_headers: Vec<HeaderName>,
    /// Members taken out of request bodies at their top, those that are set included.
    pub requests: Arc<[Member]>,
    /// Members of request bodies that are set to the caller's tenant.
    pub set: Vec<String>,
    /// What becomes of a request body that is not said to be JSON.
    pub other_types: OtherTypes,
}

impl Guard {
    /// Whether request bodies are changed.
    #[must_use]
    pub fn changes_requests(&self) -> bool {
        !self.requests.is_empty()
    }
}

/// A member of JSON objects that a guard knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, 1 to `MEMBER_BYTES_MAX` bytes.
    pub name: String,
    /// Whether it is taken out.
    pub remove: bool,
    /// Whether its value must be the caller's tenant.
    pub watch: bool,
}

/// What becomes of an answer that holds another tenant's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// 404, as if there were nothing; later than `bytes_held` the answer is cut.
    NotFound,
    /// 502; later than `bytes_held` the answer is cut.
    BadGateway,
    /// Cut at sight; the head is not held for it.
    Cut,
}

/// What becomes of an answer that calls itself JSON and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// 502; later than `bytes_held` the answer is cut.
    Refuse,
    /// Passed on as it is, unless something was taken out of it before: then cut.
    Pass,
}

/// What becomes of a request body of another type than JSON on a route that sets members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherTypes {
    /// 415.
    Refuse,
    /// Passed on as it is.
    Pass,
}
