//! How much waits in the stream, and refusing more of it before Redis fills.
//!
//! The length of the stream costs next to nothing to ask, but counts what is settled and not trimmed yet. So it only says
//! when there is reason to ask the groups.

use std::time::Duration;

use redis::Pipeline;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::connector::Connector;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::extent::last_id;
use crate::groups::GroupState;
use crate::keys::Keys;
use crate::resp::Value;

/// How the question is called in errors.
pub(crate) const GROUPS: &str = "XINFO GROUPS";

/// How often the length is looked at: after so many requests, or so much time.
const LOOK_EVERY: usize = 256;
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How often the groups are asked while the stream is long.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// What a writer knows of the backlog.
#[derive(Debug)]
pub(crate) struct Backlog {
    bound: u64,
    /// The length of the stream when it was last looked at.
    length: u64,
    looked: Option<Instant>,
    /// How many requests were written since.
    written: usize,
    asked: Option<Instant>,
    /// Why requests are refused, if they are.
    refusal: Option<String>,
}

impl Backlog {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound as u64,
            length: 0,
            looked: None,
            written: 0,
            asked: None,
            refusal: None,
        }
    }

    /// Whether the length is to be looked at in a flush that carries requests.
    pub(crate) fn is_look_due(&self, now: Instant) -> bool {
        self.written >= LOOK_EVERY || self.looked.is_none_or(|last| now - last >= LOOK_INTERVAL)
    }

    /// A flush has written `requests`, and perhaps looked at the length.
    pub(crate) fn wrote(&mut self, requests: usize, length: Option<u64>, now: Instant) {
        self.written += requests;
        if let Some(length) = length {
            (self.length, self.looked, self.written) = (length, Some(now), 0);
        }
    }

    /// Whether the groups are to be asked before more is written.
    pub(crate) fn is_question_due(&self, now: Instant) -> bool {
        self.length > self.bound && self.asked.is_none_or(|last| now - last >= ASK_INTERVAL)
    }

    /// Asks how much really waits. XINFO GROUPS and XLEN; XINFO STREAM where Redis does not know what a group has not been
    /// handed.
    ///
    /// When Redis refuses to say, nothing is known to be too long.
    pub(crate) async fn ask(
        &mut self,
        connection: &mut Connection,
        connector: &Connector,
        keys: &Keys,
    ) -> Result<(), RedisStreamsError> {
        self.asked = Some(Instant::now());
        let found = greatest(connection, connector, keys).await;
        self.refusal = None;
        let (length, greatest) = found?;
        self.length = length;
        // A stream without a group is a backlog altogether.
        let (group, waiting) = greatest.map_or((None, length), |(group, waiting)| (Some(group), waiting));
        if waiting > self.bound {
            let whose = group.map_or("a first worker".to_owned(), |group| format!("the group `{group}`"));
            self.refusal = Some(format!(
                "{waiting} requests wait for {whose}, and `max_backlog` is {}",
                self.bound
            ));
        }
        Ok(())
    }

    /// Why requests to the stream are not to be written now.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }
}

/// Asks for what [`longest`] reads. XINFO GROUPS, XLEN.
pub(crate) fn question(keys: &Keys) -> Pipeline {
    let mut questions = redis::pipe();
    questions.cmd("XINFO").arg("GROUPS").arg(&keys.requests);
    questions.cmd("XLEN").arg(&keys.requests);
    questions
}

/// How many entries wait for the group that has most, unread or unsettled; `None` where Redis cannot tell.
pub(crate) fn longest(answers: Vec<Value>) -> Result<Option<u64>, RedisStreamsError> {
    let (groups, length) = read(answers)?;
    let waiting = groups.into_iter().map(|group| group.unsettled(length));
    // One group that cannot be told makes the greatest unknown.
    Ok(waiting
        .collect::<Option<Vec<u64>>>()
        .and_then(|waiting| waiting.into_iter().max()))
}

/// The groups of the stream, and its length.
fn read(answers: Vec<Value>) -> Result<(Vec<GroupState>, u64), RedisStreamsError> {
    let mut answers = answers.into_iter();
    let groups = answers.next().unwrap_or_default();
    let length = answers.next().as_ref().and_then(entry::number).unwrap_or(0);
    match GroupState::all(groups) {
        Some(groups) => Ok((groups, length)),
        None => Err(RedisStreamsError::unexpected(
            GROUPS,
            "a group without a name or a number",
        )),
    }
}

/// The length of the stream, and the group for which most waits, with how much that is at the most.
async fn greatest(
    connection: &mut Connection,
    connector: &Connector,
    keys: &Keys,
) -> Result<(u64, Option<(String, u64)>), RedisStreamsError> {
    let (groups, length) = read(connector.ask(connection, GROUPS, &question(keys)).await?)?;
    let mut greatest = None;
    for group in groups {
        let waiting = match group.unsettled(length) {
            Some(waiting) => waiting,
            None if group.delivered >= last_id(connection, connector, &keys.requests).await? => group.pending,
            // What is pending is in the stream, too.
            None => length.max(group.pending),
        };
        if greatest.as_ref().is_none_or(|(_, most)| waiting > *most) {
            greatest = Some((group.name, waiting));
        }
    }
    Ok((length, greatest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_looked_at_now_and_then() {
        let mut backlog = Backlog::new(10);
        let start = Instant::now();
        assert!(backlog.is_look_due(start));
        backlog.wrote(1, Some(3), start);
        assert!(!backlog.is_look_due(start + LOOK_INTERVAL / 2));
        assert!(backlog.is_look_due(start + LOOK_INTERVAL));
        backlog.wrote(LOOK_EVERY, None, start);
        assert!(backlog.is_look_due(start));
    }

    #[test]
    fn the_groups_are_asked_only_when_the_stream_is_long_and_not_too_often() {
        let mut backlog = Backlog::new(10);
        let start = Instant::now();
        backlog.wrote(1, Some(10), start);
        assert!(!backlog.is_question_due(start));
        backlog.wrote(1, Some(11), start);
        assert!(backlog.is_question_due(start));
        backlog.asked = Some(start);
        assert!(!backlog.is_question_due(start + ASK_INTERVAL / 2));
        assert!(backlog.is_question_due(start + ASK_INTERVAL));
    }
}
