//! Running one of several calls that have the same idempotency key.
//!
//! A worker claims the key before it runs the call, and the result is recorded together with the call's settlement: so
//! there is no moment in which a call has run and its key does not say so.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::{CallId, EntryId, SessionId};
use crate::message::{Origin, Outcome, Request};

/// How long a run without a deadline keeps its key, at the most: longer ones may be run a second time by a repeated call.
pub const UNBOUNDED_RUN: Duration = Duration::from_secs(24 * 3600);

/// One run of a call to a method that is marked `dedupe`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedRun {
    /// The wire name of the method.
    pub method: &'static str,
    /// The caller's idempotency key, or the identity of the call.
    pub key: String,
    /// The entry that the call came in, and its place there: tells another attempt at this run from another run.
    pub entry: EntryId,
    /// See `entry`.
    pub index: usize,
    /// How it was read. Each group runs a call once, and each subscriber does.
    pub origin: Origin,
    /// How long the result is kept.
    pub window: Duration,
    /// When the run ends at the latest.
    pub deadline: Option<Instant>,
}

impl KeyedRun {
    pub(crate) fn new(
        method: &'static str,
        window: Duration,
        request: &Request,
        call: CallId,
        (entry, index, origin): (EntryId, usize, Origin),
    ) -> Self {
        let key = request.headers.get(crate::IDEMPOTENCY_KEY);
        Self {
            method,
            key: key.map_or_else(|| call.to_string(), str::to_owned),
            entry,
            index,
            origin,
            window,
            deadline: request.deadline,
        }
    }
}

/// What the claim to a key comes to.
#[derive(Clone, Debug)]
pub enum Claim {
    /// The key is this run's now.
    Granted,
    /// A server that lives holds it: ask again.
    Taken,
    /// A call with this key has returned.
    Done(Outcome),
    /// It can never be claimed: why, for a person.
    Refused(String),
}

/// What becomes of a key that was claimed.
#[derive(Clone, Debug)]
pub struct Record {
    /// The run that claimed it.
    pub run: KeyedRun,
    /// The result to be kept; `None` gives the key up, so that a repeated call runs.
    pub result: Option<Outcome>,
}

/// The keys of one stream inside the process.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    held: HashMap<Key, Held>,
    /// When there are so many, those whose time is up are forgotten.
    purge_at: usize,
}

/// Who runs it (a group, or one session), the method and the caller's key.
type Key = (String, &'static str, String);

#[derive(Debug)]
struct Held {
    state: State,
    until: Instant,
}

#[derive(Debug)]
enum State {
    Running {
        owner: SessionId,
        entry: EntryId,
        index: usize,
    },
    Done(Outcome),
}

impl Keys {
    /// Claims a key for a run of `owner`, for one of those who run `reader`'s calls; `lives` knows the other owners.
    pub(crate) fn claim(
        &mut self,
        reader: String,
        owner: SessionId,
        run: &KeyedRun,
        lives: impl Fn(SessionId) -> bool,
        now: Instant,
    ) -> Claim {
        if self.held.len() >= self.purge_at {
            self.held.retain(|_, held| held.until > now);
            self.purge_at = (self.held.len() * 2).max(1024);
        }
        let key = (reader, run.method, run.key.clone());
        match self
            .held
            .get(&key)
            .filter(|held| held.until > now)
            .map(|held| &held.state)
        {
            Some(State::Done(outcome)) => return Claim::Done(outcome.clone()),
            Some(State::Running {
                owner: holder,
                entry,
                index,
            }) => {
                let same = (*holder, *entry, *index) == (owner, run.entry, run.index);
                if !same && lives(*holder) {
                    return Claim::Taken;
                }
            }
            None => {}
        }
        let state = State::Running {
            owner,
            entry: run.entry,
            index: run.index,
        };
        let until = run.deadline.unwrap_or(now + UNBOUNDED_RUN) + run.window;
        self.held.insert(key, Held { state, until });
        Claim::Granted
    }

    /// Keeps the result of a run of `owner`, or gives its key up.
    pub(crate) fn record(&mut self, reader: String, owner: SessionId, record: Record, now: Instant) {
        let Record { run, result } = record;
        let key = (reader, run.method, run.key);
        let Some(held) = self.held.get_mut(&key) else {
            return;
        };
        let own = matches!(held.state, State::Running { owner: holder, entry, index }
            if (holder, entry, index) == (owner, run.entry, run.index));
        match (result, &held.state) {
            // Whoever has returned first has said what the key stands for.
            (_, State::Done(_)) => {}
            (Some(outcome), State::Running { .. }) => {
                held.state = State::Done(outcome);
                held.until = now + run.window;
            }
            (None, State::Running { .. }) if own => {
                self.held.remove(&key);
            }
            (None, State::Running { .. }) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Payload;

    const WINDOW: Duration = Duration::from_secs(600);

    fn run(entry: u64, now: Instant) -> KeyedRun {
        KeyedRun {
            method: "a.b",
            key: "k".to_owned(),
            entry: EntryId { ms: entry, seq: 0 },
            index: 0,
            origin: Origin::Group,
            window: WINDOW,
            deadline: Some(now + Duration::from_secs(30)),
        }
    }

    fn claim(keys: &mut Keys, owner: SessionId, run: &KeyedRun, dead: &[SessionId], now: Instant) -> Claim {
        keys.claim(
            "workers".to_owned(),
            owner,
            run,
            |session| !dead.contains(&session),
            now,
        )
    }

    fn returned() -> Outcome {
        Outcome::Returned(Payload::empty())
    }

    #[test]
    fn one_runs_and_the_others_get_its_result_until_the_window_ends() {
        let (now, mut keys) = (Instant::now(), Keys::default());
        let (one, two) = (SessionId::generate(), SessionId::generate());
        assert!(matches!(claim(&mut keys, one, &run(1, now), &[], now), Claim::Granted));
        assert!(matches!(claim(&mut keys, two, &run(2, now), &[], now), Claim::Taken));
        assert!(matches!(claim(&mut keys, one, &run(2, now), &[], now), Claim::Taken));
        let record = Record {
            run: run(1, now),
            result: Some(returned()),
        };
        keys.record("workers".to_owned(), one, record, now);
        assert!(matches!(
            claim(&mut keys, two, &run(2, now), &[one], now),
            Claim::Done(_)
        ));
        let later = now + WINDOW;
        assert!(matches!(
            claim(&mut keys, two, &run(2, later), &[], later),
            Claim::Granted
        ));
    }

    #[test]
    fn an_earlier_attempt_and_a_dead_owner_stand_in_nobodys_way() {
        let (now, mut keys) = (Instant::now(), Keys::default());
        let (one, two) = (SessionId::generate(), SessionId::generate());
        assert!(matches!(claim(&mut keys, one, &run(1, now), &[], now), Claim::Granted));
        assert!(matches!(claim(&mut keys, one, &run(1, now), &[], now), Claim::Granted));
        assert!(matches!(
            claim(&mut keys, two, &run(1, now), &[one], now),
            Claim::Granted
        ));
        // The first was not dead after all. What it gives up is not its own any more; what it returns is a result.
        let given_up = Record {
            run: run(1, now),
            result: None,
        };
        keys.record("workers".to_owned(), one, given_up.clone(), now);
        assert!(matches!(claim(&mut keys, one, &run(2, now), &[], now), Claim::Taken));
        keys.record("workers".to_owned(), two, given_up, now);
        assert!(matches!(claim(&mut keys, one, &run(2, now), &[], now), Claim::Granted));
    }
}
