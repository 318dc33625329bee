//! Where a channel writes, and as whom.

use rpc_core::SessionId;

use crate::keys::Keys;

/// Where a channel writes, and as whom.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) keys: Keys,
    pub(crate) session: SessionId,
    /// The group that acknowledgements are for, and this consumer's name in it.
    pub(crate) group: String,
    pub(crate) consumer: String,
}
