//! Saying rarely what happens often.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

/// How often the same kind of trouble may be reported.
const INTERVAL: Duration = Duration::from_secs(5);

/// Says that something has happened, and how often it has since it was last said.
type Report = Box<dyn FnOnce(u64) + Send>;

/// One kind of trouble: reported when it begins, and then once in an interval for all that has come meanwhile.
pub(crate) struct Rarely {
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    reported: Option<Instant>,
    unreported: u64,
    /// Of the last that is unreported; if there is one, a task waits to run it.
    last: Option<Report>,
}

impl Rarely {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            state: Arc::default(),
        }
    }

    /// It has happened. `report` is called with how often: now, or when the interval is over, unless it happens again until then.
    pub(crate) fn happened(&self, report: impl FnOnce(u64) + Send + 'static) {
        let mut state = lock(&self.state);
        state.unreported += 1;
        let waited_for = state.last.replace(Box::new(report)).is_some();
        let due = state.reported.map(|last| last + INTERVAL);
        match due.filter(|due| *due > Instant::now()) {
            None => {
                drop(state);
                self.report_rest();
            }
            Some(due) if !waited_for => {
                let state = Arc::clone(&self.state);
                self.runtime.spawn(async move {
                    sleep_until(due).await;
                    say(&state);
                });
            }
            Some(_) => {}
        }
    }

    /// Reports what is unreported.
    pub(crate) fn report_rest(&self) {
        say(&self.state);
    }
}

fn say(state: &Mutex<State>) {
    let mut state = lock(state);
    let Some(report) = state.last.take() else { return };
    state.reported = Some(Instant::now());
    let happened = std::mem::take(&mut state.unreported);
    drop(state);
    report(happened);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Plain data that no panic leaves half changed.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Rarely {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rarely").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// What was reported: which it was, and how often it had happened.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(&'static str, u64)>>>);

    impl Log {
        fn line(&self, which: &'static str) -> impl FnOnce(u64) + Send + 'static {
            let log = Arc::clone(&self.0);
            move |happened| log.lock().unwrap().push((which, happened))
        }

        fn take(&self) -> Vec<(&'static str, u64)> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_its_first_and_one_line_with_all_others() {
        let (trouble, log) = (Rarely::new(Handle::current()), Log::default());
        trouble.happened(log.line("first"));
        assert_eq!(log.take(), [("first", 1)]);
        (0..98).for_each(|_| trouble.happened(log.line("other")));
        trouble.happened(log.line("last"));
        assert_eq!(log.take(), []);
        // Longer than whoever waits to say it.
        sleep(INTERVAL + Duration::from_millis(10)).await;
        assert_eq!(log.take(), [("last", 99)]);
        trouble.happened(log.line("soon again"));
        assert_eq!(log.take(), []);
        sleep(2 * INTERVAL).await;
        assert_eq!(log.take(), [("soon again", 1)]);
        trouble.happened(log.line("later"));
        assert_eq!(log.take(), [("later", 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unreported_at_the_end_is_reported_then() {
        let (trouble, log) = (Rarely::new(Handle::current()), Log::default());
        (0..3).for_each(|_| trouble.happened(log.line("some")));
        assert_eq!(log.take(), [("some", 1)]);
        trouble.report_rest();
        assert_eq!(log.take(), [("some", 2)]);
        sleep(2 * INTERVAL).await;
        trouble.report_rest();
        assert_eq!(log.take(), []);
    }
}
