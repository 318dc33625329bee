//! The dead letters of a stream: looking at them, sending them again, throwing them away.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rpc_core::EntryId;
use tokio::time::Instant;

use crate::entry::{self, Entry};
use crate::error::RedisStreamsError;
use crate::inspect::{EntryContent, content};
use crate::io::RedisStreamsIo;
use crate::pieces::Pieces;
use crate::wire::{self, Decoded, Written};

/// How many fields of ours stand before the original's: `reason`, `entry`, `consumer` and `attempts`.
const OWN_FIELDS: usize = 4;

/// A request that no worker could run, decoded for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The id by which it is sent again or thrown away.
    pub id: EntryId,
    /// When it was given up, on Redis's clock.
    pub time: SystemTime,
    /// Why.
    pub reason: String,
    /// The id that the entry had in the stream.
    pub entry: Option<EntryId>,
    /// Who gave it up.
    pub consumer: String,
    /// How often it had been handed to a worker.
    pub attempts: u64,
    /// What it carries.
    pub content: EntryContent,
}

impl RedisStreamsIo {
    /// The oldest `limit` dead letters of the stream. About 10 000 are kept.
    ///
    /// XRANGE.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, RedisStreamsError> {
        let mut question = redis::pipe();
        question.cmd("XRANGE").arg(&self.inner.destination.keys.dead);
        question.arg("-").arg("+").arg("COUNT").arg(limit);
        let answer = self.answer("dead_letters", &question).await?;
        Ok(entry::entries(answer).into_iter().map(dead_letter).collect())
    }

    /// Sends a dead letter again, as a new entry of the stream whose time to live and attempts start anew; false if there is
    /// none of that id. A notification that had expired has no time to live any more.
    ///
    /// Its caller has been told long ago, so this is for notifications, and for calls that matter for what they do. XRANGE, and
    /// a script of XRANGE, XADD and XDEL: two round trips.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn requeue(&self, id: EntryId) -> Result<bool, RedisStreamsError> {
        let keys = &self.inner.destination.keys;
        let mut look = redis::pipe();
        look.cmd("XRANGE")
            .arg(&keys.dead)
            .arg(id.to_string())
            .arg(id.to_string());
        let found = entry::entries(self.answer("requeue", &look).await?).pop();
        let fields: Vec<_> = found.into_iter().flat_map(|l| l.fields).skip(OWN_FIELDS).collect();
        // There is none, or its entry had been deleted: then it stays.
        if fields.is_empty() {
            return Ok(false);
        }
        let mut send = redis::pipe();
        send.cmd("EVAL").arg(REQUEUE).arg(2).arg(&keys.dead).arg(&keys.requests);
        send.arg(id.to_string());
        match anew(&fields) {
            Some(message) => {
                send.arg(wire::FIELD).arg(message);
            }
            None => {
                for (name, value) in &fields {
                    send.arg(&name[..]).arg(&value[..]);
                }
            }
        }
        Ok(self.count("requeue", &send).await? > 0)
    }

    /// Throws a dead letter away; false if there is none of that id. XDEL.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn discard(&self, id: EntryId) -> Result<bool, RedisStreamsError> {
        let mut question = redis::pipe();
        question
            .cmd("XDEL")
            .arg(&self.inner.destination.keys.dead)
            .arg(id.to_string());
        Ok(self.count("discard", &question).await? > 0)
    }
}

/// Whoever comes second finds the letter gone.
const REQUEUE: &str = "\
    if not redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1] then return 0 end \
    redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2)) \
    return redis.call('XDEL', KEYS[1], ARGV[1])";

/// The requests of a letter, as if they had never been tried; `None` if it cannot be read, and is to be sent as it is.
fn anew(fields: &[(Bytes, Bytes)]) -> Option<Vec<u8>> {
    let now = Instant::now();
    let written = Written::before(now, Duration::ZERO);
    let Ok(Decoded::Requests { caller, mut requests }) = wire::decode(fields.iter().cloned(), written) else {
        return None;
    };
    for request in &mut requests {
        request.attempt = 1;
        request.deadline = request.deadline.filter(|deadline| *deadline > now);
    }
    Some(Pieces::written(|out| wire::requests(out, caller, &requests, now)).into())
}

fn dead_letter(letter: Entry) -> DeadLetter {
    let own: Vec<String> = letter
        .fields
        .clone()
        .into_iter()
        .take(OWN_FIELDS)
        .map(|(_, value)| String::from_utf8_lossy(&value).into_owned())
        .collect();
    let own = |index: usize| own.get(index).cloned().unwrap_or_default();
    DeadLetter {
        id: letter.id,
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(letter.id.ms),
        reason: own(0),
        entry: own(1).parse().ok(),
        consumer: own(2),
        attempts: own(3).parse().unwrap_or(0),
        content: content(letter.fields.into_iter().skip(OWN_FIELDS)),
    }
}
