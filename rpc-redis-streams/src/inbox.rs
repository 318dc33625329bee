//! The reader of everything that comes by XREAD: the inbox, the control stream, and in broadcast mode the stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rpc_core::io::Endpoint;
use rpc_core::message::Origin;
use rpc_core::{EntryId, Mode};
use tokio::time::{Instant, sleep};

use crate::commands::Commands;
use crate::connection::Connection;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::extent::{Extent, last_id};
use crate::give_way::GiveWay;
use crate::inbound::{History, Inbound};
use crate::mailbox::trim_inbox;
use crate::resp::Value;
use crate::shared::{READ_SIZE, REFUSED_PAUSE, Shared, WATCHDOG, block_for};
use crate::subscription::Subscription;
use crate::turns::let_others_run;

/// How many entries of each stream one read takes.
const READ_COUNT: usize = 64;

/// After so many bytes the inbox is trimmed: Redis takes new memory for all that is not trimmed yet, which costs it more
/// time than all else it does with a large entry.
const TRIM_BYTES: usize = 1 << 20;

/// How far back a new channel looks for calls that were given up: those with a longer time to live are few.
const CANCELS_HEARD: Duration = Duration::from_secs(600);

/// How often it is looked whether the streams are still the same, as often as reads end.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Owns the connection that blocks in XREAD.
pub(crate) struct InboxReader {
    io: Arc<Shared>,
    endpoint: Arc<dyn Endpoint>,
    connection: Connection,
    /// Read only by channels that serve or obey: the others need not wake up for it.
    control: Option<EntryId>,
    /// Where the control stream ended when the channel was opened.
    opened: EntryId,
    /// Read only by broadcast subscribers.
    stream: Option<Subscription>,
    /// When it was last looked whether the streams are still the same.
    looked: Instant,
    /// Whether what is written goes in front of its reads: not where there is a reader of the group, too.
    fused: bool,
    /// How many bytes were read from the inbox since it was trimmed.
    untrimmed: usize,
    give_way: GiveWay,
}

impl InboxReader {
    pub(crate) fn new(
        io: Arc<Shared>,
        endpoint: Arc<dyn Endpoint>,
        connection: Connection,
        control: Option<EntryId>,
        stream: Option<Subscription>,
        fused: bool,
    ) -> Self {
        Self {
            io,
            endpoint,
            connection,
            control,
            opened: control.unwrap_or(EntryId::ZERO),
            stream,
            looked: Instant::now(),
            fused,
            untrimmed: 0,
            give_way: GiveWay::default(),
        }
    }

    /// Reads what was said on the control stream before the channel was there: which calls were given up.
    pub(crate) async fn catch_up(&mut self) -> Result<(), RedisStreamsError> {
        if self.control.is_none() {
            return Ok(());
        }
        let since_ms = self.io.clock.now_ms().saturating_sub(CANCELS_HEARD.as_millis() as u64);
        let mut from = EntryId { ms: since_ms, seq: 0 };
        while from <= self.opened {
            let mut page = redis::pipe();
            page.cmd("XRANGE").arg(&self.io.destination.keys.control);
            page.arg(from.to_string()).arg(self.opened.to_string());
            page.arg("COUNT").arg(READ_COUNT);
            let answer = self
                .io
                .connector
                .ask(&mut self.connection, "XRANGE of the control stream", &page)
                .await?
                .pop();
            let entries = entry::entries(answer.unwrap_or_default());
            let Some(last) = entries.last() else {
                break;
            };
            from = last.id.next();
            let inbound = Inbound::now(&self.io, &self.endpoint);
            for entry in entries {
                inbound.control_entry(entry, self.opened);
            }
        }
        Ok(())
    }

    /// Reads until the IO is stopped.
    pub(crate) async fn run(mut self) {
        let io = Arc::clone(&self.io);
        let read = async {
            loop {
                self.look_around().await;
                self.read_once().await;
            }
        };
        io.stopped.run_until_cancelled(read).await;
    }

