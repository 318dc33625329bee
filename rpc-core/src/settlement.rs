//! How requests end: answered, dropped, refused, buried; and how the IO is told.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::codec::Payload;
use crate::delivery::Ledger;
use crate::id::{CallId, EntryId, SessionId};
use crate::io::{Claim, KeyedRun, Outgoing, Record, RpcIo};
use crate::message::{Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};
use crate::rarely::Rarely;
use crate::stats::Counters;

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
    /// With an answer.
    Answered(Reply),
    /// It has run, and nobody waits for an answer.
    Done,
    /// Not run, or not to its end, and nobody is told.
    Dropped,
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
    /// The idempotency keys that running requests have claimed.
    claimed: Mutex<HashMap<(EntryId, usize, Origin), KeyedRun>>,
    /// Whether there ever was one: most channels have no keyed methods, and are not to pay for a lock.
    keyed: AtomicBool,
    full: Rarely,
    buried: Rarely,
}

impl Settlements {
    pub(crate) fn new(io: Arc<dyn RpcIo>, counters: Arc<Counters>, runtime: Handle) -> Self {
        Self {
            io,
            counters,
            ledger: Mutex::default(),
            claimed: Mutex::default(),
            keyed: AtomicBool::new(false),
            full: Rarely::new(runtime.clone()),
            buried: Rarely::new(runtime),
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

    /// A request is about to run; false if it must not, because its entry has been handed back.
    pub(crate) fn begin(&self, slot: Slot) -> bool {
        slot.origin != Origin::Group || self.ledger().begin(slot.entry)
    }

    /// Gives up what has not begun; returns the entries that have.
    pub(crate) fn hand_back(&self) -> HashSet<EntryId> {
        self.ledger().hand_back()
    }

    /// An acknowledgement is confirmed; it is sent once more if it was too early.
    pub(crate) fn confirmed(&self, entry: EntryId) {
        let once_more = self.ledger().confirm(entry);
        if once_more {
            self.settled(self.io.session(), None, Some(entry), None);
        }
    }

    pub(crate) fn holds(&self, entry: EntryId) -> bool {
        self.ledger().holds(entry)
    }

    pub(crate) fn held(&self) -> HashSet<EntryId> {
        self.ledger().entries().collect()
    }

    /// Claims the key of a run. However the request ends, it will be recorded under the key, or the key be given up.
    pub(crate) async fn claim(&self, slot: Slot, run: KeyedRun) -> Claim {
        // Listed before it is known: an answer that does not come in time may still have been a yes.
        self.claims().insert((slot.entry, slot.index, slot.origin), run.clone());
        self.keyed.store(true, Ordering::Release);
        match self.io.claim(&run).await {
            Ok(claim) => {
                if !matches!(claim, Claim::Granted) {
                    self.claims().remove(&(slot.entry, slot.index, slot.origin));
                }
                claim
            }
            Err(error) => {
                tracing::debug!(method = run.method, %error, "an idempotency key cannot be claimed now");
                Claim::Taken
            }
        }
    }

    /// Has the IO fetch arguments that lie elsewhere.
    pub(crate) async fn fetch(&self, arguments: &Payload) -> Result<Payload, Fault> {
        self.io.fetch(arguments).await
    }

    fn claims(&self) -> MutexGuard<'_, HashMap<(EntryId, usize, Origin), KeyedRun>> {
        // Only entered and removed under the lock.
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be recorded of a request that ends so. A fault is no result: a repeated call may have more luck; unless
    /// the method has run, and only its result could not be written.
    fn record(&self, slot: Slot, end: &End) -> Option<Box<Record>> {
        if !self.keyed.load(Ordering::Acquire) {
            return None;
        }
        let run = self.claims().remove(&(slot.entry, slot.index, slot.origin))?;
        let result = match end {
            End::Answered(reply) => match &reply.outcome {
                Outcome::Fault(fault) if fault.kind != FaultKind::BadResult => None,
                outcome => Some(outcome.clone()),
            },
            End::Done => Some(Outcome::Returned(Payload::empty())),
            End::Dropped | End::DeadLetter { .. } => None,
        };
        Some(Box::new(Record { run, result }))
    }

    pub(crate) fn settle(&self, slot: Slot, end: End) {
        let record = self.record(slot, &end);
        let last = slot.origin == Origin::Group && self.ledger().settle(slot.entry, slot.index);
        let (caller, acknowledge) = (slot.call.session, last.then_some(slot.entry));
        match end {
            End::DeadLetter {
                reason,
                attempts,
                reply,
            } if slot.origin == Origin::Group => {
                self.settled(caller, None, None, record);
                self.io.send(Outgoing::DeadLetter {
                    caller,
                    reply,
                    entry: slot.entry,
                    index: slot.index,
                    acknowledge: last,
                    reason,
                    attempts,
                });
            }
            End::Answered(reply) => self.settled(caller, Some(reply), acknowledge, record),
            End::Done | End::Dropped => self.settled(caller, None, acknowledge, record),
            End::DeadLetter { reply, .. } => self.settled(caller, reply, acknowledge, record),
        }
    }

    fn settled(
        &self,
        caller: SessionId,
        reply: Option<Reply>,
        acknowledge: Option<EntryId>,
        record: Option<Box<Record>>,
    ) {
        if reply.is_some() || acknowledge.is_some() || record.is_some() {
            self.io.send(Outgoing::Settle {
                caller,
                reply,
                acknowledge,
                record,
            });
        }
    }

    /// Has the log say what it does not say yet.
    pub(crate) fn report_rest(&self) {
        self.full.report_rest();
        self.buried.report_rest();
    }

    /// Makes a dead letter of a request that cannot be run; its caller is told.
    pub(crate) fn bury(&self, slot: Slot, request: &Request, why: Fault) {
        if request.kind == Kind::Notification {
            self.counters.failed_notifications.add(1);
        }
        let reason = format!("{}: {}", why.kind.name(), why.message);
        let reply = (request.kind == Kind::Call).then(|| fault(request.sequence, why));
        self.keep(slot, request, reason, reply);
    }

    /// Makes a dead letter of a request, if it came from a group, and says so in the log.
    pub(crate) fn keep(&self, slot: Slot, request: &Request, reason: String, reply: Option<Reply>) {
        let attempts = request.attempt;
        if slot.origin == Origin::Group {
            let (method, call, reason) = (request.method.clone(), slot.call, reason.clone());
            self.buried.happened(move |letters| {
                tracing::warn!(%method, %call, attempts, reason, letters, "requests have become dead letters; this is the last of them");
            });
        }
        self.settle(
            slot,
            End::DeadLetter {
                reason,
                attempts,
                reply,
            },
        );
    }

    /// Refuses a request that is not run; its caller is told, unless he has given up or does not wait.
    pub(crate) fn refuse(&self, slot: Slot, request: &Request, why: Fault) {
        let wanted = request.kind == Kind::Call && !request.is_expired(Instant::now());
        let end = match wanted {
            true => End::Answered(fault(request.sequence, why)),
            false => End::Dropped,
        };
        self.settle(slot, end);
    }

    /// Refuses what a full queue of `capacity` has dropped.
    pub(crate) fn drop_oldest(&self, dropped: &[(Slot, Request)], capacity: usize) {
        if dropped.is_empty() {
            return;
        }
        let total = self.counters.dropped.add(dropped.len() as u64);
        self.full.happened(move |_| {
            tracing::warn!(
                total,
                capacity,
                "the inbound queue is full: the oldest requests are dropped and their callers told"
            );
        });
        for (slot, request) in dropped {
            let message = format!("the server's queue of {capacity} was full (`max_queue_size`)");
            self.refuse(*slot, request, Fault::new(FaultKind::Overloaded, message));
        }
    }

    /// The channel is gone while the handler runs. A worker's request stays pending in its group, for another to take.
    pub(crate) fn abandon(&self, slot: Slot, kind: Kind) {
        if slot.origin != Origin::Group && kind == Kind::Call {
            let message = "the server closed before the handler had finished";
            let closing = Fault::new(FaultKind::Closing, message);
            self.settle(slot, End::Answered(fault(slot.call.sequence, closing)));
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
