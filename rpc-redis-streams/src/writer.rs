//! The one task that writes: everything queued goes out as one flush, and while that is in flight the next one fills.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::IoError;
use rpc_core::io::{Endpoint, Outgoing, SendFailure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::connection::Connection;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::flush::{Fate, Flush, Report};
use crate::io::Inner;
use crate::meta::{self, Agreement};
use crate::outbox::Message;

/// How long a write may stay unanswered before its connection counts as dead. Longer than a Redis that pauses to load
/// or to fork: what is repeated on a new connection may run twice.
const WRITE_LIMIT: Duration = Duration::from_secs(12);

/// How soon a refused write is repeated.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// How long the inbox outlives its session.
pub(crate) const INBOX_TTL: Duration = Duration::from_secs(60);

/// How often its time to live is renewed, with and without calls that wait.
const INBOX_TICK: Duration = Duration::from_secs(1);
const INBOX_IDLE_TICKS: u32 = 20;

/// Owns the connection that writes.
pub(crate) struct Writer {
    io: Arc<Inner>,
    endpoint: Endpoint,
    connection: Connection,
    agreement: Agreement,
    /// Why requests are not written any more: servers have claimed the stream for something else.
    refused: Option<IoError>,
    /// The last request that may have been written.
    last_sent: u64,
    quiet_ticks: u32,
}

impl Writer {
    pub(crate) fn new(io: Arc<Inner>, endpoint: Endpoint, connection: Connection, agreement: Agreement) -> Self {
        Self {
            io,
            endpoint,
            connection,
            agreement,
            refused: None,
            last_sent: 0,
            quiet_ticks: 0,
        }
    }

    /// Writes until the IO is stopped.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(INBOX_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let io = Arc::clone(&self.io);
        let write = async {
            loop {
                tokio::select! {
                    () = io.outbox.filled() => self.flush().await,
                    _ = tick.tick() => {
                        self.look_for_claim().await;
                        self.keep_inbox().await;
                    }
                }
            }
        };
        io.stopped.run_until_cancelled(write).await;
    }

    async fn flush(&mut self) {
        let mut messages = self.io.outbox.take();
        let taken = messages.len();
        if let Some(why) = &self.refused {
            messages.retain(|message| self.pass(message, why));
        }
        let flush = Flush::new(messages, &self.io.destination, self.agreement.retention, Instant::now());
        if flush.len() == 0 {
            return self.io.outbox.settle(taken, Vec::new());
        }
        self.last_sent = self.last_sent.max(flush.last_sequence);
        match self.connection.run(&flush.pipeline, WRITE_LIMIT).await {
            Ok(answers) => {
                let Report { fates, again, trouble } = flush.read(answers);
                self.tell(fates);
                let pause = !again.is_empty();
                self.io.outbox.settle(taken - again.len(), again);
                if let Some(trouble) = trouble {
                    self.io.warn_rarely("redis refuses to write", &trouble);
                }
                if pause {
                    sleep(REFUSED_PAUSE).await;
                }
            }
            Err(broken) => {
                tracing::debug!(%broken, "the writing connection is lost");
                let again = flush.into_messages();
                self.io.outbox.settle(taken - again.len(), again);
                self.reconnect().await;
            }
        }
    }

    /// Whether a message may be written although requests may not.
    fn pass(&self, message: &Message, why: &IoError) -> bool {
        match message {
            Message::Outgoing(Outgoing::Request { target, request }) => {
                let failure = SendFailure::NotSent(why.clone());
                self.endpoint.failed(request.sequence, *target, failure);
                false
            }
            _ => true,
        }
    }

    fn tell(&self, fates: Vec<Fate>) {
        for fate in fates {
            match fate {
                Fate::Accepted(sequence) => self.endpoint.accepted(sequence),
                Fate::Failed(sequence, target, failure) => self.endpoint.failed(sequence, target, failure),
                Fate::Confirmed(entry) => self.endpoint.confirmed(entry),
            }
        }
    }

    /// A client that came before the first server learns here what that one has made of the stream. Were it to go on
    /// otherwise, a broadcast client would trim a work queue.
    async fn look_for_claim(&mut self) {
        if self.agreement.claimed || self.refused.is_some() {
            return;
        }
        let io = &self.io;
        match meta::look(&mut self.connection, &io.connector, &io.config, &io.destination.keys).await {
            Ok(agreement) => self.agreement = agreement,
            // The next flush or tick deals with the connection.
            Err(RedisStreamsError::Command { .. } | RedisStreamsError::Timeout { .. }) => {}
            Err(mismatch) => {
                tracing::error!(error = %mismatch, "requests are refused from now on");
                self.refused = Some(mismatch.into());
            }
        }
    }

    async fn reconnect(&mut self) {
        self.connection = self.io.connector.reconnect("writer").await;
        // The inbox may have gone with a restart: known before anything is sent that would be answered there.
        self.renew_inbox().await;
    }

    /// Keeps the inbox alive: often while somebody waits for a reply, so that its loss is noticed soon.
    async fn keep_inbox(&mut self) {
        self.quiet_ticks += 1;
        if self.endpoint.in_flight() > 0 || self.quiet_ticks >= INBOX_IDLE_TICKS {
            self.quiet_ticks = 0;
            self.renew_inbox().await;
        }
    }

    async fn renew_inbox(&mut self) {
        let inbox = self.io.destination.keys.inbox(self.io.session());
        let mut renew = redis::pipe();
        renew.cmd("PEXPIRE").arg(&inbox).arg(INBOX_TTL.as_millis() as u64);
        // Nobody but its reader needs what the reader has passed.
        renew
            .cmd("XTRIM")
            .arg(&inbox)
            .arg("MINID")
            .arg("~")
            .arg(self.io.inbox_cursor.get().to_string());
        match self.connection.run(&renew, WRITE_LIMIT).await {
            Ok(answers) if answers.first().and_then(entry::number) == Some(0) => self.reopen_inbox().await,
            Ok(_) => {}
            // The next flush or tick finds the connection lost, too.
            Err(_) => self.connection = self.io.connector.reconnect("writer").await,
        }
    }

    /// The inbox is gone, by a flush or a long absence, and replies may be gone with it.
    async fn reopen_inbox(&mut self) {
        let Ok(anchor) = self.io.open_inbox(&mut self.connection).await else {
            return;
        };
        self.io.inbox_cursor.set(anchor);
        tracing::warn!(
            stream = self.io.destination.keys.requests,
            "the inbox of this session was gone; opened anew"
        );
        self.endpoint.replies_lost(
            self.last_sent,
            "the inbox was deleted while the call waited, and a reply with it",
        );
    }
}
