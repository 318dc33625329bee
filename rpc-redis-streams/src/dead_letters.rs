//! The dead letters of a stream: looking at them, sending them again, throwing them away.

use std::time::{Duration, SystemTime};

use rpc_core::EntryId;

use crate::entry::{self, Entry};
use crate::error::RedisStreamsError;
use crate::inspect::{EntryContent, content};
use crate::io::RedisStreamsIo;

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

    /// Sends a dead letter again, as a new entry of the stream whose time to live starts anew; false if there is none of
    /// that id.
    ///
    /// Its caller has been told long ago, so this is for notifications, and for calls that matter for what they do. A script
    /// of XRANGE, XADD and XDEL, in one step.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn requeue(&self, id: EntryId) -> Result<bool, RedisStreamsError> {
        let keys = &self.inner.destination.keys;
        let mut question = redis::pipe();
        question
            .cmd("EVAL")
            .arg(REQUEUE)
            .arg(2)
            .arg(&keys.dead)
            .arg(&keys.requests);
        question.arg(id.to_string()).arg(OWN_FIELDS * 2);
        Ok(self.count("requeue", &question).await? > 0)
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

/// A letter of an entry that had been deleted has no fields that could be sent again, and stays.
const REQUEUE: &str = "\
    local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) \
    if not found[1] then return 0 end \
    local fields, original = found[1][2], {} \
    for i = tonumber(ARGV[2]) + 1, #fields do original[#original + 1] = fields[i] end \
    if #original == 0 then return 0 end \
    redis.call('XADD', KEYS[2], '*', unpack(original)) \
    return redis.call('XDEL', KEYS[1], ARGV[1])";

fn dead_letter(letter: Entry) -> DeadLetter {
    let own: Vec<String> = letter
        .fields
        .iter()
        .take(OWN_FIELDS)
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
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
