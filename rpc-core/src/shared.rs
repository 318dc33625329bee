//! What the handles of a channel, its IO and its handlers share.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::caller::{Draft, Route};
use crate::descriptor::MethodDescriptor;
use crate::dispatch::Dispatcher;
use crate::error::{CallError, too_large};
use crate::handler::until;
use crate::id::SessionId;
use crate::in_flight::{Ending, InFlight, Refused};
use crate::io::{ChannelSettings, Mode, Outgoing, RpcIo};
use crate::message::{FaultKind, Kind, Outcome, Reply, Target};
use crate::pace::Paces;
use crate::roster::Roster;
use crate::stats::Counters;

/// How long handlers have to be dropped.
const ABORT_LIMIT: Duration = Duration::from_secs(1);

/// One channel. Its IO holds it too; only [`Alive`] says whether anybody still wants it.
pub(crate) struct Shared {
    pub(crate) io: Arc<dyn RpcIo>,
    pub(crate) settings: ChannelSettings,
    pub(crate) in_flight: InFlight,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) runtime: Handle,
    /// A refusal was kept: the registry is to be asked whether anybody can still answer.
    pub(crate) refused: Notify,
    /// Of the methods that are called.
    paces: Paces,
    pub(crate) roster: Mutex<Roster>,
    /// Somebody waits for the registry to be looked at.
    pub(crate) wanted: Notify,
    /// The registry was looked at.
    pub(crate) looked: Notify,
    closing: AtomicBool,
    /// No further calls.
    ended: AtomicBool,
    /// Everything is done.
    pub(crate) closed: CancellationToken,
}

impl Shared {
    pub(crate) fn new(io: Arc<dyn RpcIo>, dispatcher: Dispatcher, counters: Arc<Counters>, runtime: Handle) -> Self {
        Self {
            settings: io.settings(),
            io,
            in_flight: InFlight::default(),
            dispatcher: Arc::new(dispatcher),
            counters,
            runtime,
            refused: Notify::new(),
            paces: Paces::default(),
            roster: Mutex::new(Roster::new(Instant::now())),
            wanted: Notify::new(),
            looked: Notify::new(),
            closing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closed: CancellationToken::new(),
        }
    }

    /// Hands a reply of `from` to the call that waits for it.
    pub(crate) fn take_reply(&self, from: SessionId, reply: Reply) {
        let Reply {
            sequence,
            outcome,
            handler_time,
        } = reply;
        let outcome = outcome.within(self.settings.max_payload_size, "this channel's");
        let refusal = match outcome {
            Outcome::Fault(fault) if self.may_be_outdone(fault.kind) && self.in_flight.went_to_stream(sequence) => {
                fault
            }
            outcome => {
                let counted = |method| {
                    if !matches!(outcome, Outcome::Fault(_)) {
                        self.paces.record(method, handler_time);
                    }
                    // Before the caller learns of it: it may look at the statistics at once.
                    self.counters.replies.add(1);
                    Ok(outcome)
                };
                if !self.in_flight.end(sequence, counted) {
                    self.counters.late_replies.add(1);
                }
                return;
            }
        };
        if self.in_flight.refuse(sequence, from, refusal) == Refused::Kept {
            self.counters.replies.add(1);
            self.refused.notify_one();
        } else {
            self.counters.late_replies.add(1);
        }
    }

    /// Whether a fault of one server is not the last word on a call to the stream: in broadcast another subscriber may
    /// answer, and a group that lacks the method may have a neighbour that has it.
    fn may_be_outdone(&self, fault: FaultKind) -> bool {
        match self.io.mode() {
            Mode::Broadcast => fault.is_refusal(),
            Mode::Group => fault == FaultKind::MethodNotFound,
        }
    }

    /// Starts closing, unless that has been done.
    pub(crate) fn begin_close(self: &Arc<Self>) {
        if !self.closing.swap(true, Ordering::AcqRel) {
            // A task of its own: whoever asked for it may stop waiting.
            self.runtime.spawn(Arc::clone(self).close());
        }
    }

