//! Groups that make no progress: which of them may be abandoned, and when to say so. No IO in here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rpc_core::EntryId;

use crate::groups::GroupState;

/// How often the same group is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(600);

/// What is known of the groups of a stream.
#[derive(Debug)]
pub(crate) struct Stalled {
    /// How long a group may stand still before it is asked after.
    patience: Duration,
    groups: HashMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Where it stands.
    at: (EntryId, u64),
    since: Instant,
    /// Not to be asked after before.
    due: Instant,
}

impl Stalled {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            groups: HashMap::new(),
        }
    }

    /// Looks at all `groups`; returns those that have something to do, do nothing about it, and are to be asked after, with
    /// how long that has been so.
    pub(crate) fn look<'a>(&mut self, groups: &'a [GroupState], now: Instant) -> Vec<(&'a GroupState, Duration)> {
        self.groups
            .retain(|name, _| groups.iter().any(|group| group.name == *name));
        let furthest = groups
            .iter()
            .map(|group| group.delivered)
            .max()
            .unwrap_or(EntryId::ZERO);
        let mut stalled = Vec::new();
        for group in groups {
            // Where Redis cannot tell what has not been handed out, a group that is behind another one has something to do.
            let is_behind = group.lag.map_or(group.delivered < furthest, |lag| lag > 0);
            let at = (group.delivered, group.pending);
            let due = now + self.patience;
            match self.groups.get_mut(&group.name) {
                Some(seen) if seen.at == at && (is_behind || group.pending > 0) => {
                    if now >= seen.due {
                        seen.due = due;
                        stalled.push((group, now - seen.since));
                    }
                }
                _ => {
                    self.groups.insert(group.name.clone(), Seen { at, since: now, due });
                }
            }
        }
        stalled
    }

    /// A group has been reported.
    pub(crate) fn reported(&mut self, name: &str, now: Instant) {
        if let Some(seen) = self.groups.get_mut(name) {
            seen.due = now + REPORT_INTERVAL;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn group(name: &str, pending: u64, lag: Option<u64>, delivered: u64) -> GroupState {
        GroupState {
            name: name.to_owned(),
            pending,
            lag,
            read: None,
            delivered: EntryId { ms: delivered, seq: 0 },
        }
    }

    fn names(found: Vec<(&GroupState, Duration)>) -> Vec<String> {
        found.into_iter().map(|(group, _)| group.name.clone()).collect()
    }

    #[test]
    fn only_a_group_that_stands_still_with_work_to_do_is_asked_after() {
        let mut stalled = Stalled::new(SECOND);
        let start = Instant::now();
        let at = |moving| {
            vec![
                group("unread", 0, Some(3), 1),
                group("pending", 2, Some(0), 9),
                group("idle", 0, Some(0), 9),
                group("moving", 0, Some(3), moving),
                group("behind", 0, None, 1),
                group("level", 0, None, 9),
            ]
        };
        assert!(stalled.look(&at(1), start).is_empty());
        assert!(stalled.look(&at(2), start + SECOND / 2).is_empty());
        assert_eq!(
            names(stalled.look(&at(3), start + SECOND)),
            ["unread", "pending", "behind"]
        );
    }

    #[test]
    fn a_group_that_was_reported_is_left_alone_for_a_while() {
        let mut stalled = Stalled::new(SECOND);
        let start = Instant::now();
        let groups = [group("a", 1, None, 1)];
        stalled.look(&groups, start);
        let found = stalled.look(&groups, start + SECOND);
        assert_eq!(found[0].1, SECOND);
        // Asked after, and found alive.
        assert!(stalled.look(&groups, start + SECOND * 3 / 2).is_empty());
        assert_eq!(names(stalled.look(&groups, start + SECOND * 2)), ["a"]);
        stalled.reported("a", start + SECOND * 2);
        assert!(stalled.look(&groups, start + SECOND * 600).is_empty());
        assert_eq!(names(stalled.look(&groups, start + SECOND * 602)), ["a"]);
    }
}
