//! What ties the tasks of one IO together: none of them is of use without the others.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use crate::shared::Shared;

/// Starts a task of the IO. If it ends before it has come to its end, because it panics or its runtime is dropped, the whole
/// IO ends, and with it the heartbeat, whose thread would go on for as long as the process: others must find out that what
/// was handed to this server is theirs.
pub(crate) fn spawn(io: &Arc<Shared>, task: impl Future<Output = ()> + Send + 'static) {
    let lifeline = Lifeline {
        io: Some(Arc::clone(io)),
    };
    // Moved in even if the task is never polled.
    tokio::spawn(async move {
        task.await;
        lifeline.untie();
    });
}

/// Breaks when it is dropped with the IO in it.
struct Lifeline {
    io: Option<Arc<Shared>>,
}

impl Lifeline {
    /// The task has come to its end.
    fn untie(mut self) {
        self.io = None;
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        let Some(io) = self.io.take().filter(|io| !io.stopped.is_cancelled()) else {
            return;
        };
        let stream = &io.destination.keys.requests;
        if thread::panicking() {
            tracing::error!(stream, "a task of the channel has panicked; the channel ends");
        } else {
            tracing::warn!(
                stream,
                "the runtime in which the channel was opened is gone; the channel ends"
            );
        }
        // Not in the condition: what is called looks for it, too.
        let endpoint = io.endpoint().clone();
        io.abort();
        // Nobody need wait for what the reader may not have come to.
        io.group_drained.cancel();
        if let Some(endpoint) = endpoint {
            endpoint.broken();
        }
    }
}
