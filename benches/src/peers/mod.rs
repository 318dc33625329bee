//! Other ways to call, each as its documentation shows, with delays by Nagle's algorithm turned off.

pub(crate) mod jsonrpsee;
pub(crate) mod nats;
pub(crate) mod tarpc;
pub(crate) mod tonic;