    async fn close(self: Arc<Self>) {
        self.dispatcher.stop_retries();
        // Within the grace, too: calls that wait are not to wait for an IO that is away.
        if timeout(self.settings.close_grace, self.io.drain()).await.is_err() {
            tracing::warn!("closing: the IO does not stop reading within the grace period");
        }
        if timeout(self.settings.close_grace, self.dispatcher.idle())
            .await
            .is_err()
        {
            let (waiting, running) = self.dispatcher.load();
            tracing::warn!(
                waiting,
                running,
                "closing: the grace period is over, handlers are dropped"
            );
            self.dispatcher.abort();
            // A handler that blocks its thread cannot be dropped, and is not waited for.
            let _ = timeout(ABORT_LIMIT, self.dispatcher.idle()).await;
        }
        self.end();
        self.io.close().await;
        // Of handlers that could not be dropped.
        self.dispatcher.report_rest();
        self.closed.cancel();
    }

    /// Ends everything at once, unless that has been done.
    pub(crate) fn abort(&self) {
        if !self.closed.is_cancelled() {
            self.end();
            self.dispatcher.abort();
            self.io.abort();
            self.closed.cancel();
        }
    }

    /// Refuses further calls and ends those that wait.
    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.in_flight
            .end_all(|_, _, _| true, |method| CallError::Closed { method });
        self.dispatcher.report_rest();
    }
}

/// Held by the handles of a channel: when the last one goes, so does the channel.
pub(crate) struct Alive {
    pub(crate) shared: Arc<Shared>,
    /// Whether the IO is open: before, nothing runs that could end with the channel.
    opened: AtomicBool,
}

impl Route for Alive {
    fn call(self: Arc<Self>, target: Target, draft: Draft) -> Pin<Box<dyn Future<Output = Ending> + Send>> {
        Box::pin(self.make(target, draft))
    }
}

impl Alive {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let opened = AtomicBool::new(false);
        Self { shared, opened }
    }

    pub(crate) fn opened(&self) {
        self.opened.store(true, Ordering::Release);
    }

    /// Makes a call and waits for its end.
    ///
    /// Takes the channel and not a reference to it: a future that borrows from another has to be kept within it.
    async fn make(self: Arc<Self>, target: Target, draft: Draft) -> Ending {
        let shared = &self.shared;
        let started = Instant::now();
        let (method, kind) = (draft.method.name(), draft.kind);
        let (size, limit) = (draft.size(), shared.settings.max_payload_size);
        if size > limit {
            let reason = too_large(size, limit, "this channel's");
            return Err(CallError::TooLarge { method, reason });
        }
        let deadline = draft.deadline(started, shared.settings.call_timeout);
        shared.counters.calls.add(1);
        if kind == Kind::Call && target == Target::Stream {
            if !shared.settings.fail_fast {
                shared.want_look();
            } else if !shared.is_served_now(method, started) {
                // Rarely, and a large future: not within that of each call.
                Box::pin(self.find_server(method, started, deadline)).await?;
            }
        }
        let (sequence, ending) = shared.in_flight.open(method, kind, target);
        // Armed before anything is sent, so that a call that is dropped leaves nothing behind.
        let mut entry = TableEntry {
            shared,
            sequence,
            ended: false,
            sent: None,
        };
        // Checked after the call is in the table: whoever closes the channel sets this first and then ends what is there.
        if shared.ended.load(Ordering::SeqCst) {
            return Err(CallError::Closed { method });
        }
        let packable = self.packable(draft.method, target);
        let request = draft.into_request(sequence, deadline, packable);
        // A notification without a deadline may run any time, but its sender waits only so long for Redis to take it.
        let patience = match kind {
            Kind::Call => deadline,
            Kind::Notification => deadline.or_else(|| started.checked_add(shared.settings.call_timeout)),
        };
        if kind == Kind::Call {
            entry.sent = Some((target, deadline));
        }
        shared.io.send(Outgoing::Request { target, request });
        let ended = match patience {
            Some(deadline) => timeout_at(deadline, ending).await,
            None => Ok(ending.await),
        };
        match ended {
            Ok(ending) => {
                entry.ended = true;
                ending.unwrap_or(Err(CallError::Closed { method }))
            }
            Err(_) => Err(match shared.in_flight.give_up(sequence) {
                Some(refusal) => CallError::from_fault(method, refusal),
                None => {
                    let timeout = patience.map_or(Duration::MAX, |deadline| deadline - started);
                    match kind {
                        Kind::Call => CallError::DeadlineExceeded {
                            method,
                            timeout,
                            standing: self.standing(method, target),
                        },
                        Kind::Notification => CallError::Indeterminate {
                            method,
                            reason: format!("the notification was not taken within {timeout:?}"),
                        },
                    }
                }
            }),
        }
    }
}

