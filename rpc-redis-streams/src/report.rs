//! What Redis's answers to a flush mean.

use rpc_core::EntryId;
use rpc_core::io::SendFailure;
use rpc_core::message::{Request, Target};

use crate::outbox::Message;
use crate::wire::Parts;

/// What became of a message.
#[derive(Debug)]
pub(crate) enum Fate {
    Accepted(u64),
    Failed(u64, Target, SendFailure),
    Confirmed(EntryId),
}

/// What the answers to a flush mean.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) fates: Vec<Fate>,
    /// To be written again: Redis has not taken it.
    pub(crate) again: Vec<Message>,
    /// To be written again after a while: Redis refuses it for good.
    pub(crate) later: Vec<Message>,
    /// Whether the next flush is to be divided, because Redis has refused some of it only together with others.
    pub(crate) divide: bool,
    /// Requests that Redis refuses for good, if their arguments lie elsewhere.
    pub(crate) refused: Vec<Request>,
    /// Results that lie elsewhere, and whose callers are gone.
    pub(crate) unwanted: Vec<Parts>,
    /// Why.
    pub(crate) trouble: Option<String>,
    /// How many entries the stream had, if that was asked for.
    pub(crate) length: Option<u64>,
    /// The server has become a replica: another one is to be found behind the address.
    pub(crate) demoted: bool,
}

/// Whether an error of Redis's is about its state rather than about the command: it may pass.
pub(crate) fn is_passing(code: &str) -> bool {
    matches!(
        code,
        "OOM" | "LOADING" | "BUSY" | "READONLY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" | "MISCONF" | "NOREPLICAS"
    )
}
