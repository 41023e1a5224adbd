//! Portcullis: a reverse-proxy gateway. Modules stand in the order a request meets them.

// The way of a request.
pub mod access_log;
pub mod alerts;
pub mod edge;
pub mod gate;
pub mod guard;
pub mod handler;
pub mod metrics;
pub mod quota;
pub mod refusal;
mod socket;
pub mod token;
pub mod upstream;

// The way of a change.
pub mod config;
mod meter;
pub mod model;
pub mod observed;
pub mod pem;
mod prefetch;
pub mod snapshot;
pub mod store;
pub mod usage;

// The operator.
pub mod admin;
pub mod aside;
pub mod cli;
pub mod clock;
pub mod descriptors;
pub mod server;
pub mod shutdown;

// Only for the fuzz targets, which are another crate.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
