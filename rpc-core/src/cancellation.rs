//! Calls that their callers have given up: what has not started never does, and what runs ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::id::CallId;

/// How long a call without a deadline is remembered as given up.
const REMEMBERED: Duration = Duration::from_secs(600);

/// How many calls are remembered at the most: memory is finite, and running a call that nobody waits for does no harm.
const CAPACITY: usize = 1 << 18;

/// How long after a purge another one may follow.
const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// Which calls were given up, and which run and could be.
#[derive(Debug, Default)]
pub(crate) struct Cancellations {
    /// Whether anything is remembered: most channels never see a cancelled call, and are not to pay for a lock.
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    given_up: GivenUp,
    /// Calls that run and have not ended at once, with how many handlers run each: a call that was written twice may run
    /// twice.
    running: HashMap<CallId, (CancellationToken, usize)>,
}

impl Cancellations {
    fn state(&self) -> MutexGuard<'_, State> {
        // Only plain collections are changed under the lock; a panic elsewhere leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call was given up. It is remembered until its deadline, because it may not have arrived yet.
    pub(crate) fn give_up(&self, call: CallId, deadline: Option<Instant>) {
        let mut state = self.state();
        state.given_up.insert(call, deadline, Instant::now());
        self.any.store(true, Ordering::Release);
        if let Some((token, _)) = state.running.get(&call) {
            token.cancel();
        }
    }

    /// Whether a call was given up.
    pub(crate) fn contains(&self, call: CallId) -> bool {
        self.any.load(Ordering::Acquire) && self.state().given_up.contains(call)
    }

    /// Ends when `call` is given up; at once if it has been.
    pub(crate) async fn given_up(&self, call: CallId) {
        let token = {
            let mut state = self.state();
            if state.given_up.contains(call) {
                return;
            }
            let (token, handlers) = state.running.entry(call).or_default();
            *handlers += 1;
            token.clone()
        };
        let _running = Running { all: self, call };
        token.cancelled().await;
    }
}

/// Takes a call off the list of those that run.
struct Running<'a> {
    all: &'a Cancellations,
    call: CallId,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.all.state();
        if let Some((_, handlers)) = state.running.get_mut(&self.call) {
            *handlers -= 1;
            if *handlers == 0 {
                state.running.remove(&self.call);
            }
        }
    }
}

/// The calls that were given up and could still arrive.
#[derive(Debug)]
pub(crate) struct GivenUp {
    until: HashMap<CallId, Instant>,
    /// When there are so many, those whose time is up are forgotten.
    purge_at: usize,
    /// When that was last done: not again at once, where it would be of no use.
    purged: Option<Instant>,
}

impl Default for GivenUp {
    fn default() -> Self {
        Self {
            until: HashMap::new(),
            purge_at: 1024,
            purged: None,
        }
    }
}

impl GivenUp {
    pub(crate) fn insert(&mut self, call: CallId, deadline: Option<Instant>, now: Instant) {
        let until = deadline.unwrap_or(now + REMEMBERED);
        let due = self.purged.is_none_or(|last| now - last >= PURGE_PAUSE);
        if self.until.len() >= self.purge_at && due {
            self.purged = Some(now);
            self.until.retain(|_, until| *until > now);
            self.purge_at = (self.until.len() * 2).clamp(1024, CAPACITY);
        }
        if until > now && self.until.len() < CAPACITY {
            self.until.insert(call, until);
        }
    }

    fn contains(&self, call: CallId) -> bool {
        self.until.contains_key(&call)
    }

    /// The calls, and until when they could arrive.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CallId, Instant)> {
        self.until.iter().map(|(call, until)| (*call, *until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    fn calls(session: SessionId) -> impl Iterator<Item = CallId> {
        (1..).map(move |sequence| CallId { session, sequence })
    }

    #[test]
    fn a_call_is_remembered_until_its_deadline() {
        let now = Instant::now();
        let later = now + Duration::from_secs(30);
        let mut given_up = GivenUp::default();
        let mut calls = calls(SessionId::generate());
        let first = calls.next().unwrap();
        given_up.insert(first, Some(later), now);
        assert!(given_up.contains(first));
        for call in calls.by_ref().take(2000) {
            given_up.insert(call, None, later);
        }
        assert!(!given_up.contains(first));
        let expired = calls.next().unwrap();
        given_up.insert(expired, Some(now), now);
        assert!(!given_up.contains(expired));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_so_is_the_work_for_it() {
        let now = Instant::now();
        let mut given_up = GivenUp::default();
        // A purge for each of those beyond would take minutes.
        for call in calls(SessionId::generate()).take(2 * CAPACITY) {
            given_up.insert(call, None, now);
        }
        assert_eq!(given_up.until.len(), CAPACITY);
        given_up.insert(calls(SessionId::generate()).next().unwrap(), None, now + REMEMBERED);
        assert_eq!(given_up.until.len(), 1);
    }

    #[tokio::test]
    async fn every_handler_of_a_call_hears_that_it_is_given_up_and_none_is_left_listed() {
        let all = Cancellations::default();
        let call = calls(SessionId::generate()).next().unwrap();
        assert!(!all.contains(call));
        let give_up = async {
            assert_eq!(all.state().running[&call].1, 2);
            all.give_up(call, None);
        };
        tokio::join!(all.given_up(call), all.given_up(call), give_up);
        assert!(all.contains(call));
        assert!(all.state().running.is_empty());
        all.given_up(call).await;
    }
}
