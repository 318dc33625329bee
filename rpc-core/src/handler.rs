//! Running one handler: its panics become faults, its deadline ends it.

use std::any::Any;
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use crate::codec::Payload;
use crate::context::Context;
use crate::message::{Fault, FaultKind, Outcome};
use crate::service::Method;

/// Runs `method`; `None` if its deadline came first. Its context's token has fired then.
pub(crate) async fn run(method: &Method, cx: Context, arguments: Payload) -> Option<Outcome> {
    let deadline = cx.deadline();
    let handler = async { method.service.call(method.descriptor, cx.clone(), arguments).await };
    let expired = async {
        until(deadline).await;
        // Before the handler is dropped, which may panic.
        cx.cancel();
    };
    let limited = async {
        tokio::select! {
            biased;
            outcome = handler => Some(outcome),
            () = expired => None,
        }
    };
    catch_panics(limited)
        .await
        .unwrap_or_else(|message| Some(Outcome::Fault(Fault::new(FaultKind::Panicked, message))))
}

async fn until(deadline: Option<Instant>) {
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

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
