//! Trimming what all groups have settled: the work of one worker, which leads the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::RedisResult;
use rpc_core::EntryId;
use rpc_core::io::Endpoint;

use crate::abandoned::Stalled;
use crate::bound::Bound;
use crate::entry;
use crate::extent::Extent;
use crate::groups::GroupState;
use crate::keys::Keys;
use crate::lasting::Lasting;
use crate::patience::PatientConnection;
use crate::registry::count_live;
use crate::resp::Value;
use crate::retention::Retention;

/// After so many death times without progress a group is asked after: long enough for its only worker to be restarted.
const STILL: u32 = 6;

/// Trims one stream.
#[derive(Debug)]
pub(crate) struct Trimmer {
    keys: Keys,
    /// Its own group, if it is of one.
    group: String,
    /// Of a stream that is cut to a length, whatever is settled.
    bound: Option<Bound>,
    death_time: Duration,
    /// The other groups that there were.
    others: Vec<String>,
    /// As it was last recorded.
    floor: EntryId,
    stalled: Stalled,
    endpoint: Arc<dyn Endpoint>,
    /// What was dropped unprocessed, in all.
    dropped: u64,
    /// That the stream drops work, and that it is about to.
    dropping: Lasting,
    filling: Lasting,
}

impl Trimmer {
    pub(crate) fn new(
        keys: Keys,
        group: String,
        retention: Retention,
        death_time: Duration,
        endpoint: Arc<dyn Endpoint>,
    ) -> Self {
        Self {
            keys,
            group,
            bound: retention.max_len().map(Bound::new),
            death_time,
            others: Vec::new(),
            floor: EntryId::ZERO,
            stalled: Stalled::new(death_time * STILL),
            endpoint,
            dropped: 0,
            dropping: Lasting::default(),
            filling: Lasting::default(),
        }
    }

    /// Looks after the stream: trims what all groups have settled, and reports a group that keeps it from that. Returns
    /// whether there was something to trim. `now_ms` is the time on Redis's clock.
    ///
    /// XINFO GROUPS, XPENDING for each group that has something pending, and, if there is something to trim, HSET and
    /// XTRIM MINID ~. ZCOUNT for each group that was destroyed, and now and then for each that stands still. Where the stream
    /// is cut to a length, EVAL of XINFO STREAM instead of the last two.
    pub(crate) fn trim(&mut self, connection: &mut PatientConnection, now_ms: u64) -> RedisResult<bool> {
        let groups: Value = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(&self.keys.requests)
            .query(connection)?;
        let Some(groups) = GroupState::all(groups) else {
            // Not understood: better to trim nothing.
            return Ok(false);
        };
        let moved = self.settle_floor(connection, &groups, now_ms)?;
        if self.bound.is_some() {
            self.watch_bound(connection, &groups)?;
        } else {
            self.report_abandoned(connection, &groups, now_ms)?;
        }
        Ok(moved)
    }

    /// Whether a group that somebody works in was destroyed. It is about to be created anew, where it was: what it had not settled is
    /// not to be trimmed meanwhile, which may be long, because a worker finds out when it reads, and reads when it has room.
    fn is_one_missing(
        &mut self,
        connection: &mut PatientConnection,
        groups: &[GroupState],
        now_ms: u64,
    ) -> RedisResult<bool> {
        let exists = |name: &str| groups.iter().any(|group| group.name == name);
        if !exists(&self.group) {
            return Ok(true);
        }
        for name in self.others.iter().filter(|name| !exists(name)) {
            let live: u64 = count_live(&self.keys.workers(name), now_ms, self.death_time).query(connection)?;
            if live > 0 {
                return Ok(true);
            }
        }
        let others = groups.iter().filter(|group| group.name != self.group);
        self.others = others.map(|group| group.name.clone()).collect();
        Ok(false)
    }

