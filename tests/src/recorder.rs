//! The service of the `peer` program.

use rpc_core::{Context, service};

/// The stream it is served on.
pub const STREAM: &str = "recorded";

/// Runs calls and remembers that it did.
#[service]
pub trait Recorder {
    /// Writes `n` down; returns who did.
    async fn record(&self, n: u64) -> String;

    /// The same, for a call that must not run twice.
    #[rpc(at_most_once)]
    async fn record_once(&self, n: u64) -> String;

    /// Says that it has begun, and never ends at the first attempt; returns the attempt at a later one.
    async fn stall(&self, #[ctx] cx: &Context) -> u32;

    /// The same, for a call that must not run twice.
    #[rpc(at_most_once)]
    async fn stall_once(&self, #[ctx] cx: &Context) -> u32;

    /// Says that it has begun, and never ends on the peer named `one`; returns the name of any other.
    #[rpc(dedupe = "10m")]
    async fn stall_on_one(&self) -> String;

    /// Kills its worker.
    async fn poison(&self) -> u32;
}
