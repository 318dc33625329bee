//! How requests end: answered, dropped, refused, buried; and how the IO is told.

use std::time::Duration;

use tokio::time::Instant;

use crate::dispatch::{Dispatcher, Job};
use crate::id::{CallId, EntryId};
use crate::io::Outgoing;
use crate::message::{Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};

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

impl Dispatcher {
    /// What to tell a caller, or a person who looks at dead letters.
    pub(crate) fn explain(&self, kind: FaultKind, request: &Request) -> Fault {
        match kind {
            FaultKind::MethodNotFound => self.services.not_found(&request.method),
            FaultKind::WorkerLost if request.attempt > self.settings.max_deliveries => {
                Fault::new(kind, format!("{} workers died while they ran it", request.attempt - 1))
            }
            FaultKind::WorkerLost => Fault::new(kind, "its worker died, and the method must not run twice"),
            _ => Fault::new(kind, "it had expired before it could run"),
        }
    }

    pub(crate) fn bury(&self, request: &Request, why: Fault) -> End {
        if request.kind == Kind::Notification {
            self.counters.failed_notifications.add(1);
        }
        tracing::warn!(method = %request.method, attempts = request.attempt, reason = why.message, "a dead letter");
        End::DeadLetter {
            reason: why.message.clone(),
            attempts: request.attempt,
            reply: (request.kind == Kind::Call).then(|| fault(request.sequence, why)),
        }
    }

    /// Tells the callers of what was dropped, unless they have given up or do not wait.
    pub(crate) fn report_overflow(&self, dropped: Vec<Job>) {
        if dropped.is_empty() {
            return;
        }
        let total = self.counters.dropped.add(dropped.len() as u64);
        let now = Instant::now();
        let warn = {
            let mut state = self.state();
            let due = state.warned.is_none_or(|last| now - last >= WARN_INTERVAL);
            if due {
                state.warned = Some(now);
            }
            due
        };
        if warn {
            tracing::warn!(
                total,
                capacity = self.settings.max_queue_size,
                "the inbound queue is full: the oldest requests are dropped and their callers told"
            );
        }
        for job in dropped {
            let wanted = job.request.kind == Kind::Call && !job.request.is_expired(now);
            let reply = wanted.then(|| {
                let message = format!("the server's queue of {} was full", self.settings.max_queue_size);
                fault(job.request.sequence, Fault::new(FaultKind::Overloaded, message))
            });
            self.settle(job.slot, End::Settle(reply));
        }
    }

    /// The channel is gone while the handler runs. A worker's request stays pending in its group, for another to take.
    pub(crate) fn abandon(&self, slot: Slot, kind: Kind) {
        if slot.origin != Origin::Group && kind == Kind::Call {
            let message = "the server closed before the handler had finished";
            let closing = Fault::new(FaultKind::Closing, message);
            self.settle(slot, End::Settle(Some(fault(slot.call.sequence, closing))));
        }
    }

    pub(crate) fn settle(&self, slot: Slot, end: End) {
        let last = slot.origin == Origin::Group && self.state().ledger.settle(slot.entry, slot.index);
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
}

pub(crate) fn fault(sequence: u64, fault: Fault) -> Reply {
    Reply {
        sequence,
        outcome: Outcome::Fault(fault),
        handler_time: Duration::ZERO,
    }
}
