//! How requests end: answered, dropped, refused, buried; and how the IO is told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::delivery::Ledger;
use crate::id::{CallId, EntryId};
use crate::io::{Outgoing, RpcIo};
use crate::message::{Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};
use crate::stats::Counters;

/// How often a full queue may be reported.
const WARN_INTERVAL: Duration = Duration::from_secs(5);

/// Which request of which delivery something is about.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) entry: EntryId,
    pub(crate) index: usize,
    pub(crate) origin: Origin,
    pub(crate) call: CallId,
}

/// How a request ends.
pub(crate) enum End {
    /// With an answer, if somebody waits for one.
    Settle(Option<Reply>),
    /// Kept for a person to look at, if it came from a group.
    DeadLetter {
        reason: String,
        attempts: u32,
        reply: Option<Reply>,
    },
}

/// Ends requests, and knows which entries of the group are held until their end is confirmed.
pub(crate) struct Settlements {
    io: Arc<dyn RpcIo>,
    counters: Arc<Counters>,
    ledger: Mutex<Ledger>,
    /// When a full queue was last reported.
    warned: Mutex<Option<Instant>>,
}

impl Settlements {
    pub(crate) fn new(io: Arc<dyn RpcIo>, counters: Arc<Counters>) -> Self {
        Self {
            io,
            counters,
            ledger: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // No code that can panic runs under the lock, so what it guards is whole even if it is poisoned.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an entry of the group; false if it is held already.
    pub(crate) fn take(&self, entry: EntryId, requests: usize) -> bool {
        self.ledger().take(entry, requests)
    }

    /// An acknowledgement is confirmed.
    pub(crate) fn confirmed(&self, entry: EntryId) {
        self.ledger().confirm(entry);
    }

    pub(crate) fn holds(&self, entry: EntryId) -> bool {
        self.ledger().holds(entry)
    }

    pub(crate) fn held(&self) -> HashSet<EntryId> {
        self.ledger().entries().collect()
    }

    pub(crate) fn settle(&self, slot: Slot, end: End) {
        let last = slot.origin == Origin::Group && self.ledger().settle(slot.entry, slot.index);
        let (caller, acknowledge) = (slot.call.session, last.then_some(slot.entry));
        match end {
            End::DeadLetter {
                reason,
                attempts,
                reply,
            } if slot.origin == Origin::Group => self.io.send(Outgoing::DeadLetter {
                caller,
                reply,
                entry: slot.entry,
                acknowledge: last,
                reason,
                attempts,
            }),
            End::Settle(reply) | End::DeadLetter { reply, .. } => {
                if reply.is_some() || acknowledge.is_some() {
                    self.io.send(Outgoing::Settle {
                        caller,
                        reply,
                        acknowledge,
                    });
                }
            }
        }
    }

    /// Makes a dead letter of a request that cannot be run; its caller is told.
    pub(crate) fn bury(&self, slot: Slot, request: &Request, why: Fault) {
        if request.kind == Kind::Notification {
            self.counters.failed_notifications.add(1);
        }
        tracing::warn!(method = %request.method, attempts = request.attempt, reason = why.message, "a dead letter");
        let end = End::DeadLetter {
            reason: why.message.clone(),
            attempts: request.attempt,
            reply: (request.kind == Kind::Call).then(|| fault(request.sequence, why)),
        };
        self.settle(slot, end);
    }

    /// Refuses a request that is not run; its caller is told, unless he has given up or does not wait.
    pub(crate) fn refuse(&self, slot: Slot, request: &Request, why: Fault) {
        let wanted = request.kind == Kind::Call && !request.is_expired(Instant::now());
        self.settle(slot, End::Settle(wanted.then(|| fault(request.sequence, why))));
    }

    /// Refuses what a full queue of `capacity` has dropped.
    pub(crate) fn drop_oldest(&self, dropped: &[(Slot, Request)], capacity: usize) {
        if dropped.is_empty() {
            return;
        }
        let total = self.counters.dropped.add(dropped.len() as u64);
        if self.may_warn() {
            tracing::warn!(
                total,
                capacity,
                "the inbound queue is full: the oldest requests are dropped and their callers told"
            );
        }
        for (slot, request) in dropped {
            let message = format!("the server's queue of {capacity} was full");
            self.refuse(*slot, request, Fault::new(FaultKind::Overloaded, message));
        }
    }

    fn may_warn(&self) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = warned.is_none_or(|last| now - last >= WARN_INTERVAL);
        if due {
            *warned = Some(now);
        }
        due
    }

    /// The channel is gone while the handler runs. A worker's request stays pending in its group, for another to take.
    pub(crate) fn abandon(&self, slot: Slot, kind: Kind) {
        if slot.origin != Origin::Group && kind == Kind::Call {
            let message = "the server closed before the handler had finished";
            let closing = Fault::new(FaultKind::Closing, message);
            self.settle(slot, End::Settle(Some(fault(slot.call.sequence, closing))));
        }
    }
}

pub(crate) fn fault(sequence: u64, fault: Fault) -> Reply {
    Reply {
        sequence,
        outcome: Outcome::Fault(fault),
        handler_time: Duration::ZERO,
    }
}
