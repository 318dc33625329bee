//! Waiting for what must happen, with a limit.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

const POLL: Duration = Duration::from_millis(5);

/// Waits until `condition` is true, and panics when that takes longer than `limit`; `what` says what was waited for.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let mut polls = 0;
/// tests::eventually(Duration::from_secs(5), "three polls", async || {
///     polls += 1;
///     polls == 3
/// })
/// .await;
/// # }
/// ```
#[track_caller]
pub fn eventually(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    eventually_some(limit, what, async move || condition().await.then_some(()))
}

/// Like [`eventually`], for a condition that yields something: waits for `Some` and returns its content.
#[track_caller]
pub fn eventually_some<T>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let at = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        loop {
            // The condition itself may hang, so it is under the limit too.
            match tokio::time::timeout_at(deadline, condition()).await {
                Ok(Some(value)) => return value,
                Ok(None) if Instant::now() < deadline => sleep(POLL).await,
                Ok(None) => panic!("{what}: not so within {limit:?} (waited at {at})"),
                Err(_) => panic!("{what}: the condition itself did not answer within {limit:?} (waited at {at})"),
            }
        }
    }
}

/// Runs `future` to its end, and panics when that takes longer than `limit`: a test that hangs says where.
#[track_caller]
pub fn within<F: Future>(limit: Duration, future: F) -> impl Future<Output = F::Output> {
    let at = Location::caller();
    async move {
        match timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("not finished within {limit:?} (waited at {at})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn returns_once_the_condition_holds() {
        let mut left = 3;
        let value = eventually_some(Duration::from_secs(5), "countdown", async || {
            left -= 1;
            (left == 0).then_some("there")
        })
        .await;
        assert_eq!(value, "there");
    }

    #[tokio::test]
    #[should_panic(expected = "pigs fly: not so within 50ms (waited at ")]
    async fn says_what_did_not_happen() {
        eventually(LIMIT, "pigs fly", async || false).await;
    }

    #[tokio::test]
    #[should_panic(expected = "pigs fly: the condition itself did not answer")]
    async fn a_condition_that_hangs_ends_at_the_limit() {
        eventually(LIMIT, "pigs fly", pending::<bool>).await;
    }

    #[tokio::test]
    #[should_panic(expected = "eventually.rs")]
    async fn within_names_the_caller() {
        within(LIMIT, pending::<()>()).await;
    }

    #[tokio::test]
    async fn within_returns_the_output() {
        assert_eq!(within(LIMIT, async { 7 }).await, 7);
    }
}
