//! How long the handlers of methods run, as far as is known: to decide what may be put together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;

/// The part of the old value in a new one, in eighths.
const INERTIA: u64 = 7;

/// Nothing is known.
const UNKNOWN: u32 = u32::MAX;

/// A running average of one method.
#[derive(Debug)]
pub(crate) struct Pace {
    /// In tenths of a microsecond, as the wire has whole ones: the average, and in the upper half what was seen last.
    times: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            times: AtomicU64::new(UNKNOWN.into()),
        }
    }
}

impl Pace {
    /// A handler has run for `time`.
    pub(crate) fn record(&self, time: Duration) {
        let tenths = u32::try_from(time.as_nanos() / 100).map_or(UNKNOWN - 1, |tenths| tenths.min(UNKNOWN - 1));
        let times = self.times.load(Ordering::Relaxed);
        let (last, average) = ((times >> 32) as u32, times as u32);
        let average = match average {
            UNKNOWN => tenths,
            // A method that turns slow is to be known as such soon, one that turns fast has to show it for a while. Once is not
            // enough: any handler takes long when the system runs something else in the middle of it.
            average => {
                let average = (u64::from(average) * INERTIA + u64::from(tenths)) / 8;
                tenths.min(last).max(average as u32)
            }
        };
        let now = u64::from(tenths) << 32 | u64::from(average);
        if now != times {
            self.times.store(now, Ordering::Relaxed);
        }
    }

    /// How long a handler is likely to run; `None` if none has been seen.
    pub(crate) fn expected(&self) -> Option<Duration> {
        let tenths = self.times.load(Ordering::Relaxed) as u32;
        (tenths != UNKNOWN).then(|| Duration::from_nanos(u64::from(tenths) * 100))
    }
}

/// A running average for each method.
#[derive(Debug, Default)]
pub(crate) struct Paces {
    averages: DashMap<&'static str, Pace, FxBuildHasher>,
}

impl Paces {
    /// A handler of `method` has run for `time`.
    pub(crate) fn record(&self, method: &'static str, time: Duration) {
        match self.averages.get(method) {
            Some(pace) => pace.record(time),
            None => self.averages.entry(method).or_default().record(time),
        }
    }

    /// How long a handler of `method` is likely to run; `None` if none has been seen.
    pub(crate) fn expected(&self, method: &str) -> Option<Duration> {
        self.averages.get(method)?.expected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(2);
    const SLOW: Duration = Duration::from_millis(10);

    #[test]
    fn a_method_is_unknown_until_it_has_run() {
        let paces = Paces::default();
        assert_eq!(paces.expected("a.b"), None);
        paces.record("a.b", FAST);
        assert_eq!(paces.expected("a.b"), Some(FAST));
    }

    #[test]
    fn one_slow_run_is_part_of_the_average() {
        let pace = Pace::default();
        pace.record(FAST);
        pace.record(SLOW);
        let after_one = pace.expected().unwrap();
        assert!((SLOW / 9..SLOW / 7).contains(&after_one), "{after_one:?}");
        (0..100).for_each(|_| pace.record(FAST));
        assert!(pace.expected().unwrap() < 2 * FAST);
    }

    #[test]
    fn two_slow_runs_make_it_slow_and_many_fast_ones_fast_again() {
        let pace = Pace::default();
        pace.record(FAST);
        (0..2).for_each(|_| pace.record(SLOW));
        assert_eq!(pace.expected(), Some(SLOW));
        (0..10).for_each(|_| pace.record(FAST));
        let after_ten = pace.expected().unwrap();
        assert!(after_ten > Duration::from_millis(1), "{after_ten:?}");
        (0..100).for_each(|_| pace.record(FAST));
        assert!(pace.expected().unwrap() < 2 * FAST);
    }

    #[test]
    fn times_beyond_what_can_be_counted_are_slow() {
        let pace = Pace::default();
        (0..3).for_each(|_| pace.record(Duration::MAX));
        assert!(pace.expected().unwrap() > Duration::from_secs(400));
    }
}
