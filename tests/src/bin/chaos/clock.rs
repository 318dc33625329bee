//! One clock for all processes of a run.

use rustix::time::{ClockId, clock_gettime};

/// A time in microseconds; the system's monotonic clock, which all processes of a machine share, and which nobody sets.
pub(crate) type Micros = u64;

/// One second.
pub(crate) const SECOND: Micros = 1_000_000;

/// The time now.
pub(crate) fn now() -> Micros {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or(0) * SECOND + nanos.unwrap_or(0) / 1_000
}
