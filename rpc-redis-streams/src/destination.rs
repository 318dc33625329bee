//! Where messages are written.

use rpc_core::SessionId;

use crate::commands::Commands;
use crate::keys::Keys;
use crate::pieces::Pieces;
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

impl Destination {
    /// The inbox of this very channel.
    pub(crate) fn inbox(&self) -> String {
        self.keys.inbox(self.session)
    }
}

/// Adds an XADD of `message` to `key`.
pub(crate) fn add_entry(
    commands: &mut Commands,
    key: &str,
    max_len: Option<u64>,
    only_existing: bool,
    message: impl FnOnce(&mut Pieces),
) {
    begin_entry(commands, key, max_len, only_existing);
    commands.value(message);
}

/// Begins an XADD to `key`, of a value that follows. Its options stand before the id: behind it they would be fields.
pub(crate) fn begin_entry(commands: &mut Commands, key: &str, max_len: Option<u64>, only_existing: bool) {
    let options = usize::from(only_existing) + if max_len.is_some() { 3 } else { 0 };
    commands.command("XADD", 4 + options).arg(key);
    if only_existing {
        commands.arg("NOMKSTREAM");
    }
    if let Some(max_len) = max_len {
        commands.arg("MAXLEN").arg("~").number(max_len);
    }
    commands.arg("*").arg(wire::FIELD);
}
