//! The reader of a consumer group: takes as many requests as there is room for, and no more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Cmd, Value};
use rpc_core::EntryId;
use rpc_core::io::Endpoint;
use rpc_core::message::Origin;
use tokio::time::sleep;

use crate::connection::{Broken, Connection};
use crate::entry::{self, Entry};
use crate::inbound;
use crate::io::{Inner, WATCHDOG};
use crate::outbox::{DeadLetter, Message};

/// How many requests one read takes at the most: bounded reads overlap with work.
const READ_COUNT: usize = 64;

/// How many pending entries are looked at in one go.
const PENDING_PAGE: usize = 256;

/// Owns the connection that blocks in XREADGROUP.
pub(crate) struct GroupReader {
    io: Arc<Inner>,
    endpoint: Endpoint,
    connection: Connection,
}

impl GroupReader {
    pub(crate) fn new(io: Arc<Inner>, endpoint: Endpoint, connection: Connection) -> Self {
        Self {
            io,
            endpoint,
            connection,
        }
    }

    /// Reads until the IO drains; a read that blocks then is waited out, because it may have taken something.
    pub(crate) async fn run(mut self) {
        let io = Arc::clone(&self.io);
        let read = async {
            self.note_client_id().await;
            while !io.draining.is_cancelled() {
                let Some(room) = io.draining.run_until_cancelled(self.endpoint.room()).await else {
                    return;
                };
                self.read_once(room).await;
            }
        };
        io.stopped.run_until_cancelled(read).await;
        self.io.group_drained.cancel();
    }

    async fn read_once(&mut self, room: usize) {
        let limit = self.io.config.block_timeout() + WATCHDOG;
        match self.connection.one(self.command(room), limit).await {
            Ok(answer @ Value::ServerError(_)) => self.recover(&answer).await,
            Ok(answer) => {
                for (_, entries) in entry::streams(answer) {
                    self.deliver(entries);
                }
            }
            Err(broken) => {
                tracing::debug!(%broken, "the group's connection is lost");
                self.reconnect().await;
            }
        }
    }

    fn command(&self, room: usize) -> Cmd {
        let to = &self.io.destination;
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&to.group).arg(&to.consumer);
        // `room` is at least one: COUNT 0 would be no bound at all.
        command.arg("COUNT").arg(room.min(READ_COUNT));
        command
            .arg("BLOCK")
            .arg(self.io.config.block_timeout().as_millis() as u64);
        command.arg("STREAMS").arg(&to.keys.requests).arg(">");
        command
    }

    fn deliver(&self, entries: Vec<Entry>) {
        for entry in entries {
            inbound::from_stream(&self.io, &self.endpoint, entry, Origin::Group);
        }
    }

    async fn recover(&mut self, answer: &Value) {
        let (code, text) = entry::error(answer).unwrap_or_default();
        if code == "NOGROUP" {
            // Flushed, deleted or destroyed: there is work to be had again as soon as the group is back.
            match self.io.create_group(&mut self.connection).await {
                Ok(()) => tracing::warn!(group = self.io.destination.group, "the group was gone; created anew"),
                Err(error) => self.io.warn_rarely("the group cannot be created", &error.to_string()),
            }
        } else {
            self.io.warn_rarely("redis refuses to read", &text);
        }
        // Also where the group was created: whoever destroys it in a loop must not make this one spin.
        sleep(Duration::from_millis(100)).await;
    }

    async fn reconnect(&mut self) {
        self.connection = self.io.connector.reconnect("group reader").await;
        self.note_client_id().await;
        // The answer to the last read may have been lost on the way, with the requests that it carried.
        if let Err(broken) = self.take_up_pending().await {
            tracing::debug!(%broken, "the group's connection is lost again");
        }
    }

    /// Runs what is pending for this consumer and not held.
    ///
    /// By XPENDING and XRANGE, because a re-read by XREADGROUP would raise Redis's count of deliveries.
    async fn take_up_pending(&mut self) -> Result<(), Broken> {
        let limit = self.io.connector.connect_timeout();
        let mut from = EntryId::ZERO;
        loop {
            let to = &self.io.destination;
            let mut pending = redis::cmd("XPENDING");
            pending
                .arg(&to.keys.requests)
                .arg(&to.group)
                .arg(from.to_string())
                .arg("+");
            pending.arg(PENDING_PAGE).arg(&to.consumer);
            let page = entry::list(self.connection.one(pending, limit).await?);
            let ids: Vec<EntryId> = page
                .into_iter()
                .filter_map(|row| entry::list(row).first().and_then(entry::id))
                .collect();
            let Some(last) = ids.last() else {
                return Ok(());
            };
            from = last.next();
            for id in ids {
                if !self.endpoint.holds(id) {
                    self.take_up(id, limit).await?;
                }
            }
        }
    }

    async fn take_up(&mut self, id: EntryId, limit: Duration) -> Result<(), Broken> {
        let mut range = redis::cmd("XRANGE");
        range
            .arg(&self.io.destination.keys.requests)
            .arg(id.to_string())
            .arg(id.to_string());
        let entries = entry::entries(self.connection.one(range, limit).await?);
        if entries.is_empty() {
            // Trimmed or deleted by somebody: nothing is left to run, but it is not to be pending for ever.
            self.endpoint.missed(1);
            self.io.outbox.push(Message::DeadLetter(DeadLetter {
                entry: id,
                fields: Vec::new(),
                reason: "the entry was deleted while it was pending".to_owned(),
            }));
        }
        self.deliver(entries);
        Ok(())
    }

    /// Remembers this connection's id, by which a blocked read can be ended early when the channel drains.
    async fn note_client_id(&mut self) {
        let mut command = redis::cmd("CLIENT");
        command.arg("ID");
        let answer = self.connection.one(command, self.io.connector.connect_timeout()).await;
        // Without it (an ACL may forbid the command) a drain takes as long as a read blocks.
        let id = answer.ok().as_ref().and_then(entry::number).unwrap_or(0);
        self.io.group_client.store(id, Ordering::Release);
    }
}
