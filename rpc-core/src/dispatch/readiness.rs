//! What a job needs before its handler is called: that somebody still waits for it, its idempotency key, its arguments.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Dispatcher, Job};
use crate::handler::until;
use crate::io::{Claim, KeyedRun};
use crate::message::{FaultKind, Origin, Request};
use crate::settlement::Slot;

impl Dispatcher {
    /// Claims the idempotency key of a job, if its method wants one; `None` if the job is not to be run, or not now.
    pub(super) async fn claim(self: &Arc<Self>, job: Job) -> Option<Job> {
        let Some(window) = job.method.descriptor.dedupe_window() else {
            return Some(job);
        };
        let Job { slot, request, method } = job;
        if !self.is_wanted(slot, &request, Instant::now()) {
            return None;
        }
        let whence = (slot.entry, slot.index, slot.origin);
        let run = KeyedRun::new(method.descriptor.name(), window, &request, slot.call, whence);
        match self.settlements.claim(slot, run).await {
            Claim::Granted => return Some(Job { slot, request, method }),
            Claim::Done(outcome) => self.repeated(slot, &request, outcome),
            Claim::Taken => self.rest_for_claim(Job { slot, request, method }),
            Claim::Refused(why) => self.unclaimable(slot, &request, why),
        }
        None
    }

    /// Has the arguments of a job fetched, if they lie elsewhere; `None` if the job is not to be run.
    pub(super) async fn fetch(&self, mut job: Job) -> Option<Job> {
        let Job { slot, request, .. } = &mut job;
        if request.arguments.elsewhere.is_none() {
            return Some(job);
        }
        if !self.is_wanted(*slot, request, Instant::now()) {
            return None;
        }
        tokio::select! {
            fetched = self.settlements.fetch(&request.arguments) => match fetched {
                Ok(arguments) => {
                    request.arguments = arguments;
                    return Some(job);
                }
                Err(mut why) => {
                    if slot.origin == Origin::Broadcast {
                        // It has certainly not run here, and others may have had more luck.
                        why.kind = FaultKind::BadArguments;
                    }
                    self.settlements.refuse(*slot, request, why);
                }
            },
            () = self.abort.cancelled() => self.settlements.abandon(*slot, request.kind),
            () = self.cancellations.given_up(slot.call) => self.given_up(*slot),
            () = until(request.deadline) => self.expired(*slot, request),
        }
        None
    }

    /// Whether somebody still waits for a request; settles it otherwise.
    pub(super) fn is_wanted(&self, slot: Slot, request: &Request, now: Instant) -> bool {
        if request.is_expired(now) {
            self.expired(slot, request);
            return false;
        }
        if self.cancellations.contains(slot.call) {
            self.given_up(slot);
            return false;
        }
        true
    }
}
