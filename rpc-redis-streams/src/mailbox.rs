//! Keeping the inbox of this session alive, and noticing when it is gone.

use std::time::Duration;

use redis::Cmd;
use rpc_core::EntryId;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::extent::Extent;
use crate::membership::INBOX_TTL;
use crate::meta;
use crate::shared::Shared;

/// How long a renewal lasts while nobody waits for a reply.
const REST: Duration = Duration::from_secs(20);

/// What the writer knows of the inbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    renewed: Instant,
    /// It is gone, and could not be opened again yet.
    lost: bool,
    /// Where the stream began when it was last found deleted.
    began: Option<EntryId>,
}

/// What a renewal has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// All is well, or nothing can be done about it now.
    Kept,
    /// The inbox was gone, and replies may be gone with it; it is open again.
    Reopened,
    /// The stream was deleted, and requests with it.
    Replaced,
}

impl Mailbox {
    /// Of a stream that `began` so, as far as it was known before anything was sent.
    pub(crate) fn new(began: Option<EntryId>) -> Self {
        Self {
            // It was opened just before.
            renewed: Instant::now(),
            lost: false,
            began,
        }
    }

    /// How long the inbox need not be renewed: not at all while somebody waits for a reply, so that its loss is noticed soon.
    pub(crate) fn rest(&self, somebody_waits: bool, now: Instant) -> Duration {
        match somebody_waits || self.lost {
            true => Duration::ZERO,
            false => REST.saturating_sub(now - self.renewed),
        }
    }

    /// Whether replies have nowhere to go.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Renews the inbox, and opens it again if it is gone; looks whether the stream is still the same. PEXPIRE, XTRIM, EVAL of
    /// XINFO STREAM, HGET and TIME.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(crate) async fn renew(
        &mut self,
        io: &Shared,
        connection: &mut Connection,
    ) -> Result<Renewal, RedisStreamsError> {
        self.renewed = Instant::now();
        let inbox = io.destination.inbox();
        let mut renew = redis::pipe();
        renew.cmd("PEXPIRE").arg(&inbox).arg(INBOX_TTL.as_millis() as u64);
        let read = io.inbox_cursor.get();
        renew.add_command(trim_inbox(&inbox, read));
        renew.add_command(Extent::question(&inbox));
        // Nothing else tells a caller that its request was deleted.
        renew.cmd("HGET").arg(&io.destination.keys.meta).arg(meta::BEGAN);
        // Deadlines are counted on Redis's clock; a channel that serves only callbacks has no beat that would set it.
        renew.cmd("TIME");
        let asked = std::time::Instant::now();
        let mut answers = io.connector.ask_raw(connection, "renew the inbox", &renew).await?;
        if let Some(now_ms) = answers.pop().and_then(entry::time_ms) {
            io.clock.set(now_ms, asked);
        }
        let began = answers.pop().as_ref().and_then(entry::id);
        let replaced = began.is_some() && began != self.began;
        // Another inbox, under the name of one in which an id of the future was read: what is written to it is never read. Where
        // the clock is past what was read, it is.
        let deaf = answers
            .pop()
            .and_then(Extent::read)
            .is_some_and(|inbox| inbox.last < read && read.ms > io.clock.now_ms());
        let trimmed = answers.pop().unwrap_or_default();
        let foreign = entry::error(&trimmed).is_some_and(|(code, _)| code == "WRONGTYPE");
        let renewed = answers.pop().unwrap_or_default();
        if foreign {
            // Its name is this session's: what somebody has put there is of no use to anybody, and keeps replies away.
            let mut remove = redis::pipe();
            remove.cmd("UNLINK").arg(&inbox);
            io.connector
                .ask_raw(connection, "remove what is no inbox", &remove)
                .await?;
        }
        let renewal = match entry::error(&renewed) {
            // Another server is to be found behind the address; on this one the inbox will not be kept.
            Some(("READONLY", answer)) => Err(RedisStreamsError::CommandRefused {
                command: "PEXPIRE",
                answer,
            }),
            Some(_) => Ok(Renewal::Kept),
            // Also where it is there again: the answer that said so was lost, and nobody was told.
            None if self.lost || deaf || foreign || entry::number(&renewed) == Some(0) => {
                self.reopen(io, connection).await
            }
            None if replaced => Ok(Renewal::Replaced),
            None => Ok(Renewal::Kept),
        };
        // Found again as long as nobody is told.
        if matches!(renewal, Ok(Renewal::Reopened | Renewal::Replaced)) {
            self.began = began.or(self.began);
        }
        renewal
    }

    /// The inbox is gone, by a flush or a long absence.
    pub(crate) async fn reopen(
        &mut self,
        io: &Shared,
        connection: &mut Connection,
    ) -> Result<Renewal, RedisStreamsError> {
        self.lost = true;
        match io.open_inbox(connection).await {
            Ok(anchor) => {
                self.opened(io, anchor);
                Ok(Renewal::Reopened)
            }
            // Out of memory, say: to be tried again.
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                io.warn_rarely("the inbox of this session is gone and cannot be opened", &answer);
                Ok(Renewal::Kept)
            }
            Err(error) => Err(error),
        }
    }

    fn opened(&mut self, io: &Shared, anchor: EntryId) {
        self.lost = false;
        io.inbox_cursor.set(anchor);
        let stream = &io.destination.keys.requests;
        tracing::warn!(
            stream,
            "the inbox of this session was gone (redis has lost data, or somebody deleted it); opened anew"
        );
    }
}

/// XTRIM of what was read from an inbox: nobody but its reader needs what the reader has passed.
pub(crate) fn trim_inbox(inbox: &str, read: EntryId) -> Cmd {
    let mut trim = redis::cmd("XTRIM");
    trim.arg(inbox).arg("MINID").arg("~").arg(read.to_string());
    trim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_often_while_somebody_waits_or_it_is_lost() {
        let mut mailbox = Mailbox::new(None);
        let opened = mailbox.renewed;
        assert_eq!(mailbox.rest(false, opened), REST);
        assert_eq!(mailbox.rest(false, opened + REST / 4), REST * 3 / 4);
        assert!(mailbox.rest(false, opened + REST).is_zero());
        assert!(mailbox.rest(true, opened).is_zero());
        mailbox.lost = true;
        assert!(mailbox.rest(false, opened).is_zero());
    }
}
