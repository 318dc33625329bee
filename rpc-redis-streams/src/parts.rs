//! Payloads that are too large for an entry. They lie in parts, each under a key of its own, and their messages say where.
//!
//! Redis has one thread, and a MiB in one piece keeps it busy for milliseconds, at each of the four times that a call comes by; and
//! so it is with a runtime of one thread. With a part at a time, whatever else there is to do goes in between.

mod lane;
mod outgoing;
mod replies;
mod taken;

use std::sync::Arc;
use std::time::Duration;

use rpc_core::Payload;
use tokio::time::sleep;
use uuid::Uuid;

use crate::commands::{Commands, ttl_ms};
use crate::entry;
use crate::error::RedisStreamsError;
use crate::lent::retain_freed_memory;
use crate::report::is_passing;
use crate::resp::Value;
use crate::shared::{REFUSED_PAUSE, Shared};
use crate::wire::Parts;

use self::lane::End;

pub(crate) use lane::Lane;
pub(crate) use outgoing::store;
pub(crate) use replies::{LargeReplies, take_replies};
pub(crate) use taken::{Taken, remove_settled};

/// How many bytes a part has: with fewer, what comes with each costs more than its bytes; with more, others wait longer.
const PART: usize = 96 << 10;

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
        let set = |index: usize| {
            let kept = keep()?;
            let part = payload.bytes.slice(index * PART..size.min((index + 1) * PART));
            let mut set = Commands::default();
            set.command("SET", 4).arg(self.destination.keys.part(parts.name, index));
            set.value(|out| out.extend_from_bytes(&part));
            set.arg("PX").number(ttl_ms(kept));
            Some(set)
        };
        let mut written = 0;
        while written < parts.count {
            let carried = self.lane.carry(self, true, written..parts.count, set, |_| true).await;
            written = carried.done;
            let Some(end) = carried.end else { continue };
            self.remove(Parts {
                count: carried.asked,
                ..parts
            });
            return Err(match end {
                End::Unwanted => NotWritten::Unwanted,
                End::Refused(answer) => {
                    let refused = refused("SET of a part", answer);
                    self.warn_rarely("redis does not take a large payload in parts", &refused);
                    self.lane.refuse();
                    NotWritten::Refused
                }
            });
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
        let lent = self.lane.lent().take(parts.size);
        let mut value = lent.unwrap_or_default();
        let get = |index: usize| {
            let mut get = Commands::default();
            get.command("GET", 1).arg(self.destination.keys.part(parts.name, index));
            wanted().then_some(get)
        };
        let mut take = |part: Value| {
            let Value::Bulk(part) = part else {
                return false;
            };
            if part.is_empty() || value.len() + part.len() > parts.size {
                return false;
            }
            // Not before there is something: the size may be a lie.
            value.reserve(parts.size - value.len());
            value.extend_from_slice(&part);
            true
        };
        let mut fetched = 0;
        while fetched < parts.count {
            let carried = self.lane.carry(self, false, fetched..parts.count, get, &mut take).await;
            fetched = carried.done;
            match carried.end {
                None => {}
                Some(End::Unwanted) if !wanted() => return Err("nobody waits for it any more".to_owned()),
                Some(End::Unwanted) => return Err(gone(parts)),
                Some(End::Refused(answer)) if is_passing(entry::code_of(&answer)) => {
                    sleep(REFUSED_PAUSE).await;
                }
                Some(End::Refused(answer)) => {
                    let refused = refused("GET of a part", answer);
                    self.warn_rarely("redis does not hand out a large payload", &refused);
                    return Err(refused);
                }
            }
        }
        // To make something of it takes a while, too.
        self.lane.let_others_go_first(&self.outbox).await;
        match value.len() == parts.size {
            true => Ok(Payload::new(payload.codec, self.lane.lent().lend(value))),
            false => Err(gone(parts)),
        }
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

fn refused(command: &'static str, answer: String) -> String {
    RedisStreamsError::CommandRefused { command, answer }.to_string()
}
