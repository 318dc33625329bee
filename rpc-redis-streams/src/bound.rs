//! A work queue that is cut to a length: warning before work is dropped, and counting what was. No IO in here.

use std::collections::HashMap;

use crate::extent::Extent;
use crate::groups::GroupState;

/// What a look at the groups has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Finding<'a> {
    /// The group that has most to settle, if that is nine tenths of the bound, and how much it is.
    pub(crate) nearly_full: Option<(&'a str, u64)>,
    /// How many entries were dropped since the last look before some group was handed them; at least so many.
    pub(crate) dropped: u64,
}

/// What is known of the groups of a stream that keeps `max_len` entries.
#[derive(Debug)]
pub(crate) struct Bound {
    max_len: u64,
    /// How far what is left of the stream was ahead of what each group had been handed.
    ahead: HashMap<String, u64>,
}

impl Bound {
    pub(crate) fn new(max_len: u64) -> Self {
        Self {
            max_len,
            ahead: HashMap::new(),
        }
    }

    pub(crate) fn max_len(&self) -> u64 {
        self.max_len
    }

    pub(crate) fn look<'a>(&mut self, groups: &'a [GroupState], extent: &Extent) -> Finding<'a> {
        let mut found = Finding::default();
        for group in groups {
            let unread = match group.lag {
                _ if group.delivered >= extent.last => 0,
                lag => lag.unwrap_or(extent.length).min(extent.length),
            };
            let unsettled = unread.saturating_add(group.pending);
            let is_full = unsettled.saturating_mul(10) >= self.max_len.saturating_mul(9);
            if is_full && found.nearly_full.is_none_or(|(_, most)| unsettled > most) {
                found.nearly_full = Some((&group.name, unsettled));
            }
            if let (Some(gone), Some(read)) = (extent.gone(), group.read) {
                let ahead = gone.saturating_sub(read);
                // What was dropped before the first look has been counted by somebody else, or by nobody.
                let known = self.ahead.entry(group.name.clone()).or_insert(ahead);
                found.dropped += ahead.saturating_sub(*known);
                // Redis does not count what it never handed out, so that this does not shrink when the group has caught up.
                *known = (*known).max(ahead);
            }
        }
        self.ahead
            .retain(|name, _| groups.iter().any(|group| group.name == *name));
        found
    }
}

#[cfg(test)]
mod tests {
    use rpc_core::EntryId;

    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    fn group(pending: u64, lag: Option<u64>, read: Option<u64>, delivered: u64) -> [GroupState; 1] {
        [GroupState {
            name: "g".to_owned(),
            pending,
            lag,
            read,
            delivered: id(delivered),
        }]
    }

    /// Of a stream of `length` entries, to which `added` have been added, each a millisecond after the other.
    fn extent(added: u64, length: u64) -> Extent {
        Extent {
            length,
            added: Some(added),
            first: Some(id(added - length + 1)),
            last: id(added),
        }
    }

    #[test]
    fn it_is_said_when_nine_tenths_are_full() {
        let mut bound = Bound::new(100);
        assert_eq!(
            bound.look(&group(0, Some(89), Some(0), 0), &extent(89, 89)).nearly_full,
            None
        );
        let groups = group(10, Some(80), Some(10), 10);
        assert_eq!(bound.look(&groups, &extent(90, 90)).nearly_full, Some(("g", 90)));
        // Before Redis 7.0.
        let groups = group(0, None, None, 10);
        assert_eq!(bound.look(&groups, &extent(200, 100)).nearly_full, Some(("g", 100)));
        // After a loss Redis overrates the lag.
        let caught_up = group(0, Some(100), Some(100), 200);
        assert_eq!(bound.look(&caught_up, &extent(200, 100)).nearly_full, None);
    }

    #[test]
    fn what_is_dropped_unread_is_counted_once() {
        let mut bound = Bound::new(100);
        let mut dropped = |read, added| {
            bound
                .look(&group(0, None, Some(read), read), &extent(added, 100))
                .dropped
        };
        assert_eq!(dropped(50, 150), 0);
        assert_eq!(dropped(50, 160), 10);
        assert_eq!(dropped(50, 160), 0);
        assert_eq!(dropped(50, 175), 15);
        // It reads on, past the gap, which Redis does not count as read.
        assert_eq!(dropped(100, 175), 0);
        assert_eq!(dropped(100, 230), 5);
    }
}
