//! The delivery rules, as plain data: time and events come in, decisions go out.
//!
//! No clock and no IO in here, so that every IO obeys the same rules and they can be tested by the million.

use std::collections::{HashMap, HashSet, VecDeque};

use rustc_hash::FxBuildHasher;

use crate::id::{CallId, EntryId};
use crate::message::{FaultKind, Kind, Origin};

/// The greatest number of requests in one entry.
pub const MAX_PACK: usize = 64;

/// What is known of a request when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// How it was read.
    pub origin: Origin,
    /// Whether somebody waits for a reply.
    pub kind: Kind,
    /// Whether this channel sent it, and does not want to hear itself.
    pub own: bool,
    /// Whether its deadline has passed.
    pub expired: bool,
    /// Whether this channel serves the method.
    pub served: bool,
    /// Whether its arguments are larger than this channel takes.
    pub too_large: bool,
    /// Whether the method must not be run twice.
    pub at_most_once: bool,
    /// Whether nobody knows any more who had it before.
    pub forgotten: bool,
    /// How often the request has been handed to a server, this time included.
    pub attempt: u32,
    /// How often it may be.
    pub max_attempts: u32,
}

/// What to do with a request that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Run it.
    Run,
    /// Settle it without running it; nobody is told.
    Skip(Skipped),
    /// Settle it without running it; a waiting caller is told.
    Refuse(FaultKind),
    /// Move it to the dead letters without running it; a waiting caller is told.
    Bury(FaultKind),
}

/// Why a request is not run and nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// Sent by this very channel.
    Own,
    /// Its caller has given up already.
    Expired,
    /// In broadcast, another subscriber may serve it.
    NotServed,
}

impl Arrival {
    /// Decides what becomes of the request.
    #[must_use]
    pub const fn admit(self) -> Admission {
        match self {
            Self {
                own: true,
                origin: Origin::Broadcast,
                ..
            } => Admission::Skip(Skipped::Own),
            // Nobody waits for a notification, so nobody has given it up: it is kept for a person to look at.
            Self {
                expired: true,
                kind: Kind::Notification,
                origin: Origin::Group,
                ..
            } => Admission::Bury(FaultKind::Other),
            Self { expired: true, .. } => Admission::Skip(Skipped::Expired),
            Self {
                served: false,
                origin: Origin::Broadcast,
                ..
            } => Admission::Skip(Skipped::NotServed),
            Self {
                served: false, kind, ..
            } => match kind {
                Kind::Call => Admission::Refuse(FaultKind::MethodNotFound),
                Kind::Notification => Admission::Bury(FaultKind::MethodNotFound),
            },
            Self {
                too_large: true, kind, ..
            } => match kind {
                Kind::Call => Admission::Refuse(FaultKind::TooLarge),
                Kind::Notification => Admission::Bury(FaultKind::TooLarge),
            },
            Self {
                at_most_once: true,
                forgotten: true,
                kind,
                ..
            } => match kind {
                Kind::Call => Admission::Refuse(FaultKind::Indeterminate),
                Kind::Notification => Admission::Bury(FaultKind::Indeterminate),
            },
            // Its worker died, and nobody knows how far it had come.
            Self {
                at_most_once: true,
                attempt: 2..,
                kind,
                ..
            } => match kind {
                Kind::Call => Admission::Refuse(FaultKind::WorkerLost),
                Kind::Notification => Admission::Bury(FaultKind::WorkerLost),
            },
            // It has taken its workers along, again and again. The attempt that it may have had before the group was created anew
            // is not known to have killed anybody.
            Self {
                attempt,
                max_attempts,
                forgotten,
                ..
            } if attempt.saturating_sub(forgotten as u32) > max_attempts => Admission::Bury(FaultKind::WorkerLost),
            Self { .. } => Admission::Run,
        }
    }
}

