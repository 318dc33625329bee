//! Looking at a stream and tidying it by hand.

use std::ops::{Bound, RangeBounds};

use redis::Pipeline;
use rpc_core::{EntryId, Kind, Payload, SessionId};

use crate::entry;
use crate::error::RedisStreamsError;
use crate::groups::GroupState;
use crate::io::RedisStreamsIo;
use crate::registry::count_live;
use crate::resp::Value;
use crate::wire::{self, Decoded, Written};

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// How many entries it holds.
    pub length: u64,
    /// The first entry.
    pub first: Option<EntryId>,
    /// The last entry.
    pub last: Option<EntryId>,
    /// The bytes it takes in Redis, an estimate of Redis's; `None` where the server doesn't say.
    pub memory: Option<u64>,
    /// The groups that read it.
    pub groups: Vec<GroupInfo>,
}

/// The state of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// How many entries are handed out and not acknowledged.
    pub pending: u64,
    /// How many entries have not been handed out; `None` where Redis can't tell (before 7.0, or after a deletion).
    pub lag: Option<u64>,
    /// The last entry that was handed out.
    pub last_delivered: EntryId,
    /// Its consumers.
    pub consumers: Vec<ConsumerInfo>,
    /// How many of its workers are alive, by the registry and this IO's `death_time`. Programs that don't register (of
    /// another kind, say) are not seen.
    pub live_workers: u64,
}

impl GroupInfo {
    /// Whether it has entries to settle and no live worker to do it: then nothing from its oldest entry on is trimmed.
    ///
    /// Start a worker of it, or destroy it (`XGROUP DESTROY`) if nobody needs it; it is never destroyed by itself.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.live_workers == 0 && (self.pending > 0 || self.lag != Some(0))
    }
}

/// The state of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its name.
    pub name: String,
    /// How many entries it holds.
    pub pending: u64,
}

/// An entry of the stream, decoded for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamEntry {
    /// Its id.
    pub id: EntryId,
    /// What it carries.
    pub content: EntryContent,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryContent {
    /// Calls or notifications of one session.
    Requests {
        /// The session that sent them.
        caller: SessionId,
        /// What it asks for.
        requests: Vec<RequestSummary>,
    },
    /// Something that is not of this library, or damaged.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

/// A call or notification, decoded for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestSummary {
    /// The number of the call within its session.
    pub sequence: u64,
    /// Whether somebody waits for the reply.
    pub kind: Kind,
    /// The wire name of the method.
    pub method: String,
    /// The arguments: as they are where the codec is text, else as hexadecimal digits; of large ones their size, and where they lie.
    pub arguments: String,
}

impl RedisStreamsIo {
    /// The state of the stream and its groups; all zero for a stream that does not exist.
    ///
    /// XINFO STREAM, XINFO GROUPS, MEMORY USAGE, TIME, and for each group XINFO CONSUMERS and ZCOUNT: two round trips.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn stream_info(&self) -> Result<StreamInfo, RedisStreamsError> {
        let key = &self.inner.destination.keys.requests;
        let mut questions = redis::pipe();
        questions.cmd("XINFO").arg("STREAM").arg(key);
        questions.cmd("XINFO").arg("GROUPS").arg(key);
        questions.cmd("MEMORY").arg("USAGE").arg(key);
        questions.cmd("TIME");
        let mut answers = self.ask("stream_info", &questions).await?.into_iter();
        let stream = answers.next().unwrap_or_default();
        match entry::error(&stream) {
            Some((_, answer)) if !answer.contains("no such key") => {
                let command = "XINFO STREAM";
                return Err(RedisStreamsError::CommandRefused { command, answer });
            }
            _ => {}
        }
        let mut stream = entry::by_name(stream);
        let groups = GroupState::all(answers.next().unwrap_or_default()).unwrap_or_default();
        let memory = answers.next().as_ref().and_then(entry::number);
        let now_ms = answers.next().and_then(entry::time_ms).unwrap_or(0);

