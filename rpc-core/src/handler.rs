//! Running one handler: its panics become faults, its deadline ends it.

use std::any::Any;
use std::future::{Future, pending, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{self, Poll, Waker};

use tokio::time::{Instant, sleep_until};

use crate::codec::Payload;
use crate::context::Context;
use crate::message::{Fault, FaultKind, Outcome};
use crate::service::{HandlerFuture, Method};

/// A handler that has been called, and runs as far as it is polled.
pub(crate) struct Handler {
    future: HandlerFuture,
    cx: Context,
}

impl Handler {
    /// Calls `method`.
    pub(crate) fn new(method: &Method, cx: Context, arguments: Payload) -> Self {
        let call = || method.service.call(method.descriptor, cx.clone(), arguments);
        let future = catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Box::pin(ready(panicked(&*panic))));
        Self { future, cx }
    }

    pub(crate) fn context(&self) -> &Context {
        &self.cx
    }

    /// Polls it once; returns it if it has not ended at once. It is to be polled again then: nothing wakes it.
    pub(crate) fn try_once(mut self) -> Result<Outcome, Self> {
        let poll = || self.future.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
        match catch_unwind(AssertUnwindSafe(poll)) {
            Ok(Poll::Ready(outcome)) => Ok(outcome),
            Ok(Poll::Pending) => Err(self),
            Err(panic) => Ok(panicked(&*panic)),
        }
    }

    /// Runs it to its end; `None` if its deadline came first. Its context's token has fired then.
    pub(crate) async fn run(self) -> Option<Outcome> {
        let Self { future, cx } = self;
        let expired = async {
            until(cx.deadline()).await;
            // Before the handler is dropped, which may panic.
            cx.cancel();
        };
        let limited = async {
            tokio::select! {
                biased;
                outcome = future => Some(outcome),
                () = expired => None,
            }
        };
        catch_panics(limited)
            .await
            .unwrap_or_else(|message| Some(Outcome::Fault(Fault::new(FaultKind::Panicked, message))))
    }
}

/// Waits until `deadline`; for ever if there is none.
pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Polls `future`; a panic in there ends it with the panic's message.
pub(crate) async fn catch_panics<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| {
        // Unwind safety: a future that panicked is never polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(message_of(&*panic))),
        }
    })
    .await
}

fn panicked(panic: &(dyn Any + Send)) -> Outcome {
    Outcome::Fault(Fault::new(FaultKind::Panicked, message_of(panic)))
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
