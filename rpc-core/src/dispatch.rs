//! From a delivery to its settlement: the queue, the concurrency limit, the handler, the reply.

mod endings;
mod readiness;
mod resting;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::Route;
use crate::cancellation::Cancellations;
use crate::context::Context;
use crate::delivery::{Admission, Arrival, Recent};
use crate::handler::{self, Handler};
use crate::id::{CallId, SessionId};
use crate::io::{ChannelSettings, RpcIo};
use crate::message::{Delivery, Fault, FaultKind, Kind, Origin, Request};
use crate::queue::DropOldest;
use crate::rarely::Rarely;
use crate::service::{Method, Reach, Services};
use crate::settlement::{End, Settlements, Slot, fault};
use crate::stats::Counters;

/// How many broadcast calls are remembered, to recognise repeats: more than the entries of a stream that is read anew.
const RECENT_CALLS: usize = 16_384;

/// A handler that ends within this time is not worth a task.
const AT_ONCE: Duration = Duration::from_micros(20);

thread_local! {
    /// Whether a handler is being tried on this thread.
    static TRYING: Cell<bool> = const { Cell::new(false) };
}

/// Runs what arrives.
pub(crate) struct Dispatcher {
    services: Services,
    session: SessionId,
    settings: ChannelSettings,
    counters: Arc<Counters>,
    settlements: Settlements,
    cancellations: Cancellations,
    failing: Rarely,
    runtime: Handle,
    state: Mutex<State>,
    /// Signalled when a slot becomes free.
    room: Notify,
    /// Signalled when nothing runs and nothing waits.
    idle: Notify,
    /// Nothing is to be tried again.
    stopping: CancellationToken,
    abort: CancellationToken,
    /// For handlers that call back; not strong, or the channel would hold itself.
    channel: OnceLock<Weak<dyn Route>>,
}

struct State {
    /// Read as a worker of a group. Never dropped: the reader takes no more than there is room for.
    work: VecDeque<Job>,
    /// Everything else.
    queue: DropOldest<Job>,
    /// Which of the two is next, when both have something.
    queue_is_next: bool,
    running: usize,
    /// Requests that are to be tried again later: failed notifications, and calls whose idempotency key another call has.
    resting: usize,
    recent: Recent,
}

/// A request that is to be run.
struct Job {
    slot: Slot,
    request: Request,
    method: Method,
}

/// What becomes of a request that arrived.
enum Admitted {
    /// It has a slot.
    Start(Job),
    /// It waits for one; another may have lost its place.
    Queued(Option<Job>),
    /// It is not run, for this reason.
    No(Request, Admission),
    /// It was seen before.
    Repeated,
}

