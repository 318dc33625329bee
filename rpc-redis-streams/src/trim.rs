//! Trimming what all groups have settled: the work of one worker, which leads the others.

use redis::{RedisResult, Value};
use rpc_core::EntryId;

use crate::entry;
use crate::keys::Keys;
use crate::retention::Retention;

/// Trims one stream.
#[derive(Debug)]
pub(crate) struct Trimmer {
    keys: Keys,
    retention: Retention,
    /// As it was last recorded.
    floor: EntryId,
}

impl Trimmer {
    pub(crate) fn new(keys: Keys, retention: Retention) -> Self {
        Self {
            keys,
            retention,
            floor: EntryId::ZERO,
        }
    }

    /// Records the settled floor in `meta`: the oldest entry that some group has not acknowledged, where a group that joins
    /// later, or has to be created again, starts. Trims the stream up to there, unless another bound is set. Returns
    /// whether the floor has moved.
    ///
    /// XINFO GROUPS, XPENDING for each group that has something pending, and, if the floor has moved, XTRIM MINID ~ and
    /// HSET.
    pub(crate) fn trim(&mut self, connection: &mut redis::Connection) -> RedisResult<bool> {
        let groups: Value = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(&self.keys.requests)
            .query(connection)?;
        let mut floor: Option<EntryId> = None;
        for group in entry::list(groups) {
            let Some(settled) = self.settled_by(connection, group)? else {
                // Not understood: better to trim nothing.
                return Ok(false);
            };
            floor = Some(floor.map_or(settled, |floor| floor.min(settled)));
        }
        let Some(floor) = floor.filter(|floor| *floor > self.floor) else {
            return Ok(false);
        };
        let mut settle = redis::pipe();
        let meta = &self.keys.meta;
        settle.cmd("HSET").arg(meta).arg("floor").arg(floor.to_string());
        if self.retention == Retention::Processed {
            settle
                .cmd("XTRIM")
                .arg(&self.keys.requests)
                .arg("MINID")
                .arg("~")
                .arg(floor.to_string());
        }
        settle.exec(connection)?;
        self.floor = floor;
        Ok(true)
    }

    /// The first entry that a group has not settled.
    fn settled_by(&self, connection: &mut redis::Connection, group: Value) -> RedisResult<Option<EntryId>> {
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
            .arg(&self.keys.requests)
            .arg(&name)
            .query(connection)?;
        // Settled between the two commands, if there is no oldest one any more: then the group is a little ahead of this.
        let oldest = entry::list(summary).get(1).and_then(entry::id);
        Ok(Some(oldest.unwrap_or(delivered)))
    }
}