impl Alive {
    /// Waits until somebody is known to serve `method`; at once if that is so already.
    async fn find_server(
        &self,
        method: &'static str,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Result<(), CallError> {
        let shared = &self.shared;
        tokio::select! {
            biased;
            served = shared.is_served(method) => match served {
                true => Ok(()),
                false => Err(CallError::NoWorkers { method, stream: shared.io.stream().to_owned(), served: shared.served() }),
            },
            () = shared.closed.cancelled() => Err(CallError::Closed { method }),
            () = until(deadline) => Err(CallError::DeadlineExceeded {
                method,
                timeout: deadline.map_or(Duration::MAX, |deadline| deadline - started),
                standing: self.standing(method, Target::Stream),
            }),
        }
    }

    /// How long the handler of a call is likely to run, if the call may share an entry with others: what must not run
    /// twice or has a key is taken over for itself, and so stands for itself.
    fn packable(&self, method: &MethodDescriptor, target: Target) -> Option<Duration> {
        let alone = method.is_at_most_once() || method.dedupe_window().is_some() || method.kind() == Kind::Notification;
        if alone || target != Target::Stream {
            return None;
        }
        self.shared.paces.expected(method.name())
    }

    fn standing(&self, method: &str, target: Target) -> String {
        match (self.shared.io.trouble(), target) {
            (Some(trouble), _) => trouble,
            (None, Target::Stream) => self.shared.standing(method).to_string(),
            (None, Target::Session(session)) => {
                format!("only session {session} was asked; give it longer with `with_timeout` on the client")
            }
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // One that is closing does so to its end.
        if !self.shared.closing.load(Ordering::Acquire) {
            if self.opened.load(Ordering::Acquire) && !self.shared.dispatcher.services().on_stream().is_empty() {
                tracing::warn!(
                    session = %self.shared.io.session(),
                    "a channel that serves was dropped without `close()`: what it runs ends here, and callers learn of it late"
                );
            }
            self.shared.abort();
        }
    }
}

/// Takes a call out of the table when its future ends or is dropped, and tells those who may run it if nobody waits any
/// more.
struct TableEntry<'a> {
    shared: &'a Shared,
    sequence: u64,
    /// It is not in the table any more.
    ended: bool,
    /// Where a call went, and its deadline.
    sent: Option<(Target, Option<Instant>)>,
}

impl Drop for TableEntry<'_> {
    fn drop(&mut self) {
        // Still there, so it has not ended: not even by its deadline, which those who run it know.
        if !self.ended
            && self.shared.in_flight.remove(self.sequence)
            && let Some((target, deadline)) = self.sent
        {
            self.shared.io.send(Outgoing::Cancel {
                target,
                sequence: self.sequence,
                deadline,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;
    use crate::channel::RpcChannel;
    use crate::io::Mode;
    use crate::testing::{METHODS, Noted};

    #[tokio::test(start_paused = true)]
    async fn a_notification_that_is_not_taken_says_so() {
        let io = Noted::new(Mode::Group, ChannelSettings::default(), Vec::new());
        let channel = RpcChannel::open(io).await.unwrap();
        let error = Caller::from(&channel).notify(&METHODS[1], &()).await.unwrap_err();
        let text = "unit.note: outcome unknown: the notification was not taken within 30s; \
                    call again only if it may run twice";
        assert_eq!(error.to_string(), text);
    }
}
