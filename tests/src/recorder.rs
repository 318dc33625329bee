//! The service of the `peer` program.

/// The stream it is served on.
pub const STREAM: &str = "recorded";

/// Runs calls and remembers that it did.
#[rpc_core::service]
pub trait Recorder {
    /// Writes `n` down; returns who did.
    async fn record(&self, n: u64) -> String;
}
