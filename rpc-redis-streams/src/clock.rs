//! Redis's clock, as seen from here: deadlines are counted on it, so that no machine's own clock matters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rpc_core::EntryId;
use tokio::time;

use crate::wire::Written;

/// An answer that took longer does not tell the time: who knows when it was given, by a Redis or to a process that stood still?
const PROMPT: Duration = Duration::from_millis(500);

/// Redis's time, kept by a monotonic local clock between two looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// Redis's time when this clock was started, in ms since 1970.
    origin_ms: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that shows Redis's zero hour until it is set.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            origin_ms: Arc::default(),
        }
    }

    /// Redis said it was `redis_ms` some time between `asked` and now: taken for now, because a clock that runs ahead drops calls
    /// that have not expired. Not listened to if that was long, but for the first time.
    pub(crate) fn set(&self, redis_ms: u64, asked: Instant) {
        let now = Instant::now();
        if now.saturating_duration_since(asked) > PROMPT && self.origin_ms.load(Ordering::Relaxed) != 0 {
            return;
        }
        let since_start = millis(now.saturating_duration_since(self.started));
        self.origin_ms
            .store(redis_ms.saturating_sub(since_start), Ordering::Relaxed);
    }

    /// Milliseconds since 1970 on Redis's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.at(Instant::now())
    }

    fn at(&self, here: Instant) -> u64 {
        let since_start = here.saturating_duration_since(self.started);
        self.origin_ms.load(Ordering::Relaxed) + millis(since_start)
    }

    /// This moment, here and there.
    pub(crate) fn moment(&self) -> Moment {
        let here = time::Instant::now();
        Moment {
            here,
            redis_ms: self.at(here.into_std()),
        }
    }
}

/// A moment on both clocks: one look at them is enough for all entries that were read together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    here: time::Instant,
    redis_ms: u64,
}

impl Moment {
    /// When `entry` was written.
    pub(crate) fn written(self, entry: EntryId) -> Written {
        Written::before(self.here, age(entry.ms, self.redis_ms))
    }
}

/// An id can run ahead of the clock (it never goes back when the clock does, and foreign ones are arbitrary): then the
/// time counts from now.
fn age(entry_ms: u64, now_ms: u64) -> Duration {
    Duration::from_millis(now_ms.saturating_sub(entry_ms))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spent_in_the_queue_counts() {
        assert_eq!(age(10_000, 10_400), Duration::from_millis(400));
    }

    #[test]
    fn an_id_from_the_future_harms_nobody() {
        assert_eq!(age(u64::MAX, 10_000), Duration::ZERO);
    }

    #[test]
    fn the_clock_follows_redis_not_this_machine() {
        let clock = Clock::new();
        clock.set(5_000_000, Instant::now());
        assert!((5_000_000..5_001_000).contains(&clock.now_ms()));
        clock.set(1_000, Instant::now());
        assert!(clock.now_ms() < 2_000);
    }

    #[test]
    fn an_answer_that_took_long_does_not_put_it_ahead() {
        let (clock, long_ago) = (Clock::new(), Instant::now() - 4 * PROMPT);
        clock.set(10_000, long_ago);
        assert!((10_000..10_100).contains(&clock.now_ms()), "{}", clock.now_ms());
        clock.set(20_000, long_ago);
        assert!(clock.now_ms() < 11_000, "not listened to");
        clock.set(20_000, Instant::now());
        assert!(clock.now_ms() >= 20_000);
    }
}