    /// Records the settled floor in `meta`: the oldest entry that some group has not acknowledged, where a group that joins
    /// later, or has to be created again, starts. Trims the stream up to there, unless another bound is set. Returns
    /// whether the floor has moved.
    fn settle_floor(
        &mut self,
        connection: &mut PatientConnection,
        groups: &[GroupState],
        now_ms: u64,
    ) -> RedisResult<bool> {
        if self.is_one_missing(connection, groups, now_ms)? {
            return Ok(false);
        }
        let mut floor: Option<EntryId> = None;
        for group in groups {
            let settled = self.settled_by(connection, group)?;
            floor = Some(floor.map_or(settled, |floor| floor.min(settled)));
        }
        // It may also have gone back: the stream was deleted and has begun anew with lower ids, or a group has.
        let Some(floor) = floor.filter(|floor| *floor != self.floor) else {
            return Ok(false);
        };
        let mut settle = redis::pipe();
        let meta = &self.keys.meta;
        settle.cmd("HSET").arg(meta).arg("floor").arg(floor.to_string());
        if self.bound.is_none() {
            // Not all that is settled: the last entry stays, by which it is seen that the stream was not deleted.
            let kept = floor.previous().to_string();
            settle
                .cmd("XTRIM")
                .arg(&self.keys.requests)
                .arg("MINID")
                .arg("~")
                .arg(kept);
        }
        settle.exec(connection)?;
        self.floor = floor;
        Ok(true)
    }

    /// The first entry that a group has not settled.
    fn settled_by(&self, connection: &mut PatientConnection, group: &GroupState) -> RedisResult<EntryId> {
        if group.pending == 0 {
            return Ok(group.delivered.next());
        }
        let summary: Value = redis::cmd("XPENDING")
            .arg(&self.keys.requests)
            .arg(&group.name)
            .query(connection)?;
        // Settled between the two commands, if there is no oldest one any more: then the group is a little ahead of this.
        let oldest = entry::list(summary).get(1).and_then(entry::id);
        Ok(oldest.unwrap_or(group.delivered))
    }

    /// Warns when a stream that is cut to a length is about to drop what some group has not settled, and counts what it
    /// has dropped.
    fn watch_bound(&mut self, connection: &mut PatientConnection, groups: &[GroupState]) -> RedisResult<()> {
        let stream = &self.keys.requests;
        let extent: Value = Extent::question(stream).query(connection)?;
        let (Some(bound), Some(extent)) = (&mut self.bound, Extent::read(extent)) else {
            return Ok(());
        };
        let max_len = bound.max_len();
        let found = bound.look(groups, &extent);
        if found.dropped > 0 {
            self.endpoint.missed(found.dropped);
            self.dropped += found.dropped;
            if self.dropping.is_due() {
                tracing::error!(
                    stream,
                    max_len,
                    total = self.dropped,
                    "the stream has dropped requests that no worker of some group has seen: add workers, or raise `max_len`"
                );
            }
        }
        if let Some((group, unsettled)) = found.nearly_full
            && self.filling.is_due()
        {
            tracing::warn!(
                stream,
                group,
                unsettled,
                max_len,
                "the stream is about to drop requests that are not processed: add workers, or raise `max_len`"
            );
        }
        Ok(())
    }

    /// Warns of groups that stand still and have no live workers: nothing that they have not settled is trimmed, and they
    /// are not destroyed either, because somebody may come back for what is theirs.
    fn report_abandoned(
        &mut self,
        connection: &mut PatientConnection,
        groups: &[GroupState],
        now_ms: u64,
    ) -> RedisResult<()> {
        let now = Instant::now();
        for (group, still) in self.stalled.look(groups, now) {
            let beats = self.keys.workers(&group.name);
            let live: u64 = count_live(&beats, now_ms, self.death_time).query(connection)?;
            if live > 0 {
                continue;
            }
            self.stalled.reported(&group.name, now);
            let entries = match group.lag {
                Some(lag) => lag.saturating_add(group.pending).to_string(),
                None => format!("at least {}", group.pending.max(1)),
            };
            tracing::warn!(
                stream = self.keys.requests,
                group = group.name,
                entries,
                since = ?still,
                "a group without live workers holds back trimming: start a worker of it, or XGROUP DESTROY it if nobody \
                 needs it"
            );
        }
        Ok(())
    }
}
