//! Plain data with its rules: keys, tenants, plans, routes. No I/O, no clock, no async.

pub mod admin_token;
pub mod binding;
pub mod credential;
pub mod denial;
pub mod display;
pub mod fields;
pub mod guard;
pub mod identity;
pub mod isolation;
pub mod issuer;
pub mod key;
pub mod key_text;
pub mod limit;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
pub mod request_id;
pub mod resource;
pub mod route;
pub mod scope;
pub mod seat;
pub mod source;
pub mod tenant;
pub mod web_origin;
