//! What is put aside for a while: notifications that failed, and requests whose idempotency key another call has.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{Dispatcher, Job};
use crate::message::Origin;

/// How soon it is asked again whether a call with the same idempotency key has returned.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// Runs a notification again after a while.
    pub(super) fn retry(self: &Arc<Self>, job: Job) {
        let doublings = job.request.attempt.saturating_sub(2).min(16);
        self.rest(job, self.settings.retry_backoff.saturating_mul(1 << doublings));
    }

    /// Another call has the idempotency key: asks again, the more rarely the more do.
    pub(super) fn rest_for_claim(self: &Arc<Self>, job: Job) {
        let resting = self.state().resting;
        if job.slot.origin != Origin::Group && resting >= self.settings.max_queue_size {
            // A worker reads no more than it has room for; others are sent what there is.
            return self
                .settlements
                .drop_oldest(&[(job.slot, job.request)], self.settings.max_queue_size);
        }
        let crowd = u32::try_from(resting / 100).unwrap_or(u32::MAX);
        self.rest(job, CLAIM_PAUSE.saturating_mul(1 + crowd));
    }

    /// Puts a request aside for a while. It waits without a handler slot, and still unacknowledged: when this worker ends
    /// meanwhile, another one takes it over.
    fn rest(self: &Arc<Self>, job: Job, pause: Duration) {
        let dispatcher = Arc::clone(self);
        self.state().resting += 1;
        self.runtime.spawn(async move {
            let stopping = dispatcher.stopping.clone();
            let due = stopping.run_until_cancelled(sleep(pause)).await.is_some();
            dispatcher.state().resting -= 1;
            dispatcher.room.notify_one();
            if due {
                dispatcher.admit_again(job);
            } else {
                dispatcher.settlements.abandon(job.slot, job.request.kind);
            }
        });
    }

    fn admit_again(self: Arc<Self>, job: Job) {
        let mut state = self.state();
        if state.running >= self.settings.concurrency {
            state.work.push_back(job);
            return;
        }
        state.running += 1;
        drop(state);
        self.runtime.clone().spawn(self.work(job));
    }

    /// Admits nothing again that waits to be tried again.
    pub(crate) fn stop_retries(&self) {
        self.stopping.cancel();
    }
}
