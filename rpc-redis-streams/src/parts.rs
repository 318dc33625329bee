//! Payloads that are too large for an entry. They lie in parts, each under a key of its own, and their messages say where.
//!
//! Redis has one thread, and a MiB in one piece keeps it busy for milliseconds, at each of the four times that a call comes by.
//! A part does not, and a channel has only one under way: whatever else is written or waits to be read goes in between.

mod outgoing;
mod replies;
mod taken;

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_core::Payload;
use tokio::sync::{self, Semaphore};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::commands::{Commands, ttl_ms};
use crate::error::RedisStreamsError;
use crate::lent::{Lent, retain_freed_memory};
use crate::report::{code_of, is_passing};
use crate::resp::Value;
use crate::shared::{REFUSED_PAUSE, Shared};
use crate::wire::Parts;

pub(crate) use outgoing::store;
pub(crate) use replies::{LargeReplies, take_replies};
pub(crate) use taken::{Taken, remove_settled};

/// How many bytes a part has: with fewer, what comes with each costs more than its bytes; with more, others wait longer.
const PART: usize = 128 << 10;

/// How many payloads are on their way at once, each way: the others wait, so that these come in time and little memory is held by
/// halves.
const AT_ONCE: usize = 2;

/// Where Redis has never answered sooner, it is the way that takes the time.
const FAR: Duration = Duration::from_millis(5);

/// How many parts go together: where the way is far, and where nothing else was written in between.
const TOGETHER_FAR: usize = 16;
const TOGETHER_ALONE: usize = 4;

/// How long payloads are sent whole after Redis has not taken one in parts.
const WHOLE: Duration = Duration::from_secs(5);

/// How the parts of one channel are carried.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Held by each payload that is on its way to Redis, or from there.
    writing: Semaphore,
    fetching: Semaphore,
    /// Held by whoever has parts under way: how much else had been appended to the outbox after the last ones.
    turn: sync::Mutex<u64>,
    /// The shortest time in which Redis has answered something small, in microseconds.
    nearest: AtomicU64,
    /// When Redis has last refused one: an ACL may forbid it, say.
    refused: Mutex<Option<Instant>>,
    lent: Mutex<Lent>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            writing: Semaphore::new(AT_ONCE),
            fetching: Semaphore::new(AT_ONCE),
            turn: sync::Mutex::default(),
            nearest: AtomicU64::new(u64::MAX),
            refused: Mutex::default(),
            lent: Mutex::default(),
        }
    }
}

impl Lane {
    /// Redis has answered something small that was written `since`.
    pub(crate) fn note_answered(&self, since: Instant) {
        // Most are near, and know that after one look at the clock.
        if u128::from(self.nearest.load(Ordering::Relaxed)) >= FAR.as_micros() {
            let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.nearest.fetch_min(took, Ordering::Relaxed);
        }
    }

    /// How many parts go together, if so much else was appended to the outbox before and after the last ones.
    fn together(&self, before: u64, after: u64) -> usize {
        let nearest = self.nearest.load(Ordering::Relaxed);
        match nearest != u64::MAX && u128::from(nearest) >= FAR.as_micros() {
            true => TOGETHER_FAR,
            false if before == after => TOGETHER_ALONE,
            false => 1,
        }
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_refused(&self) -> bool {
        self.refused().is_some_and(|last| last.elapsed() < WHOLE)
    }

    fn refuse(&self) {
        *self.refused() = Some(Instant::now());
    }
}

/// Something that is still to be written: a channel that closes waits for it.
struct Held {
    io: Arc<Shared>,
    bytes: usize,
}

impl Held {
    fn new(io: &Arc<Shared>, bytes: usize) -> Self {
        io.outbox.hold(bytes);
        Self {
            io: Arc::clone(io),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.io.outbox.release(self.bytes);
    }
}

/// Why a payload was not written in parts.
enum NotWritten {
    /// Nobody waits for it any more.
    Unwanted,
    /// Redis does not take it: sent whole, whoever sends it hears what Redis has to say about it.
    Refused,
}

impl Shared {
    /// SET of each part, for as long as `keep` says; it is given up when `keep` says nothing.
    async fn write_parts(&self, payload: &Payload, keep: impl Fn() -> Option<Duration>) -> Result<Parts, NotWritten> {
        // It is never closed.
        let _writing = self.lane.writing.acquire().await;
        retain_freed_memory();
        let size = payload.bytes.len();
        let parts = Parts {
            name: Uuid::now_v7(),
            count: size.div_ceil(PART),
            size,
        };
        let mut written = 0;
        while written < parts.count {
            let mut turn = self.lane.turn.lock().await;
            let Some(kept) = keep() else {
                self.remove(Parts {
                    count: written,
                    ..parts
                });
                return Err(NotWritten::Unwanted);
            };
            let end = parts.count.min(written + self.together(&mut turn));
            let mut sets = Commands::default();
            for index in written..end {
                let part = payload.bytes.slice(index * PART..size.min((index + 1) * PART));
                sets.command("SET", 4)
                    .arg(self.destination.keys.part(parts.name, index));
                sets.value(|out| out.extend_from_bytes(&part));
                sets.arg("PX").number(ttl_ms(kept));
            }
            if let Err(error) = self.ask_patiently("SET of a part", sets, true).await {
                self.warn_rarely("redis does not take a large payload in parts", &error.to_string());
                self.lane.refuse();
                self.remove(Parts { count: end, ..parts });
                return Err(NotWritten::Refused);
            }
            written = end;
        }
        Ok(parts)
    }

