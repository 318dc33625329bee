//! The calls that wait for a reply, found by their sequence number.

use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use tokio::sync::oneshot;

use crate::error::CallError;
use crate::id::SessionId;
use crate::message::{Fault, Kind, Outcome, Target};

/// How a call ended: what the server said, or why it could not say anything.
pub(crate) type Ending = Result<Outcome, CallError>;

/// The calls of one channel that have not ended.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    calls: DashMap<u64, Waiting, FxBuildHasher>,
    last: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    ending: oneshot::Sender<Ending>,
    method: &'static str,
    kind: Kind,
    target: Target,
    /// Who declined a broadcast call. Kept, because another subscriber's answer counts more.
    refusals: Vec<(SessionId, Fault)>,
}

/// What became of a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It waits for better answers.
    Kept,
    /// Nobody waits for it.
    Unknown,
}

impl InFlight {
    /// Opens a call: its sequence number and where its ending will arrive.
    pub(crate) fn open(&self, method: &'static str, kind: Kind, target: Target) -> (u64, oneshot::Receiver<Ending>) {
        let sequence = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (ending, receiver) = oneshot::channel();
        self.calls.insert(
            sequence,
            Waiting {
                ending,
                method,
                kind,
                target,
                refusals: Vec::new(),
            },
        );
        (sequence, receiver)
    }

    /// Ends a call; false if it had ended before.
    pub(crate) fn end(&self, sequence: u64, ending: impl FnOnce(&'static str) -> Ending) -> bool {
        let Some((_, waiting)) = self.calls.remove(&sequence) else {
            return false;
        };
        // Nobody receives it if the caller gave up in this very moment.
        let _ = waiting.ending.send(ending(waiting.method));
        true
    }

    /// Ends every call that `which` names.
    pub(crate) fn end_all(&self, which: impl Fn(u64, Kind, Target) -> bool, error: impl Fn(&'static str) -> CallError) {
        let sequences: Vec<u64> = self
            .calls
            .iter()
            .filter(|call| which(*call.key(), call.kind, call.target))
            .map(|call| *call.key())
            .collect();
        for sequence in sequences {
            self.end(sequence, |method| Err(error(method)));
        }
    }

    /// Takes a call out without an ending; false if it had ended before.
    pub(crate) fn remove(&self, sequence: u64) -> bool {
        self.calls.remove(&sequence).is_some()
    }

    /// Gives a call up; returns the last refusal that it had got.
    pub(crate) fn give_up(&self, sequence: u64) -> Option<Fault> {
        let (_, mut waiting) = self.calls.remove(&sequence)?;
        waiting.refusals.pop().map(|(_, fault)| fault)
    }

    /// Whether the call went to the stream: in broadcast, its refusals are kept.
    pub(crate) fn went_to_stream(&self, sequence: u64) -> bool {
        self.calls
            .get(&sequence)
            .is_some_and(|call| call.target == Target::Stream)
    }

    /// Notes that `from` declined a broadcast call.
    pub(crate) fn refuse(&self, sequence: u64, from: SessionId, fault: Fault) -> Refused {
        match self.calls.get_mut(&sequence) {
            Some(mut call) => {
                call.refusals.retain(|(session, _)| *session != from);
                call.refusals.push((from, fault));
                Refused::Kept
            }
            None => Refused::Unknown,
        }
    }

    /// Ends the refused calls for which `nobody_left` finds no subscriber that could still answer: it is given the
    /// method and those who declined. Returns how many refused calls go on waiting.
    pub(crate) fn judge(&self, nobody_left: impl Fn(&str, &[SessionId]) -> bool) -> usize {
        let mut hopeless = Vec::new();
        let mut hopeful = 0;
        for call in self.calls.iter().filter(|call| !call.refusals.is_empty()) {
            let decliners: Vec<_> = call.refusals.iter().map(|(session, _)| *session).collect();
            if nobody_left(call.method, &decliners) {
                hopeless.push(*call.key());
            } else {
                hopeful += 1;
            }
        }
        for sequence in hopeless {
            if let Some((_, mut call)) = self.calls.remove(&sequence)
                && let Some((_, fault)) = call.refusals.pop()
            {
                let _ = call.ending.send(Err(CallError::from_fault(call.method, fault)));
            }
        }
        hopeful
    }

    pub(crate) fn contains(&self, sequence: u64) -> bool {
        self.calls.contains_key(&sequence)
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FaultKind;

    fn open(table: &InFlight) -> (u64, oneshot::Receiver<Ending>) {
        table.open("a.b", Kind::Call, Target::Stream)
    }

    #[test]
    fn a_second_ending_finds_nobody() {
        let table = InFlight::default();
        let (sequence, mut ending) = open(&table);
        assert!(table.end(sequence, |method| Err(CallError::Closed { method })));
        assert!(!table.end(sequence, |method| Err(CallError::Closed { method })));
        assert_eq!(ending.try_recv().unwrap(), Err(CallError::Closed { method: "a.b" }));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_refusal_is_returned_when_all_have_refused() {
        let table = InFlight::default();
        let (sequence, mut ending) = open(&table);
        let (one, two) = (SessionId::generate(), SessionId::generate());
        let full = || Fault::new(FaultKind::Overloaded, "full");
        let all_of =
            |live: Vec<SessionId>| move |_: &str, refused: &[SessionId]| live.iter().all(|s| refused.contains(s));

        assert_eq!(table.refuse(sequence, one, full()), Refused::Kept);
        assert_eq!(table.judge(all_of(vec![one, two])), 1);
        assert!(ending.try_recv().is_err());
        table.refuse(sequence, two, full());
        assert_eq!(table.judge(all_of(vec![one, two])), 0);
        assert!(matches!(ending.try_recv(), Ok(Err(CallError::Overloaded { .. }))));
        assert_eq!(table.refuse(sequence, one, full()), Refused::Unknown);
    }

    #[test]
    fn giving_up_returns_the_kept_refusal() {
        let table = InFlight::default();
        let (sequence, _ending) = open(&table);
        table.refuse(
            sequence,
            SessionId::generate(),
            Fault::new(FaultKind::Overloaded, "full"),
        );
        assert_eq!(table.give_up(sequence).unwrap().message, "full");
        assert_eq!(table.give_up(sequence), None);
        assert_eq!(table.len(), 0);
    }
}
