//! What a channel has done, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of what a channel has done since it was opened, and of what it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ChannelStats {
    /// Calls and notifications that this channel made.
    pub calls: u64,
    /// Replies that ended a call of this channel.
    pub replies: u64,
    /// Replies that nobody waited for: late ones and repeated ones.
    pub late_replies: u64,
    /// Requests that handlers of this channel were given.
    pub handled: u64,
    /// Requests that were dropped because the queue was full.
    pub dropped: u64,
    /// Requests that were not run for a reason other than their deadline or a full queue: their method is unknown, must
    /// not run twice, or has taken too many workers along.
    pub refused: u64,
    /// Requests that were not run, or not to their end, because their deadline had passed.
    pub expired: u64,
    /// Calls that were not run, or not to their end, because their callers had given them up.
    pub cancelled: u64,
    /// Requests that were not run because one with the same idempotency key has returned.
    pub repeated: u64,
    /// Attempts at notifications that failed or panicked, and notifications that were refused.
    pub failed_notifications: u64,
    /// Requests that were lost before this channel could run them: those of a group that were deleted while they were
    /// pending, or that its `max_len` has dropped unread (counted by one of its workers), and those of a broadcast stream
    /// that were trimmed before this subscriber could read them. At least so many, where the server does not tell.
    pub missed: u64,
    /// Entries that could not be read as messages.
    pub malformed: u64,
    /// Requests that wait now, for a handler or to be tried again.
    pub queue_length: usize,
    /// Handlers that run now.
    pub running: usize,
    /// Calls of this channel that wait for their reply now.
    pub in_flight: usize,
}

/// The counters behind a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) calls: Counter,
    pub(crate) replies: Counter,
    pub(crate) late_replies: Counter,
    pub(crate) handled: Counter,
    pub(crate) dropped: Counter,
    pub(crate) refused: Counter,
    pub(crate) expired: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) repeated: Counter,
    pub(crate) failed_notifications: Counter,
    pub(crate) missed: Counter,
    pub(crate) malformed: Counter,
}

/// Counts up.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts `n` more; returns the total.
    pub(crate) fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Ordering::Relaxed) + n
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