    async fn read_once(&mut self) {
        let block = self.block();
        let mut read = Commands::with_capacity(READ_SIZE);
        if self.untrimmed >= TRIM_BYTES {
            self.untrimmed = 0;
            // Its answer is of no interest: the writer trims, too, now and then.
            let inbox = self.io.destination.inbox();
            read.add(&trim_inbox(&inbox, self.io.inbox_cursor.get()));
        }
        self.add_read(block, &mut read);
        let answers = match self.fused {
            true => self.io.fuse.read(&mut self.connection, read, block).await,
            false => {
                // Handlers of direct requests may have become ready.
                let_others_run().await;
                self.connection.ask(&read, block + WATCHDOG).await
            }
        };
        match answers.map(|mut answers| answers.pop().unwrap_or_default()) {
            Ok(answer @ Value::Error(_)) => {
                // Redis is loading, or somebody replaced a key; it may pass.
                let (_, text) = entry::error(&answer).unwrap_or_default();
                self.io.warn_rarely("redis refuses to read", &text);
                sleep(REFUSED_PAUSE).await;
            }
            Ok(answer) => {
                let written = self.io.requests_written.load(Ordering::Relaxed);
                self.give_way.let_redis_run(written);
                self.take(answer);
            }
            Err(broken) => {
                tracing::debug!(%broken, "the reading connection is lost");
                self.reconnect().await;
            }
        }
    }

    /// How long to block: not past the time to look for what was missed.
    fn block(&self) -> Duration {
        let until_look = self.stream.as_ref().and_then(Subscription::until_look);
        block_for(self.io.config.block_timeout(), until_look)
    }

    /// XREAD of all streams that are read, each from where it was left: never from `$`, which would miss what was
    /// written between two reads.
    fn add_read(&self, block: Duration, read: &mut Commands) {
        let keys = &self.io.destination.keys;
        let inbox = self.io.destination.inbox();
        let stream = self.stream.as_ref().filter(|_| !self.io.draining.is_cancelled());
        let stream = stream.map(Subscription::cursor);
        let streams = [
            (Some(self.io.inbox_cursor.get()), inbox.as_str()),
            (self.control, keys.control.as_str()),
            (stream, keys.requests.as_str()),
        ];
        let streams = streams.iter().filter_map(|(from, key)| Some(((*from)?, key)));
        read.command("XREAD", 5 + 2 * streams.clone().count());
        read.arg("COUNT").number(READ_COUNT as u64);
        read.arg("BLOCK").number(block.as_millis() as u64);
        read.arg("STREAMS");
        for (_, key) in streams.clone() {
            read.arg(key);
        }
        for (from, _) in streams {
            read.id(from);
        }
    }

    fn take(&mut self, answer: Value) {
        let io = &self.io;
        let inbound = Inbound::now(io, &self.endpoint);
        let _delivering = io.delivering.lock();
        for (key, entries) in entry::streams(answer) {
            let Some(last) = entries.last().map(|entry| entry.id) else {
                continue;
            };
            if key == io.destination.keys.requests.as_bytes() {
                if let Some(stream) = &mut self.stream {
                    stream.read(entries.len(), last);
                }
                if !io.draining.is_cancelled() {
                    let open = |entry| inbound.stream_entry(entry, Origin::Broadcast, History::NONE);
                    self.endpoint.deliver(entries.into_iter().filter_map(open).collect());
                }
            } else if key == io.destination.keys.control.as_bytes() {
                self.control = Some(last);
                entries
                    .into_iter()
                    .for_each(|entry| inbound.control_entry(entry, self.opened));
            } else {
                io.inbox_cursor.set(last);
                self.untrimmed += entry::size(&entries);
                entries.into_iter().for_each(|entry| inbound.inbox_entry(entry));
            }
        }
    }

