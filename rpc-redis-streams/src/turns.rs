//! Taking turns with the other tasks of the runtime.

use std::future::poll_fn;
use std::task::Poll;

use tokio::runtime::{Handle, RuntimeFlavor};

/// Lets every task that is ready run once.
///
/// Not `tokio::task::yield_now`. That leaves its task with this very thread, until the thread has looked for IO; if the next
/// task is a handler that blocks the thread, the one that yielded is blocked, too. And it wakes no other thread, so that
/// nobody might be left to look for IO and timers. A task that wakes itself goes to the end of the run queue, from which
/// other threads take; and where there is one thread only, it saves a system call.
pub(crate) async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Whether the runtime has one thread only: then what that thread does, or leaves to others, is what the runtime does.
pub(crate) fn is_one_thread() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}
