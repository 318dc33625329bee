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
    /// Of the last that is unreported.
    last: Option<Report>,
    /// Whether a task waits to report it.
    waited_for: bool,
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
        state.last = Some(Box::new(report));
        if state.due().is_none_or(|due| due <= Instant::now()) {
            drop(state);
            say(&self.state);
        } else if !state.waited_for {
            state.waited_for = true;
            self.runtime.spawn(say_when_due(Arc::clone(&self.state)));
        }
    }

    /// Reports what is unreported.
    pub(crate) fn report_rest(&self) {
        say(&self.state);
    }
}

impl State {
    /// When the next report may be made, if there has been one.
    fn due(&self) -> Option<Instant> {
        self.reported.map(|last| last + INTERVAL)
    }
}

/// Ends when everything is reported, by whomever.
async fn say_when_due(state: Arc<Mutex<State>>) {
    loop {
        let due = {
            let mut state = lock(&state);
            let due = state.due().filter(|_| state.last.is_some());
            state.waited_for = due.is_some();
            due
        };
        let Some(due) = due else { return };
        sleep_until(due).await;
        if lock(&state).due().is_some_and(|due| due <= Instant::now()) {
            say(&state);
        }
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
    use tokio::time::{advance, sleep};

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
    async fn one_that_comes_just_in_time_does_not_bring_the_next_forward() {
        let (trouble, log) = (Rarely::new(Handle::current()), Log::default());
        (0..2).for_each(|_| trouble.happened(log.line("early")));
        // Before whoever waits to report the second can run.
        advance(INTERVAL).await;
        trouble.happened(log.line("in time"));
        trouble.happened(log.line("after it"));
        assert_eq!(log.take(), [("early", 1), ("in time", 2)]);
        sleep(INTERVAL / 2).await;
        assert_eq!(log.take(), []);
        sleep(INTERVAL).await;
        assert_eq!(log.take(), [("after it", 1)]);
        assert!(!lock(&trouble.state).waited_for);
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
