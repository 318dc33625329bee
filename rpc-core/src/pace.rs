//! How long the handlers of methods run, as far as is known: to decide what may be put together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;

/// The part of the old value in a new one, in eighths.
const INERTIA: u32 = 7;

/// Nothing is known.
const UNKNOWN: u32 = u32::MAX;

/// A running average of one method.
#[derive(Debug)]
pub(crate) struct Pace {
    /// In tenths of a microsecond: the wire has whole ones.
    average: AtomicU32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            average: AtomicU32::new(UNKNOWN),
        }
    }
}

impl Pace {
    /// A handler has run for `time`.
    pub(crate) fn record(&self, time: Duration) {
        let tenths = u32::try_from(time.as_nanos() / 100).map_or(UNKNOWN - 1, |tenths| tenths.min(UNKNOWN - 1));
        let old = self.average.load(Ordering::Relaxed);
        // A method that turns slow is to be known as such at once, one that turns fast has to show it for a while.
        let new = match old {
            UNKNOWN => tenths,
            old => tenths.max((u64::from(old) * u64::from(INERTIA) / 8) as u32 + tenths / 8),
        };
        if new != old {
            self.average.store(new, Ordering::Relaxed);
        }
    }

    /// How long a handler is likely to run; `None` if none has been seen.
    pub(crate) fn expected(&self) -> Option<Duration> {
        let tenths = self.average.load(Ordering::Relaxed);
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
    fn one_slow_run_makes_it_slow_and_many_fast_ones_fast_again() {
        let paces = Paces::default();
        paces.record("a.b", FAST);
        paces.record("a.b", SLOW);
        assert_eq!(paces.expected("a.b"), Some(SLOW));
        (0..10).for_each(|_| paces.record("a.b", FAST));
        let after_ten = paces.expected("a.b").unwrap();
        assert!(after_ten > Duration::from_millis(1), "{after_ten:?}");
        (0..100).for_each(|_| paces.record("a.b", FAST));
        let after_all = paces.expected("a.b").unwrap();
        assert!(after_all < 2 * FAST, "{after_all:?}");
    }
}