    /// Looks, when it is time, whether requests were trimmed before they could be read, and whether what is read is still
    /// what it was.
    async fn look_around(&mut self) {
        let mut looked = Ok(());
        if self.looked.elapsed() >= LOOK_INTERVAL {
            looked = self.look_for_other_streams().await;
        }
        if looked.is_ok()
            && let Some(stream) = self
                .stream
                .as_mut()
                .filter(|stream| stream.until_look() == Some(Duration::ZERO))
        {
            looked = stream.look(&self.io, &*self.endpoint, &mut self.connection).await;
        }
        if let Err(error) = looked {
            tracing::debug!(%error, "the reading connection is lost");
            self.reconnect().await;
        }
    }

    /// Looks whether a stream was deleted and has begun anew with lower ids. Where the last one that was read lies in the future
    /// (of a clock that was wrong, say), nothing that follows would ever be read, and no lost connection says so.
    ///
    /// EVAL of XINFO STREAM, once or twice.
    async fn look_for_other_streams(&mut self) -> Result<(), RedisStreamsError> {
        self.looked = Instant::now();
        let keys = &self.io.destination.keys;
        let mut question = redis::pipe();
        let control = self.control.map(|_| &keys.control);
        let requests = self.stream.as_ref().map(|_| &keys.requests);
        for key in [control, requests].into_iter().flatten() {
            question.add_command(Extent::question(key));
        }
        if control.is_none() && requests.is_none() {
            return Ok(());
        }
        let asked = self
            .io
            .connector
            .ask_raw(&mut self.connection, "EVAL of XINFO STREAM", &question);
        let mut answers = asked.await?.into_iter();
        // What is refused (scripts may be forbidden) is looked for after the next lost connection.
        let mut last = || answers.next().and_then(Extent::read).map(|extent| extent.last);
        if self.control.is_some()
            && let Some(last) = last()
        {
            self.control_ends_at(last);
        }
        if let Some(stream) = &mut self.stream
            && let Some(last) = last()
        {
            stream.ends_at(last, &self.io.destination.keys.requests);
        }
        Ok(())
    }

    /// The control stream was found to end at `last`. Of another one only what comes from now on counts: an old signal to
    /// close must not close a channel that was opened after it.
    fn control_ends_at(&mut self, last: EntryId) {
        self.control = self.control.map(|read| read.min(last));
        self.opened = self.opened.min(last);
    }

    async fn reconnect(&mut self) {
        loop {
            self.connection = self.io.connector.reconnect("inbox reader").await;
            loop {
                match self.rewind().await {
                    Ok(()) => return,
                    // Redis is loading its data, say: not before it answers is it known where to go on.
                    Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                        self.io.warn_rarely("redis refuses to read", &answer);
                        sleep(REFUSED_PAUSE).await;
                    }
                    Err(_) => break,
                }
            }
        }
    }

    /// After a lost connection: a stream whose last id is lower than what was read is another one, under the same name.
    ///
    /// Requests are read from its start; calls that are known are recognised.
    async fn rewind(&mut self) -> Result<(), RedisStreamsError> {
        let io = Arc::clone(&self.io);
        let (keys, connector) = (&io.destination.keys, &io.connector);
        // After a failover to a server whose clock is behind, say. What is read again nobody waits for any more.
        let inbox = self.io.destination.inbox();
        if last_id(&mut self.connection, connector, &inbox).await? < self.io.inbox_cursor.get() {
            tracing::warn!(
                inbox,
                "the inbox has gone back in time (redis has lost data); reading it from its start"
            );
            self.io.inbox_cursor.set(EntryId::ZERO);
        }
        if self.control.is_some() {
            let last = last_id(&mut self.connection, connector, &keys.control).await?;
            self.control_ends_at(last);
        }
        if let Some(stream) = &mut self.stream {
            let last = last_id(&mut self.connection, connector, &keys.requests).await?;
            stream.ends_at(last, &keys.requests);
            // Much may have been trimmed meanwhile.
            stream.look(&io, &*self.endpoint, &mut self.connection).await?;
        }
        Ok(())
    }
}

/// Whether a channel in `mode` reads requests in the same XREAD as its inbox.
pub(crate) fn reads_stream(mode: Mode, serves: bool) -> bool {
    serves && mode == Mode::Broadcast
}
