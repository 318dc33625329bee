//! Where messages are written.

use redis::Cmd;
use rpc_core::SessionId;

use crate::keys::Keys;
use crate::wire;

/// Where a channel writes, and as whom.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) keys: Keys,
    pub(crate) session: SessionId,
    /// The group that acknowledgements are for, and this consumer's name in it.
    pub(crate) group: String,
    pub(crate) consumer: String,
}

/// XADD as far as its options, which stand before the id: behind it they would be fields.
pub(crate) fn xadd(key: &str, max_len: Option<u64>, only_existing: bool) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(key);
    if only_existing {
        command.arg("NOMKSTREAM");
    }
    if let Some(max_len) = max_len {
        command.arg("MAXLEN").arg("~").arg(max_len);
    }
    command
}

pub(crate) fn with_message(mut command: Cmd, message: Vec<u8>) -> Cmd {
    command.arg("*").arg(wire::FIELD).arg(message);
    command
}
