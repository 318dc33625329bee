//! The service that the load calls.

use rpc_core::{Context, service};
use serde::{Deserialize, Serialize};

/// The stream it is served on.
pub(crate) const STREAM: &str = "chaos";

/// The group of its workers.
pub(crate) const GROUP: &str = "workers";

/// Who ran a call: its caller writes it down, so that every answer can be traced to the run that it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) attempt: u32,
    pub(crate) padding: String,
}

/// Calls of all sorts. The first argument is always the call's own id, by which everything is reconciled; what is pending
/// in Redis is told apart by it, too.
#[service(name = "load")]
pub(crate) trait Load {
    /// Returns at once, with the padding.
    async fn quick(&self, #[ctx] cx: &Context, id: u64, padding: String) -> Answer;

    /// Takes so many milliseconds.
    async fn slow(&self, #[ctx] cx: &Context, id: u64, ms: u64) -> Answer;

    /// The same, and must not run twice.
    #[rpc(at_most_once)]
    async fn once(&self, #[ctx] cx: &Context, id: u64, ms: u64) -> Answer;

    /// Returns an error.
    async fn fail(&self, #[ctx] cx: &Context, id: u64) -> Result<Answer, Answer>;

    /// Is notified.
    #[rpc(notify)]
    async fn note(&self, #[ctx] cx: &Context, id: u64);

    /// Kills its worker.
    async fn poison(&self, #[ctx] cx: &Context, id: u64) -> Answer;

    /// Takes so many milliseconds, and is recorded nowhere.
    async fn stall(&self, ms: u64) -> u64;
}
