//! How a request ends: run, refused, given up, expired, failed.

use std::sync::Arc;
use std::time::Duration;

use super::{Dispatcher, Job};
use crate::delivery::{Admission, Skipped};
use crate::error::too_large;
use crate::message::{Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};
use crate::settlement::{End, Slot};

impl Dispatcher {
    pub(super) fn end_without_running(&self, slot: Slot, request: &Request, admission: Admission) {
        match admission {
            // It had expired: that is the one reason without a name of its own.
            Admission::Bury(FaultKind::Other) => self.expired(slot, request),
            Admission::Refuse(kind) | Admission::Bury(kind) => {
                self.counters.refused.add(1);
                let why = self.explain(kind, request);
                if let Admission::Bury(_) = admission {
                    self.settlements.bury(slot, request, why);
                } else {
                    self.settlements.refuse(slot, request, why);
                }
            }
            Admission::Skip(why) => {
                if why == Skipped::Expired {
                    self.counters.expired.add(1);
                }
                self.settlements.settle(slot, End::Dropped);
            }
            // A method that is not served is never admitted to run.
            Admission::Run => {}
        }
    }

    /// A handler has ended after `handler_time`: with an outcome, or by its deadline.
    pub(super) fn ended(self: &Arc<Self>, job: Job, outcome: Option<Outcome>, handler_time: Duration) {
        let Job { slot, request, method } = &job;
        method.pace.record(handler_time);
        if let Some(Outcome::Fault(fault)) = &outcome
            && fault.kind == FaultKind::Panicked
        {
            let (method, message) = (method.descriptor.name(), &fault.message);
            tracing::error!(method, call = %slot.call, attempt = request.attempt, message, "a handler panicked");
        }
        match (outcome, request.kind) {
            (None, _) => self.expired(*slot, request),
            (Some(outcome), Kind::Call) => {
                let reply = Reply {
                    sequence: slot.call.sequence,
                    outcome: outcome.within(self.settings.max_payload_size, "the server's"),
                    handler_time,
                };
                self.settlements.settle(*slot, End::Answered(reply));
            }
            (Some(Outcome::Returned(_)), Kind::Notification) => self.settlements.settle(*slot, End::Done),
            (Some(outcome), Kind::Notification) => self.failed(job, &outcome),
        }
    }

    /// A call with the same idempotency key has returned.
    pub(super) fn repeated(&self, slot: Slot, request: &Request, outcome: Outcome) {
        self.counters.repeated.add(1);
        let end = match request.kind {
            Kind::Notification => End::Dropped,
            Kind::Call => End::Answered(Reply {
                sequence: slot.call.sequence,
                outcome,
                handler_time: Duration::ZERO,
            }),
        };
        self.settlements.settle(slot, end);
    }

    /// The caller of a request has given it up: nobody waits for an answer.
    pub(super) fn given_up(&self, slot: Slot) {
        self.counters.cancelled.add(1);
        self.settlements.settle(slot, End::Dropped);
    }

    /// The deadline of a request has passed. A notification of the group is kept: nobody waits who could notice.
    pub(super) fn expired(&self, slot: Slot, request: &Request) {
        self.counters.expired.add(1);
        match request.kind {
            Kind::Call => self.settlements.settle(slot, End::Dropped),
            Kind::Notification => {
                let reason = "its deadline passed before it had run".to_owned();
                self.settlements.keep(slot, request, reason, None);
            }
        }
    }

    /// A notification has failed. Only a worker's is tried again (a subscriber is one of many), and not one that is not even
    /// understood.
    fn failed(self: &Arc<Self>, mut job: Job, outcome: &Outcome) {
        let total = self.counters.failed_notifications.add(1);
        let (method, call, attempt) = (job.method.descriptor.name(), job.slot.call, job.request.attempt);
        let misunderstood = matches!(outcome, Outcome::Fault(fault) if fault.kind == FaultKind::BadArguments);
        let reason = match outcome {
            Outcome::Fault(fault) if misunderstood => format!("bad arguments: {}", fault.message),
            Outcome::Fault(fault) => format!("the handler failed: {}: {}", fault.kind.name(), fault.message),
            // The error itself may hold what does not belong here.
            _ => "the handler returned an error, which is not kept here: log it in the handler".to_owned(),
        };
        let once = misunderstood || job.method.descriptor.is_at_most_once();
        let again = job.slot.origin == Origin::Group && !once && attempt < self.settings.max_deliveries;
        let why = reason.clone();
        self.failing.happened(move |_| {
            tracing::warn!(method, %call, attempt, total, why, again, "notifications fail; this is the last of them");
        });
        if again {
            job.request.attempt += 1;
            self.retry(job);
        } else {
            self.settlements.keep(job.slot, &job.request, reason, None);
        }
    }

    /// The IO will never grant the key of a request.
    pub(super) fn unclaimable(&self, slot: Slot, request: &Request, why: String) {
        let why = Fault::new(
            FaultKind::Other,
            format!("its idempotency key cannot be claimed: {why}"),
        );
        match request.kind {
            Kind::Call => self.settlements.refuse(slot, request, why),
            Kind::Notification => self.settlements.bury(slot, request, why),
        }
    }

    /// What to tell a caller, or a person who looks at dead letters.
    fn explain(&self, kind: FaultKind, request: &Request) -> Fault {
        match kind {
            FaultKind::MethodNotFound => self.services.not_found(&request.method),
            FaultKind::TooLarge => {
                let reason = too_large(request.arguments.size(), self.settings.max_payload_size, "the server's");
                Fault::new(kind, reason)
            }
            FaultKind::WorkerLost if request.attempt > self.settings.max_deliveries => {
                let died = self.settings.max_deliveries;
                let reason =
                    format!("{died} workers died while they ran it; it is a dead letter now: see their logs first");
                Fault::new(kind, reason)
            }
            FaultKind::Indeterminate => Fault::new(
                kind,
                "the group was lost and created anew, so nobody knows whether it has run, and the method must not run twice",
            ),
            FaultKind::WorkerLost => Fault::new(
                kind,
                "its worker died, and the method must not run twice; it may have run in part: find out before you call again",
            ),
            // Nothing else is refused or buried for a reason that needs words.
            _ => Fault::new(kind, "it cannot be run here"),
        }
    }
}