impl Dispatcher {
    pub(crate) fn new(services: Services, io: Arc<dyn RpcIo>, counters: Arc<Counters>, runtime: Handle) -> Self {
        let settings = io.settings();
        Self {
            services,
            session: io.session(),
            settings,
            settlements: Settlements::new(io, Arc::clone(&counters), runtime.clone()),
            cancellations: Cancellations::default(),
            failing: Rarely::new(runtime.clone()),
            counters,
            runtime,
            state: Mutex::new(State {
                work: VecDeque::new(),
                queue: DropOldest::new(settings.max_queue_size),
                queue_is_next: true,
                running: 0,
                resting: 0,
                recent: Recent::new(RECENT_CALLS),
            }),
            room: Notify::new(),
            idle: Notify::new(),
            stopping: CancellationToken::new(),
            abort: CancellationToken::new(),
            channel: OnceLock::new(),
        }
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// Lets handlers call back through `channel`.
    pub(crate) fn set_channel(&self, channel: Weak<dyn Route>) {
        // Set once, by the builder.
        let _ = self.channel.set(channel);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so what it guards is whole even if it is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what arrived: runs it, queues it, or settles it.
    pub(crate) fn deliver(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        let mut now = Instant::now();
        for delivery in deliveries {
            if delivery.origin != Origin::Group || self.settlements.take(delivery.entry, delivery.requests.len()) {
                now = self.take(delivery, now);
            }
        }
    }

    /// Takes a delivery at `now`; returns the time when that is done.
    fn take(self: &Arc<Self>, delivery: Delivery, mut now: Instant) -> Instant {
        for (index, request) in delivery.requests.into_iter().enumerate() {
            let slot = Slot {
                entry: delivery.entry,
                index,
                origin: delivery.origin,
                call: CallId {
                    session: delivery.caller,
                    sequence: request.sequence,
                },
            };
            // Acted upon when the lock is released: an IO may answer from within `send`.
            match self.admit(slot, request, delivery.forgotten, now) {
                Admitted::Start(job) => {
                    now = self.begin(job, now);
                    continue;
                }
                Admitted::No(request, admission) => self.end_without_running(slot, &request, admission),
                Admitted::Queued(None) | Admitted::Repeated => {}
                Admitted::Queued(Some(oldest)) => {
                    let dropped = [(oldest.slot, oldest.request)];
                    self.settlements.drop_oldest(&dropped, self.settings.max_queue_size);
                }
            }
            // The time that this took is not that of the next handler.
            now = Instant::now();
        }
        now
    }

    fn admit(&self, slot: Slot, request: Request, forgotten: bool, now: Instant) -> Admitted {
        let reach = match slot.origin {
            Origin::Direct => Reach::Session,
            Origin::Group | Origin::Broadcast => Reach::Stream,
        };
        let method = self.services.find(&request.method, reach);
        let facts = Arrival {
            origin: slot.origin,
            kind: request.kind,
            own: slot.call.session == self.session && !self.settings.receive_own,
            expired: request.is_expired(now),
            served: method.is_some(),
            too_large: request.arguments.size() > self.settings.max_payload_size,
            at_most_once: method.is_some_and(|method| method.descriptor.is_at_most_once()),
            forgotten,
            attempt: request.attempt,
            max_attempts: self.settings.max_deliveries,
        };
        let mut state = self.state();
        if slot.origin == Origin::Broadcast && !state.recent.insert(slot.call) {
            return Admitted::Repeated;
        }
        match (facts.admit(), method) {
            (Admission::Run, Some(method)) => {
                let job = Job {
                    slot,
                    request,
                    method: method.clone(),
                };
                if state.running < self.settings.concurrency {
                    state.running += 1;
                    Admitted::Start(job)
                } else if slot.origin == Origin::Group {
                    state.work.push_back(job);
                    Admitted::Queued(None)
                } else {
                    Admitted::Queued(state.queue.push(job))
                }
            }
            (admission, _) => Admitted::No(request, admission),
        }
    }

    /// Starts a job that has a slot, at `now`; returns the time when that is done.
    ///
    /// A method whose handlers have been seen to end at once is tried right here: a task costs more than such a handler.
    /// If it does not end at once this time, it becomes a task after all.
    fn begin(self: &Arc<Self>, job: Job, now: Instant) -> Instant {
        let is_fast = job.method.pace.expected().is_some_and(|expected| expected <= AT_ONCE);
        // Not from within another handler, which may be calling itself: that would be a deep stack. And not where a key has
        // to be claimed first, or the arguments to be fetched, which takes a while.
        let waits = job.method.descriptor.dedupe_window().is_some() || job.request.arguments.elsewhere.is_some();
        if TRYING.get() || !is_fast || waits {
            self.runtime.spawn(Arc::clone(self).work(job));
            return Instant::now();
        }
        let mut ended = now;
        if let Some(handler) = self.call(&job, now) {
            TRYING.set(true);
            let tried = handler.try_once();
            TRYING.set(false);
            ended = Instant::now();
            match tried {
                Ok(outcome) => self.ended(job, Some(outcome), ended - now),
                Err(handler) => {
                    let dispatcher = Arc::clone(self);
                    self.runtime.spawn(async move {
                        dispatcher.attend(job, handler, now).await;
                        if let Some(next) = dispatcher.next() {
                            dispatcher.work(next).await;
                        }
                    });
                    return ended;
                }
            }
        }
        if let Some(next) = self.next() {
            self.runtime.spawn(Arc::clone(self).work(next));
        }
        ended
    }

    /// Runs `job` and then whatever waits, until nothing does: the task is the handler slot.
    async fn work(self: Arc<Self>, mut job: Job) {
        loop {
            self.run_one(job).await;
            match self.next() {
                Some(next) => job = next,
                None => return,
            }
        }
    }

    async fn run_one(self: &Arc<Self>, job: Job) {
        let Some(job) = self.claim(job).await else {
            return;
        };
        let Some(job) = self.fetch(job).await else {
            return;
        };
        let begun = Instant::now();
        if let Some(handler) = self.call(&job, begun) {
            self.attend(job, handler, begun).await;
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state();
        let next = if state.queue_is_next {
            state.queue.pop().or_else(|| state.work.pop_front())
        } else {
            state.work.pop_front().or_else(|| state.queue.pop())
        };
        state.queue_is_next = !state.queue_is_next;
        if next.is_none() {
            state.running -= 1;
            if state.running == 0 {
                self.idle.notify_waiters();
            }
        }
        drop(state);
        self.room.notify_one();
        next
    }

    /// Calls the handler of a job, unless the job is not to be run any more.
    fn call(&self, job: &Job, now: Instant) -> Option<Handler> {
        let Job { slot, request, method } = job;
        if !self.is_wanted(*slot, request, now) {
            return None;
        }
        // What was about to start when the channel was aborted has not begun; it keeps its attempt.
        if self.abort.is_cancelled() {
            self.settlements.abandon(*slot, request.kind);
            return None;
        }
        if !self.settlements.begin(*slot) {
            return None;
        }
        self.counters.handled.add(1);
        let cx = Context::new(
            slot.call,
            method.descriptor.name(),
            request.headers.clone(),
            request.deadline,
            request.attempt,
            request.arguments.codec,
            self.channel.get().cloned(),
        );
        Some(Handler::new(method, cx, request.arguments.clone()))
    }

    /// Sees a handler that began at `begun` to its end.
    async fn attend(self: &Arc<Self>, job: Job, handler: Handler, begun: Instant) {
        let (slot, kind) = (job.slot, job.request.kind);
        let cx = handler.context().clone();
        let run = async {
            let aborted = async {
                self.abort.cancelled().await;
                // Before the handler is dropped, which may panic.
                cx.cancel();
            };
            let given_up = async {
                self.cancellations.given_up(slot.call).await;
                cx.cancel();
            };
            tokio::select! {
                biased;
                outcome = handler.run() => self.ended(job, outcome, begun.elapsed()),
                () = aborted => self.settlements.abandon(slot, kind),
                () = given_up, if job.method.descriptor.is_cancellable() => self.given_up(slot),
            }
        };
        if let Err(message) = handler::catch_panics(run).await {
            // The handler was dropped, and panicked at that: the slot must be given back all the same.
            tracing::error!(call = %slot.call, message, "a handler panicked when it was dropped");
            if self.abort.is_cancelled() {
                self.settlements.abandon(slot, kind);
            } else {
                // Its caller has given it up.
                self.given_up(slot);
            }
        }
    }

    /// A caller has given a call up, which may be running, waiting, or still on its way.
    pub(crate) fn cancel(&self, call: CallId, deadline: Option<Instant>) {
        if !self.services.is_empty() {
            self.cancellations.give_up(call, deadline);
        }
    }

    /// How the requests of this channel have ended.
    pub(crate) fn settlements(&self) -> &Settlements {
        &self.settlements
    }

    /// Waits until there is room for at least one request; returns for how many.
    pub(crate) async fn room(&self) -> usize {
        // A few beyond the free slots, so that a worker with many slots does not idle for a round trip; none for a
        // worker with few, whose neighbours may be free.
        let prefetch = (self.settings.concurrency / 8).min(16);
        loop {
            let freed = self.room.notified();
            let (taken, resting) = {
                let state = self.state();
                (state.running + state.work.len(), state.resting)
            };
            let free = (self.settings.concurrency + prefetch).saturating_sub(taken);
            // What fails at once must not fill the memory with what is to be tried again.
            let free = free.min(self.settings.max_queue_size.max(1).saturating_sub(resting));
            if free > 0 {
                return free;
            }
            freed.await;
        }
    }

    /// Waits until nothing runs and nothing waits.
    pub(crate) async fn idle(&self) {
        loop {
            // Registered before the check, so that no notification falls between the two.
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.state().running == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Has the log say what it does not say yet.
    pub(crate) fn report_rest(&self) {
        self.failing.report_rest();
        self.settlements.report_rest();
    }

    /// Ends all handlers at once, and refuses what waits.
    pub(crate) fn abort(&self) {
        // First, so that nothing joins what waits while that is refused.
        self.stop_retries();
        let waiting: Vec<Job> = {
            let mut state = self.state();
            state.work.clear();
            std::iter::from_fn(|| state.queue.pop()).collect()
        };
        for job in waiting.into_iter().filter(|job| job.request.kind == Kind::Call) {
            let closing = Fault::new(FaultKind::Overloaded, "the server is closing");
            self.settlements
                .settle(job.slot, End::Answered(fault(job.request.sequence, closing)));
        }
        self.abort.cancel();
    }

    /// How many requests wait, and how many handlers run.
    pub(crate) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.work.len() + state.queue.len() + state.resting, state.running)
    }
}
