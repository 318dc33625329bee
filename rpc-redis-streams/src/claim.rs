//! The command that takes over what a dead worker has left, and its answer.

use std::time::Duration;

use redis::Pipeline;
use rpc_core::EntryId;

use crate::creation::boundary_field;
use crate::destination::Destination;
use crate::entry::{self, Entry};
use crate::resp::Value;
use crate::takeover::Estate;
use crate::wire;

/// Takes entries over: those that are pending for the dead consumer at this very moment, and only if it has not beaten
/// since. One step, because XCLAIM does not ask who owns an entry: two rivals would take it from each other.
///
/// The last attempt of an entry is made alone: workers die with all that they have in hand, and their neighbours must not be
/// buried with those that kill them. So this takes at most one such entry, or none.
///
/// Returns for each its id, how often it had been delivered before, its fields (an entry that no longer exists has none, and is
/// acknowledged), and whether it is to be alone; then, whether there are more of these; and the group's boundary, if `meta` is
/// what it should be: what has been claimed by then must be heard of all the same.
const CLAIM: &str = "\
    local beat = redis.call('ZSCORE', KEYS[2], ARGV[2]) or '' \
    if beat ~= ARGV[6] and tonumber(beat) ~= tonumber(ARGV[6]) then return {{}, 0, false} end \
    local claimed, takes_last, held_up = {}, tonumber(ARGV[8]), 0 \
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[9], ARGV[2])) do \
        if #claimed == tonumber(ARGV[5]) then break end \
        if row[3] >= tonumber(ARGV[4]) then \
            local found = redis.call('XRANGE', KEYS[1], row[1], row[1]) \
            local had = row[4] + (attempt(found[1] and found[1][2][2] or '') or 1) - 1 \
            local last = had > 0 and had + 1 == tonumber(ARGV[7]) \
            if last and takes_last == 0 then \
                held_up = 1 \
            else \
                redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, row[1]) \
                if not found[1] then redis.call('XACK', KEYS[1], ARGV[1], row[1]) end \
                claimed[#claimed + 1] = {row[1], row[4], found[1] and found[1][2] or {}, last and 1 or 0} \
                if last then takes_last = 0 end \
            end \
        end \
    end \
    local boundary = redis.pcall('HGET', KEYS[3], ARGV[10]) \
    if type(boundary) == 'table' then boundary = false end \
    return {claimed, held_up, boundary}";

/// At how many entries of one dead worker a take-over looks: more than it takes, because some may have to wait.
const LOOKED_AT: usize = 256;

/// How long an entry is alone at the most: what kills its worker does so soon, and a handler may run for hours.
pub(crate) const ALONE_FOR: Duration = Duration::from_secs(1);

/// How often to look whether it is settled.
pub(crate) const ALONE_POLL: Duration = Duration::from_millis(10);

/// What a take-over has brought.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) entries: Vec<ClaimedEntry>,
    /// Whether others wait until one that is to be alone is settled.
    pub(crate) held_up: bool,
    /// Entries up to here may have run before the group was created.
    pub(crate) boundary: Option<EntryId>,
}

#[derive(Debug)]
pub(crate) struct ClaimedEntry {
    pub(crate) entry: Entry,
    /// This time included.
    pub(crate) deliveries: u32,
    /// Whether it is its last attempt.
    pub(crate) alone: bool,
}

/// What takes over at most `most` entries of `estate`, one of them at the most for its last attempt, if `takes_last`, and otherwise
/// none: the EVAL of XPENDING, and of XRANGE and XCLAIM for each.
pub(crate) fn claim(to: &Destination, estate: &Estate, most: usize, max_deliveries: u32, takes_last: bool) -> Pipeline {
    let mut claim = redis::pipe();
    claim.cmd("EVAL").arg(format!("{}{CLAIM}", wire::ATTEMPT_IN_LUA)).arg(3);
    claim
        .arg(&to.keys.requests)
        .arg(to.keys.workers(&to.group))
        .arg(&to.keys.meta);
    claim.arg(&to.group).arg(&estate.consumer).arg(&to.consumer);
    claim
        .arg(estate.min_idle.as_millis() as u64)
        .arg(most)
        .arg(estate.beat.map_or(String::new(), |beat| beat.to_string()));
    claim
        .arg(max_deliveries)
        .arg(u8::from(takes_last))
        .arg(LOOKED_AT.max(most));
    claim.arg(boundary_field(&to.group));
    claim
}

impl Claimed {
    pub(crate) fn read(answer: Value) -> Self {
        let mut parts = entry::list(answer).into_iter();
        let entries = entry::list(parts.next().unwrap_or_default());
        Self {
            entries: entries.into_iter().filter_map(ClaimedEntry::read).collect(),
            held_up: parts.next().as_ref().and_then(entry::number) == Some(1),
            boundary: parts.next().as_ref().and_then(entry::id),
        }
    }
}

impl ClaimedEntry {
    fn read(row: Value) -> Option<Self> {
        let mut parts = entry::list(row).into_iter();
        let (id, before) = (entry::id(&parts.next()?)?, entry::number(&parts.next()?)?);
        let fields = parts.next()?.into();
        Some(Self {
            entry: Entry { id, fields },
            deliveries: u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1),
            alone: parts.next().as_ref().and_then(entry::number) == Some(1),
        })
    }
}