        let mut questions = redis::pipe();
        for group in &groups {
            questions.cmd("XINFO").arg("CONSUMERS").arg(key).arg(&group.name);
            let beats = self.inner.destination.keys.workers(&group.name);
            questions.add_command(count_live(&beats, now_ms, self.config().death_time()));
        }
        let mut answers = Vec::new().into_iter();
        if !groups.is_empty() {
            answers = self.ask("stream_info", &questions).await?.into_iter();
        }
        let groups = groups
            .into_iter()
            .map(|group| GroupInfo {
                name: group.name,
                pending: group.pending,
                lag: group.lag,
                last_delivered: group.delivered,
                consumers: entry::list(answers.next().unwrap_or_default())
                    .into_iter()
                    .filter_map(consumer_info)
                    .collect(),
                live_workers: answers.next().as_ref().and_then(entry::number).unwrap_or(0),
            })
            .collect();
        let mut end = |name| {
            let entry = entry::list(stream.remove(name)?);
            entry.first().and_then(entry::id)
        };
        Ok(StreamInfo {
            first: end("first-entry"),
            last: end("last-entry"),
            length: stream.get("length").and_then(entry::number).unwrap_or(0),
            memory,
            groups,
        })
    }

    /// Cuts the stream to its newest `keep` entries, exactly; returns how many were deleted.
    ///
    /// Takes no heed of what is unprocessed. XTRIM MAXLEN.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn trim(&self, keep: u64) -> Result<u64, RedisStreamsError> {
        let mut trim = redis::pipe();
        trim.cmd("XTRIM")
            .arg(&self.inner.destination.keys.requests)
            .arg("MAXLEN")
            .arg(keep);
        self.count("trim", &trim).await
    }

    /// Deletes the entries before `id`; returns how many.
    ///
    /// Takes no heed of what is unprocessed. XTRIM MINID.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn trim_before(&self, id: EntryId) -> Result<u64, RedisStreamsError> {
        let mut trim = redis::pipe();
        trim.cmd("XTRIM")
            .arg(&self.inner.destination.keys.requests)
            .arg("MINID")
            .arg(id.to_string());
        self.count("trim_before", &trim).await
    }

    /// The entries of `range`, at most `limit`, oldest first, decoded for debugging.
    ///
    /// XRANGE.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn entries(
        &self,
        range: impl RangeBounds<EntryId>,
        limit: usize,
    ) -> Result<Vec<StreamEntry>, RedisStreamsError> {
        let bound = |bound, open: &str| match bound {
            Bound::Included(id) => format!("{id}"),
            Bound::Excluded(id) => format!("({id}"),
            Bound::Unbounded => open.to_owned(),
        };
        let mut questions = redis::pipe();
        questions.cmd("XRANGE").arg(&self.inner.destination.keys.requests);
        questions
            .arg(bound(range.start_bound(), "-"))
            .arg(bound(range.end_bound(), "+"));
        questions.arg("COUNT").arg(limit);
        let answer = self.answer("entries", &questions).await?;
        Ok(entry::entries(answer)
            .into_iter()
            .map(|entry| StreamEntry {
                id: entry.id,
                content: content(entry.fields),
            })
            .collect())
    }

    /// Deletes these entries; returns how many existed.
    ///
    /// What a worker has been handed already still runs. XDEL.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn delete(&self, ids: &[EntryId]) -> Result<u64, RedisStreamsError> {
        if ids.is_empty() {
            return Ok(0);
        }
        let mut delete = redis::pipe();
        delete.cmd("XDEL").arg(&self.inner.destination.keys.requests);
        for id in ids {
            delete.arg(id.to_string());
        }
        self.count("delete", &delete).await
    }

    async fn ask(&self, command: &'static str, questions: &Pipeline) -> Result<Vec<Value>, RedisStreamsError> {
        let inner = &self.inner;
        inner
            .manage(async |connection| inner.connector.ask_raw(connection, command, questions).await)
            .await
    }

    /// The answer to a single command; an error of Redis's is one here.
    pub(crate) async fn answer(&self, command: &'static str, question: &Pipeline) -> Result<Value, RedisStreamsError> {
        let answer = self.ask(command, question).await?.pop().unwrap_or_default();
        match entry::error(&answer) {
            Some((_, answer)) => Err(RedisStreamsError::CommandRefused { command, answer }),
            None => Ok(answer),
        }
    }

    pub(crate) async fn count(&self, command: &'static str, question: &Pipeline) -> Result<u64, RedisStreamsError> {
        let answer = self.answer(command, question).await?;
        entry::number(&answer).ok_or_else(|| RedisStreamsError::unexpected(command, answer))
    }
}

fn consumer_info(consumer: Value) -> Option<ConsumerInfo> {
    let consumer = entry::by_name(consumer);
    Some(ConsumerInfo {
        name: entry::text(consumer.get("name")?)?,
        pending: entry::number(consumer.get("pending")?)?,
    })
}

pub(crate) fn content(fields: impl IntoIterator<Item = (bytes::Bytes, bytes::Bytes)>) -> EntryContent {
    let unreadable = |reason: String| EntryContent::Unreadable { reason };
    match wire::decode(fields, Written::now()) {
        Ok(Decoded::Requests { caller, requests }) => EntryContent::Requests {
            caller,
            requests: requests
                .into_iter()
                .map(|request| RequestSummary {
                    sequence: request.sequence,
                    kind: request.kind,
                    method: request.method.into(),
                    arguments: readable(&request.arguments),
                })
                .collect(),
        },
        Ok(_) => unreadable("the entry carries no requests".to_owned()),
        Err(malformed) => unreadable(malformed.to_string()),
    }
}

fn readable(arguments: &Payload) -> String {
    let bytes = &arguments.bytes[..];
    if let Some(size) = arguments.elsewhere {
        return format!("{size} bytes in parts: {}", String::from_utf8_lossy(bytes));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
