//! How far a stream reaches.

use redis::Cmd;
use rpc_core::EntryId;

use crate::connection::Connection;
use crate::connector::Connector;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::resp::Value;

/// What a stream holds, and how much it has been given since it was created. All zero for one that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) length: u64,
    /// How many entries have been added, those that are gone included; not known before Redis 7.0.
    pub(crate) added: Option<u64>,
    pub(crate) first: Option<EntryId>,
    /// The last id that was given out.
    pub(crate) last: EntryId,
}

/// A script, because the answer to XINFO STREAM carries the whole first and last entry along.
const EXTENT: &str = "\
    local info = redis.pcall('XINFO', 'STREAM', KEYS[1]) \
    if info.err then \
        if string.find(info.err, 'no such key') then return {0, '0-0', '', 0} end \
        return info \
    end \
    local found = {} \
    for i = 1, #info, 2 do found[info[i]] = info[i + 1] end \
    local first = found['first-entry'] \
    return {found['length'], found['last-generated-id'], first and first[1] or '', found['entries-added'] or -1}";

impl Extent {
    /// The command that asks for it: EVAL of XINFO STREAM.
    pub(crate) fn question(stream: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(EXTENT).arg(1).arg(stream);
        command
    }

    /// Reads the answer; `None` if it is not understood.
    pub(crate) fn read(answer: Value) -> Option<Self> {
        let parts = entry::list(answer);
        Some(Self {
            length: entry::number(parts.first()?)?,
            last: entry::id(parts.get(1)?)?,
            first: entry::id(parts.get(2)?),
            added: entry::number(parts.get(3)?),
        })
    }

    /// How many entries were added before the first one that is left, if that is known.
    pub(crate) fn gone(&self) -> Option<u64> {
        Some(self.added?.saturating_sub(self.length))
    }
}

/// The last id that a stream has given out: the place from which nothing later is missed. XINFO STREAM.
pub(crate) async fn last_id(
    connection: &mut Connection,
    connector: &Connector,
    key: &str,
) -> Result<EntryId, RedisStreamsError> {
    const COMMAND: &str = "XINFO STREAM";
    let mut question = redis::pipe();
    question.cmd("XINFO").arg("STREAM").arg(key);
    let answer = connector
        .ask_raw(connection, COMMAND, &question)
        .await?
        .pop()
        .unwrap_or_default();
    match entry::error(&answer) {
        // A stream that does not exist yet starts at zero.
        Some((_, text)) if text.contains("no such key") => return Ok(EntryId::ZERO),
        Some((_, answer)) => {
            return Err(RedisStreamsError::CommandRefused {
                command: COMMAND,
                answer,
            });
        }
        None => {}
    }
    let last = entry::by_name(answer).remove("last-generated-id");
    last.as_ref()
        .and_then(entry::id)
        .ok_or_else(|| RedisStreamsError::unexpected(COMMAND, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: i64, last: &str, first: &str, added: i64) -> Value {
        let text = |text: &str| Value::Bulk(text.to_owned().into());
        Value::Array(vec![Value::Int(length), text(last), text(first), Value::Int(added)])
    }

    #[test]
    fn the_answers_of_all_versions_are_read() {
        let id = |ms| EntryId { ms, seq: 0 };
        let new = Extent::read(answer(3, "9-0", "7-0", 10)).unwrap();
        assert_eq!((new.length, new.first, new.last), (3, Some(id(7)), id(9)));
        assert_eq!(new.gone(), Some(7));
        let old = Extent::read(answer(3, "9-0", "7-0", -1)).unwrap();
        assert_eq!((old.added, old.gone()), (None, None));
        assert_eq!(
            Extent::read(answer(0, "0-0", "", 0)).unwrap(),
            Extent {
                added: Some(0),
                ..Extent::default()
            }
        );
        assert_eq!(Extent::read(Value::Nil), None);
    }
}
