//! How much of the stream is kept, and trimming what all groups have settled.

use redis::{RedisResult, Value};
use rpc_core::{EntryId, Mode};

use crate::connection::{Connection, Connector};
use crate::entry;
use crate::error::RedisStreamsError;
use crate::keys::Keys;

/// What is kept of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Everything that some group has not settled.
    Processed,
    /// About so many entries, settled or not.
    MaxLen(u64),
}

impl Retention {
    /// The default of `mode`, unless a bound is asked for.
    pub(crate) fn new(mode: Mode, max_len: Option<u64>) -> Self {
        match (mode, max_len) {
            (_, Some(max_len)) => Self::MaxLen(max_len),
            (Mode::Group, None) => Self::Processed,
            (Mode::Broadcast, None) => Self::MaxLen(crate::config::DEFAULT_BROADCAST_MAX_LEN),
        }
    }

    /// How it stands in the stream's `meta`.
    pub(crate) fn to_meta(self) -> String {
        match self {
            Self::Processed => "processed".to_owned(),
            Self::MaxLen(n) => format!("maxlen {n}"),
        }
    }

    pub(crate) fn from_meta(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            Some(("maxlen", n)) => n.parse().ok().map(Self::MaxLen),
            _ => (text == "processed").then_some(Self::Processed),
        }
    }

    /// The bound to be given to XADD.
    pub(crate) fn max_len(self) -> Option<u64> {
        match self {
            Self::Processed => None,
            Self::MaxLen(n) => Some(n),
        }
    }
}

/// Records the settled floor in `meta`: the oldest entry that some group has not acknowledged, where a group that joins
/// later, or has to be created again, starts. Trims the stream up to there, unless another bound is set. Returns the floor.
///
/// XINFO GROUPS, XPENDING for each group that has something pending, XTRIM MINID ~, HSET. Nothing is written when the
/// floor is still `last_floor`.
pub(crate) fn settle_floor(
    connection: &mut redis::Connection,
    keys: &Keys,
    retention: Retention,
    last_floor: EntryId,
) -> RedisResult<EntryId> {
    let groups: Value = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(&keys.requests)
        .query(connection)?;
    let mut floor: Option<EntryId> = None;
    for group in entry::list(groups) {
        let Some(settled) = settled_floor(connection, keys, group)? else {
            // Not understood: better to trim nothing.
            return Ok(last_floor);
        };
        floor = Some(floor.map_or(settled, |floor| floor.min(settled)));
    }
    match floor {
        Some(floor) if floor > last_floor => {
            let mut settle = redis::pipe();
            settle.cmd("HSET").arg(&keys.meta).arg("floor").arg(floor.to_string());
            if retention == Retention::Processed {
                settle
                    .cmd("XTRIM")
                    .arg(&keys.requests)
                    .arg("MINID")
                    .arg("~")
                    .arg(floor.to_string());
            }
            settle.exec(connection)?;
            Ok(floor)
        }
        _ => Ok(last_floor),
    }
}

/// The first entry that a group has not settled.
fn settled_floor(connection: &mut redis::Connection, keys: &Keys, group: Value) -> RedisResult<Option<EntryId>> {
    let group = entry::by_name(group);
    let (Some(name), Some(pending), Some(delivered)) = (
        group.get("name").and_then(entry::text),
        group.get("pending").and_then(entry::number),
        group.get("last-delivered-id").and_then(entry::id),
    ) else {
        return Ok(None);
    };
    if pending == 0 {
        return Ok(Some(delivered.next()));
    }
    let summary: Value = redis::cmd("XPENDING")
        .arg(&keys.requests)
        .arg(&name)
        .query(connection)?;
    // Settled between the two commands, if there is no oldest one any more: then the group is a little ahead of this.
    let oldest = entry::list(summary).get(1).and_then(entry::id);
    Ok(Some(oldest.unwrap_or(delivered)))
}

/// How many entries wait for the group that has most, unread or unsettled; `None` where Redis cannot tell. XINFO GROUPS.
pub(crate) async fn backlog(
    connection: &mut Connection,
    connector: &Connector,
    keys: &Keys,
) -> Result<Option<u64>, RedisStreamsError> {
    const COMMAND: &str = "XINFO GROUPS";
    let mut question = redis::pipe();
    question.cmd("XINFO").arg("GROUPS").arg(&keys.requests);
    let answer = connector.ask(connection, COMMAND, &question).await?.pop();
    let waiting = entry::list(answer.unwrap_or_default()).into_iter().map(|group| {
        let group = entry::by_name(group);
        let number = |name: &str| group.get(name).and_then(entry::number);
        Some(number("pending")? + number("lag")?)
    });
    // One group that cannot be told makes the greatest unknown.
    Ok(waiting
        .collect::<Option<Vec<u64>>>()
        .and_then(|waiting| waiting.into_iter().max()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_reads_back_from_meta() {
        for retention in [Retention::Processed, Retention::MaxLen(7)] {
            assert_eq!(Retention::from_meta(&retention.to_meta()), Some(retention));
        }
        assert_eq!(Retention::from_meta("maxlen many"), None);
        assert_eq!(Retention::from_meta("for ever"), None);
    }
}