    /// GET of each part of a payload that lies elsewhere, which has no more bytes than the channel takes; until it is not `wanted`.
    ///
    /// # Errors
    /// What has become of it.
    pub(crate) async fn fetch(&self, payload: &Payload, wanted: impl Fn() -> bool) -> Result<Payload, String> {
        let Some(parts) = Parts::of(payload) else {
            return Ok(payload.clone());
        };
        let _fetching = self.lane.fetching.acquire().await;
        retain_freed_memory();
        let lent = self.lane.lent().take(parts.size);
        let mut value = lent.unwrap_or_default();
        let mut fetched = 0;
        while fetched < parts.count {
            for part in self.fetch_some(parts, fetched, &wanted).await? {
                let Value::Bulk(part) = part else {
                    return Err(gone(parts));
                };
                if part.is_empty() || value.len() + part.len() > parts.size {
                    return Err(gone(parts));
                }
                // Not before there is something: the size may be a lie.
                value.reserve(parts.size - value.len());
                value.extend_from_slice(&part);
                fetched += 1;
            }
        }
        match value.len() == parts.size {
            true => Ok(Payload::new(payload.codec, self.lane.lent().lend(value))),
            false => Err(gone(parts)),
        }
    }

    /// The answers to GET of the next parts.
    async fn fetch_some(&self, parts: Parts, from: usize, wanted: impl Fn() -> bool) -> Result<Vec<Value>, String> {
        loop {
            let mut turn = self.lane.turn.lock().await;
            if !wanted() {
                return Err("nobody waits for it any more".to_owned());
            }
            let mut gets = Commands::default();
            for index in from..parts.count.min(from + self.together(&mut turn)) {
                gets.command("GET", 1)
                    .arg(self.destination.keys.part(parts.name, index));
            }
            match self.ask_patiently("GET of a part", gets, true).await {
                Err(RedisStreamsError::CommandRefused { answer, .. }) if is_passing(code_of(&answer)) => {}
                Ok(answers) => return Ok(answers),
                Err(error) => {
                    self.warn_rarely("redis does not hand out a large payload", &error.to_string());
                    return Err(error.to_string());
                }
            }
            drop(turn);
            sleep(REFUSED_PAUSE).await;
        }
    }

    /// How many parts go together in this turn.
    fn together(&self, appended: &mut u64) -> usize {
        let now = self.outbox.appended();
        self.lane.together(mem::replace(appended, now), now)
    }

    /// UNLINK of the parts. Nobody waits for it: what is not removed expires.
    pub(crate) fn remove(&self, parts: Parts) {
        if parts.count == 0 {
            return;
        }
        let mut unlink = Commands::default();
        unlink.command("UNLINK", parts.count);
        for index in 0..parts.count {
            unlink.arg(self.destination.keys.part(parts.name, index));
        }
        self.tell(unlink);
    }
}

fn gone(parts: Parts) -> String {
    let Parts { name, size, .. } = parts;
    format!("{size} bytes are gone from redis (parts {name}): expired, evicted (see its maxmemory-policy) or deleted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn parts_go_one_by_one_unless_they_are_alone_or_redis_is_far() {
        let (lane, since) = (Lane::default(), Instant::now());
        assert_eq!(
            (lane.together(1, 2), lane.together(2, 2)),
            (1, TOGETHER_ALONE),
            "not known"
        );
        tokio::time::advance(2 * FAR).await;
        lane.note_answered(since);
        assert_eq!((lane.together(1, 2), lane.together(2, 2)), (TOGETHER_FAR, TOGETHER_FAR));
        lane.note_answered(Instant::now());
        lane.note_answered(since);
        assert_eq!((lane.together(1, 2), lane.together(2, 2)), (1, TOGETHER_ALONE));
    }
}