/// The entries of a group that this worker holds: handed to it and not yet acknowledged.
///
/// An entry of k requests is acknowledged when all k are settled. It stays held until the acknowledgement is confirmed,
/// so that a re-read of what is pending does not run it again.
#[derive(Debug, Default)]
pub struct Ledger {
    held: HashMap<EntryId, Held, FxBuildHasher>,
    /// Nothing is taken and nothing begins any more.
    closed: bool,
}

#[derive(Debug)]
struct Held {
    /// One bit for each request that is not settled.
    open: u64,
    /// Whether any of its requests has begun to run.
    begun: bool,
    /// Whether it was handed out again after all were settled.
    again: bool,
}

impl Ledger {
    /// Takes an entry of `requests` (1 to [`MAX_PACK`]) requests; false if it is held already (which is noted if all of it is
    /// settled, for [`Ledger::confirm`]), or empty, or too large, or after [`Ledger::hand_back`].
    pub fn take(&mut self, entry: EntryId, requests: usize) -> bool {
        if let Some(held) = self.held.get_mut(&entry) {
            held.again |= held.open == 0;
            return false;
        }
        if self.closed || requests == 0 || requests > MAX_PACK {
            return false;
        }
        let held = Held {
            open: u64::MAX >> (MAX_PACK - requests),
            begun: false,
            again: false,
        };
        self.held.insert(entry, held);
        true
    }

    /// Notes that a request of `entry` begins to run; false if it must not, because the entry is not held any more.
    pub fn begin(&mut self, entry: EntryId) -> bool {
        let held = self.held.get_mut(&entry);
        held.is_some_and(|held| {
            held.begun = true;
            true
        })
    }

    /// Gives up the entries of which no request has begun, and takes no others: none of these ever begins here, so that
    /// whoever gets them next may count as the first. Returns those that stay held.
    pub fn hand_back(&mut self) -> HashSet<EntryId> {
        self.closed = true;
        self.held.retain(|_, held| held.begun);
        self.held.keys().copied().collect()
    }

    /// Settles request `index` of `entry`; true exactly once: when that leaves none open, so it is to be acknowledged.
    pub fn settle(&mut self, entry: EntryId, index: usize) -> bool {
        let Some(held) = self.held.get_mut(&entry) else {
            return false;
        };
        let bit = 1_u64.checked_shl(index as u32).unwrap_or(0);
        let was_open = held.open & bit != 0;
        held.open &= !bit;
        was_open && held.open == 0
    }

    /// Forgets an entry whose acknowledgement is confirmed; unless it was handed out again after it was settled: then it stays
    /// held, and true says that it is to be acknowledged once more.
    ///
    /// An acknowledgement that comes between the end of a destroyed group and the beginning of its successor acknowledges
    /// nothing, and the successor may have handed the entry out before that is confirmed.
    pub fn confirm(&mut self, entry: EntryId) -> bool {
        match self.held.get_mut(&entry) {
            Some(held) if held.again => {
                held.again = false;
                true
            }
            _ => {
                self.held.remove(&entry);
                false
            }
        }
    }

    /// Whether the entry is held.
    #[must_use]
    pub fn holds(&self, entry: EntryId) -> bool {
        self.held.contains_key(&entry)
    }

    /// The entries that are held.
    pub fn entries(&self) -> impl Iterator<Item = EntryId> {
        self.held.keys().copied()
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// The last calls that a broadcast subscriber has seen, so that a repeated one does not run twice.
///
/// Repeats happen when a caller cannot know whether Redis took its request, and when a subscriber has to start again
/// from the beginning of a stream that was replaced.
#[derive(Debug)]
pub struct Recent {
    capacity: usize,
    order: VecDeque<CallId>,
    known: HashSet<CallId>,
}

impl Recent {
    /// Remembers the last `capacity` calls.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            order: VecDeque::new(),
            known: HashSet::new(),
        }
    }

