//! The state of a consumer group, as XINFO GROUPS tells it.

use rpc_core::EntryId;

use crate::entry;
use crate::resp::Value;

/// One group of the stream.
#[derive(Clone, Debug)]
pub(crate) struct GroupState {
    pub(crate) name: String,
    /// How many entries are handed out and not settled.
    pub(crate) pending: u64,
    /// How many have not been handed out, at the most; missing before Redis 7.0, nil where Redis cannot tell. Once entries
    /// were trimmed before they were handed out, these count, too.
    pub(crate) lag: Option<u64>,
    /// How many have been handed out since the stream began; known where the lag is.
    pub(crate) read: Option<u64>,
    pub(crate) delivered: EntryId,
}

impl GroupState {
    /// The groups in an answer to XINFO GROUPS; `None` if one is not understood.
    pub(crate) fn all(answer: Value) -> Option<Vec<Self>> {
        entry::list(answer).into_iter().map(Self::one).collect()
    }

    fn one(group: Value) -> Option<Self> {
        let group = entry::by_name(group);
        Some(Self {
            name: entry::text(group.get("name")?)?,
            pending: entry::number(group.get("pending")?)?,
            lag: group.get("lag").and_then(entry::number),
            read: group.get("entries-read").and_then(entry::number),
            delivered: entry::id(group.get("last-delivered-id")?)?,
        })
    }

    /// How many entries it has not settled in a stream of `length`, handed out or not; `None` where Redis cannot tell.
    pub(crate) fn unsettled(&self, length: u64) -> Option<u64> {
        Some(self.lag?.min(length).saturating_add(self.pending))
    }
}