    /// Notes a call; false if it is known already.
    pub fn insert(&mut self, call: CallId) -> bool {
        if !self.known.insert(call) {
            return false;
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(call);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::SessionId;

    const CALL: Arrival = Arrival {
        origin: Origin::Group,
        kind: Kind::Call,
        own: false,
        expired: false,
        served: true,
        too_large: false,
        at_most_once: false,
        forgotten: false,
        attempt: 1,
        max_attempts: 3,
    };

    #[test]
    fn a_group_runs_its_own_calls_and_a_subscriber_does_not() {
        let own = Arrival { own: true, ..CALL };
        assert_eq!(own.admit(), Admission::Run);
        let own = Arrival {
            origin: Origin::Broadcast,
            ..own
        };
        assert_eq!(own.admit(), Admission::Skip(Skipped::Own));
    }

    #[test]
    fn expired_requests_never_run() {
        for origin in [Origin::Group, Origin::Broadcast, Origin::Direct] {
            let expired = Arrival {
                origin,
                expired: true,
                ..CALL
            };
            assert_eq!(expired.admit(), Admission::Skip(Skipped::Expired));
        }
    }

    #[test]
    fn only_a_broadcast_subscriber_is_silent_about_unknown_methods() {
        let unknown = |origin| Arrival {
            origin,
            served: false,
            ..CALL
        };
        assert_eq!(
            unknown(Origin::Group).admit(),
            Admission::Refuse(FaultKind::MethodNotFound)
        );
        assert_eq!(
            unknown(Origin::Direct).admit(),
            Admission::Refuse(FaultKind::MethodNotFound)
        );
        assert_eq!(unknown(Origin::Broadcast).admit(), Admission::Skip(Skipped::NotServed));
    }

    #[test]
    fn a_call_is_tried_again_unless_it_must_not_or_has_been_too_often() {
        let attempt = |attempt, at_most_once| Arrival {
            attempt,
            at_most_once,
            ..CALL
        };
        assert_eq!(attempt(3, false).admit(), Admission::Run);
        assert_eq!(attempt(4, false).admit(), Admission::Bury(FaultKind::WorkerLost));
        assert_eq!(attempt(1, true).admit(), Admission::Run);
        assert_eq!(attempt(2, true).admit(), Admission::Refuse(FaultKind::WorkerLost));
    }

    #[test]
    fn a_notification_that_cannot_run_is_kept_as_a_dead_letter() {
        let note = Arrival {
            kind: Kind::Notification,
            ..CALL
        };
        let large = Arrival {
            too_large: true,
            ..note
        };
        assert_eq!(large.admit(), Admission::Bury(FaultKind::TooLarge));
        let unknown = Arrival { served: false, ..note };
        assert_eq!(unknown.admit(), Admission::Bury(FaultKind::MethodNotFound));
        let poison = Arrival { attempt: 4, ..note };
        assert_eq!(poison.admit(), Admission::Bury(FaultKind::WorkerLost));
        let expired = Arrival { expired: true, ..note };
        assert_eq!(expired.admit(), Admission::Bury(FaultKind::Other));
    }

    #[test]
    fn that_a_group_was_created_anew_does_not_count_as_the_death_of_a_worker() {
        let again = Arrival {
            forgotten: true,
            attempt: 4,
            ..CALL
        };
        assert_eq!(again.admit(), Admission::Run);
        let poison = Arrival { attempt: 5, ..again };
        assert_eq!(poison.admit(), Admission::Bury(FaultKind::WorkerLost));
    }

    #[test]
    fn what_must_not_run_twice_does_not_run_when_it_is_not_known_who_had_it() {
        let once = Arrival {
            at_most_once: true,
            forgotten: true,
            ..CALL
        };
        assert_eq!(once.admit(), Admission::Refuse(FaultKind::Indeterminate));
        let again = Arrival {
            at_most_once: false,
            attempt: 2,
            ..once
        };
        assert_eq!(again.admit(), Admission::Run);
    }

    proptest! {
        #[test]
        fn a_method_that_must_not_run_twice_runs_at_its_first_attempt_only(
            attempt in 1..10_u32, expired: bool, served: bool, own: bool, notification: bool
        ) {
            let kind = if notification { Kind::Notification } else { Kind::Call };
            let arrival = Arrival { at_most_once: true, attempt, expired, served, own, kind, ..CALL };
            prop_assert!(arrival.admit() != Admission::Run || attempt == 1);
        }
    }

    #[test]
    fn a_repeat_is_known_until_it_is_pushed_out() {
        let session = SessionId::generate();
        let call = |sequence| CallId { session, sequence };
        let mut recent = Recent::new(2);
        assert!(recent.insert(call(1)));
        assert!(!recent.insert(call(1)));
        assert!(recent.insert(call(2)));
        assert!(recent.insert(call(3)));
        assert!(recent.insert(call(1)));
        assert!(!recent.insert(call(3)));
    }

    #[test]
    fn what_is_handed_back_never_begins_here() {
        let entry = |ms| EntryId { ms, seq: 0 };
        let mut ledger = Ledger::default();
        for ms in 1..=3 {
            assert!(ledger.take(entry(ms), 2));
        }
        assert!(ledger.begin(entry(2)));
        assert_eq!(ledger.hand_back(), HashSet::from([entry(2)]));
        assert!(!ledger.begin(entry(1)) && !ledger.settle(entry(1), 0));
        assert!(!ledger.take(entry(4), 1), "nothing new is taken");
        assert!(ledger.begin(entry(2)), "the second request of what has begun");
    }

    #[test]
    fn what_is_handed_out_again_after_it_was_settled_is_acknowledged_once_more() {
        let entry = EntryId { ms: 1, seq: 0 };
        let mut ledger = Ledger::default();
        assert!(ledger.take(entry, 1));
        assert!(
            !ledger.take(entry, 1),
            "not settled: its acknowledgement is still to come"
        );
        assert!(ledger.settle(entry, 0));
        assert!(!ledger.take(entry, 1));
        assert!(ledger.confirm(entry) && ledger.holds(entry));
        assert!(!ledger.settle(entry, 0), "it is settled");
        assert!(!ledger.confirm(entry) && !ledger.holds(entry));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Deliver(u64, usize),
        Settle(u64, usize),
        Confirm(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..6_u64, 0..70_usize).prop_map(|(entry, k)| Event::Deliver(entry, k)),
            (0..6_u64, 0..70_usize).prop_map(|(entry, index)| Event::Settle(entry, index)),
            (0..6_u64).prop_map(Event::Confirm),
        ]
    }

    proptest! {
        /// Against a model that keeps every request of every entry in a set.
        #[test]
        fn an_entry_is_acknowledged_once_and_only_when_all_its_requests_are_settled(
            events in proptest::collection::vec(event(), 0..200)
        ) {
            let mut ledger = Ledger::default();
            let mut model: HashMap<u64, HashSet<usize>> = HashMap::new();
            let mut again = HashSet::new();
            for event in events {
                match event {
                    Event::Deliver(n, k) => {
                        let taken = ledger.take(EntryId { ms: n, seq: 0 }, k);
                        prop_assert_eq!(taken, (1..=MAX_PACK).contains(&k) && !model.contains_key(&n));
                        if taken {
                            model.insert(n, (0..k).collect());
                        } else if model.get(&n).is_some_and(HashSet::is_empty) {
                            again.insert(n);
                        }
                    }
                    Event::Settle(n, index) => {
                        let last = ledger.settle(EntryId { ms: n, seq: 0 }, index);
                        let expected = model
                            .get_mut(&n)
                            .is_some_and(|open| open.remove(&index) && open.is_empty());
                        prop_assert_eq!(last, expected);
                    }
                    Event::Confirm(n) => {
                        let once_more = ledger.confirm(EntryId { ms: n, seq: 0 });
                        prop_assert_eq!(once_more, again.remove(&n));
                        if !once_more {
                            model.remove(&n);
                        }
                    }
                }
                prop_assert_eq!(ledger.len(), model.len());
            }
        }
    }
}
