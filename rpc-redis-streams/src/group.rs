//! The reader of a consumer group: takes as many requests as there is room for, and no more.

mod pending;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rpc_core::EntryId;
use rpc_core::io::Endpoint;
use rpc_core::message::{Delivery, Origin};
use tokio::time::{Instant, sleep, timeout_at};

use self::pending::Unfetched;
use crate::appetite::Appetite;
use crate::claim::ALONE_POLL;
use crate::commands::Commands;
use crate::connection::{Broken, Connection};
use crate::connector::ANSWER_LIMIT;
use crate::creation::{ask_boundary, create_group};
use crate::entry::{self, Entry};
use crate::error::RedisStreamsError;
use crate::give_way::GiveWay;
use crate::inbound::{History, Inbound};
use crate::resp::Value;
use crate::shared::{READ_SIZE, REFUSED_PAUSE, Shared, WATCHDOG, block_for};
use crate::turns::let_others_run;

/// A read with so many entries or more, and no fewer than it asked for, is likely to have left some in the stream.
const FULL: usize = 4;

/// How often it is looked for entries that are pending for this consumer and not held, if nothing has happened: a read may still be on
/// its way when its connection is given up, and reach Redis long afterwards.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The same, if Redis has refused that.
const REFUSED_LOOK: Duration = Duration::from_secs(1);

/// XREADGROUP and HGET.
const READ_ANSWERS: usize = 2;

/// After so many bytes the stream is trimmed before its time. More than for the inbox, because it takes more commands.
const TRIM_BYTES: usize = 8 << 20;

/// Owns the connection that blocks in XREADGROUP.
pub(crate) struct GroupReader {
    io: Arc<Shared>,
    endpoint: Arc<dyn Endpoint>,
    connection: Connection,
    /// When to look for entries that are pending for this consumer and that it does not hold.
    look_at: VecDeque<Instant>,
    /// An entry that was taken over for its last attempt, and when.
    alone: Option<(EntryId, Instant)>,
    /// Whether others wait for that one to be settled.
    held_up: bool,
    appetite: Appetite,
    unfetched: Unfetched,
    /// How many bytes were read since it was trimmed for them.
    untrimmed: usize,
    /// Entries up to here may have run before the group was created; as it was last heard.
    boundary: EntryId,
    /// The question for it, which goes with every read.
    ask_boundary: Commands,
    ahead: Option<Ahead>,
    give_way: GiveWay,
}

/// A read that was sent while the batch before it was run.
struct Ahead {
    /// For so many requests, in so many entries.
    room: usize,
    asked: usize,
    /// How long its answers may take.
    limit: Duration,
}

impl GroupReader {
    pub(crate) fn new(io: Arc<Shared>, endpoint: Arc<dyn Endpoint>, connection: Connection) -> Self {
        let mut boundary = Commands::default();
        boundary.add(&ask_boundary(&io.destination));
        Self {
            endpoint,
            connection,
            // A consumer of this very name may have left something behind.
            look_at: VecDeque::from([Instant::now()]),
            alone: None,
            held_up: false,
            appetite: Appetite::new(io.config.max_pack()),
            unfetched: Unfetched::default(),
            untrimmed: 0,
            boundary: EntryId::ZERO,
            ask_boundary: boundary,
            ahead: None,
            give_way: GiveWay::default(),
            io,
        }
    }

    /// Reads until the IO drains; a read that blocks then is waited out, because it may have taken something.
    pub(crate) async fn run(mut self) {
        let io = Arc::clone(&self.io);
        let read = async {
            self.note_client_id().await;
            loop {
                if let Some(ahead) = self.ahead.take() {
                    self.take_ahead(ahead).await;
                } else if io.draining.is_cancelled() {
                    return;
                } else if self.is_look_due() {
                    self.look().await;
                } else if let Some(room) = self.room().await {
                    match self.take_over(room).await {
                        Ok(0) => self.read(room).await,
                        // There may be more to take over, and there is less room.
                        Ok(_) => {}
                        // By an ACL, say: it must not keep this worker from reading.
                        Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                            io.warn_rarely("redis refuses to hand over what dead workers held", &answer);
                            self.read(room).await;
                        }
                        Err(error) => self.trouble(error).await,
                    }
                }
            }
        };
        io.stopped.run_until_cancelled(read).await;
        self.io.group_drained.cancel();
    }

    fn is_look_due(&self) -> bool {
        self.look_at.front().is_some_and(|at| *at <= Instant::now())
    }

    /// Waits for room; not past the time for the next look, and not when the IO drains.
    async fn room(&self) -> Option<usize> {
        let room = async {
            self.io.outbox.has_room().await;
            self.endpoint.room().await
        };
        let wait = self.io.draining.run_until_cancelled(room);
        match self.look_at.front() {
            Some(at) => timeout_at(*at, wait).await.ok().flatten(),
            None => wait.await,
        }
    }

    async fn read(&mut self, room: usize) {
        let (read, asked, block) = self.question(room);
        let answers = self.io.fuse.read(&mut self.connection, read, block).await;
        self.take_answers(answers, room, asked).await;
    }

    async fn take_answers(&mut self, answers: Result<Vec<Value>, Broken>, room: usize, asked: usize) {
        match answers {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                let answer = answers.next().unwrap_or_default();
                if let Value::Error(_) = answer {
                    return self.recover(&answer).await;
                }
                self.learn_boundary(answers.next().as_ref().and_then(entry::id));
                for (_, entries) in entry::streams(answer) {
                    let count = entries.len();
                    let bytes = entry::size(&entries);
                    self.note_read(bytes);
                    self.give_way.let_redis_run(count);
                    let deliveries = self.open(entries, 1);
                    let requests = deliveries.iter().map(|delivery| delivery.requests.len()).sum();
                    self.appetite.note(asked, count, requests, bytes);
                    if count >= asked.max(FULL) && room > requests {
                        self.read_ahead(room - requests).await;
                    }
                    self.endpoint.deliver(deliveries);
                }
            }
            Err(broken) => {
                tracing::debug!(%broken, "the group's connection is lost");
                self.reconnect().await;
            }
        }
    }

    /// Where one read has filled, the stream has more: Redis is to look for it while this batch is run, not after.
    async fn read_ahead(&mut self, room: usize) {
        // Not where this connection is needed for something else before.
        if self.io.draining.is_cancelled() || self.is_look_due() || !self.io.estates.open().is_empty() {
            return;
        }
        let (read, asked, block) = self.question(room);
        let limit = block + WATCHDOG;
        // A connection that is lost here says so when the answers are received.
        let _ = self.connection.send(read.pieces(), limit).await;
        self.ahead = Some(Ahead { room, asked, limit });
    }

    /// Takes what was read ahead.
    async fn take_ahead(&mut self, ahead: Ahead) {
        let Ahead { room, asked, limit } = ahead;
        // What was run goes out first: the answers may be here already, and reading them would not yield.
        let_others_run().await;
        let answers = self.connection.receive(READ_ANSWERS, limit).await;
        self.take_answers(answers, room, asked).await;
    }

    /// What to ask for to fill `room`: the commands, the number of entries, and for how long to block.
    fn question(&self, room: usize) -> (Commands, usize, Duration) {
        let block = self.block();
        let count = self.appetite.entries(room);
        let to = &self.io.destination;
        let mut read = Commands::with_capacity(READ_SIZE);
        read.command("XREADGROUP", 10);
        read.arg("GROUP").arg(&to.group).arg(&to.consumer);
        read.arg("COUNT").number(count as u64);
        read.arg("BLOCK").number(block.as_millis() as u64);
        read.arg("STREAMS").arg(&to.keys.requests).arg(">");
        read.append(&self.ask_boundary);
        (read, count, block)
    }

    /// Has the stream trimmed when much was read, in bytes, as the inbox reader does.
    fn note_read(&mut self, bytes: usize) {
        self.untrimmed += bytes;
        if self.untrimmed >= TRIM_BYTES {
            self.untrimmed = 0;
            if let Some(server) = &*self.io.server() {
                server.heartbeat.trim_now();
            }
        }
    }

    /// How long to block: not past the time for the next look, nor for long when there is something to take over soon.
    fn block(&self) -> Duration {
        let until_look = self
            .look_at
            .front()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let most = match self.held_up {
            true => ALONE_POLL,
            false => self.io.config.block_timeout(),
        };
        block_for(most, until_look)
    }

    fn open(&self, entries: Vec<Entry>, deliveries: u32) -> Vec<Delivery> {
        let inbound = Inbound::now(&self.io, &self.endpoint);
        let open = |entry: Entry| {
            let history = self.history(entry.id, deliveries);
            inbound.stream_entry(entry, Origin::Group, history)
        };
        let mut deliveries = Vec::with_capacity(entries.len());
        deliveries.extend(entries.into_iter().filter_map(open));
        deliveries
    }

    /// Hands an entry to the channel.
    fn deliver(&self, entry: Entry, deliveries: u32) {
        self.endpoint.deliver(self.open(vec![entry], deliveries));
    }

    fn history(&self, entry: EntryId, deliveries: u32) -> History {
        History {
            deliveries,
            forgotten: entry <= self.boundary,
        }
    }

    /// Takes note of the boundary, as it was after the entries that came with it had been handed out. It is missing where
    /// everything was flushed in between: then they are those of the time before.
    fn learn_boundary(&mut self, boundary: Option<EntryId>) {
        self.boundary = boundary.unwrap_or(self.boundary);
    }

    /// Redis has refused to read.
    async fn recover(&mut self, answer: &Value) {
        let (code, text) = entry::error(answer).unwrap_or_default();
        match code {
            // Flushed, deleted or destroyed: there is work to be had again as soon as the group is back.
            "NOGROUP" => match self.create_group().await {
                Ok(true) => tracing::warn!(
                    group = self.io.destination.group,
                    "the group was gone (redis has lost data, or somebody deleted it); created anew"
                ),
                // By another worker.
                Ok(false) => {}
                Err(error) => self.io.warn_rarely("the group cannot be created", &error.to_string()),
            },
            // The server has become a replica: another one is to be found behind the address.
            "READONLY" | "UNBLOCKED" => self.reconnect().await,
            _ => self.io.warn_rarely("redis refuses to read", &text),
        }
        // Also where the group was created: whoever destroys it in a loop must not make this one spin.
        sleep(REFUSED_PAUSE).await;
    }

    /// Creates the group where it had been, unless another worker has done so already; returns whether it was this one.
    async fn create_group(&mut self) -> Result<bool, RedisStreamsError> {
        let (connector, to) = (&self.io.connector, &self.io.destination);
        let creation = create_group(&mut self.connection, connector, to).await?;
        self.boundary = creation.boundary;
        if let Some(server) = &*self.io.server() {
            server.heartbeat.beat_now();
        }
        Ok(creation.created)
    }

    /// Connects again, unless the IO drains meanwhile.
    async fn reconnect(&mut self) {
        // Client ids start anew with the server: that one may be a stranger's now.
        self.io.estates.set_reader(0);
        let connected = self.io.connector.reconnect("group reader");
        let Some(connection) = self.io.draining.run_until_cancelled(connected).await else {
            return;
        };
        self.connection = connection;
        self.note_client_id().await;
        // The answer to the last read may have been lost on the way, with the requests that it carried. Redis may not have
        // noticed that the old connection is gone, and serve the read that blocks there once more: so again when that has
        // ended.
        let now = Instant::now();
        self.look_at = VecDeque::from([now, now + self.io.config.block_timeout() + WATCHDOG]);
    }

    /// Looks for entries that are pending for this consumer and not held, until that succeeds.
    async fn look(&mut self) {
        match self.take_up_pending().await {
            // Cut short: what is left is as it was found.
            Ok(()) if self.io.draining.is_cancelled() => {}
            Ok(()) => self.looked(),
            Err(RedisStreamsError::CommandRefused { answer, .. }) if answer.starts_with("NOGROUP") => self.looked(),
            // Likewise.
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                self.io.warn_rarely("redis does not say what is pending", &answer);
                self.look_at.pop_front();
                self.look_at.push_front(Instant::now() + REFUSED_LOOK);
            }
            Err(error) => self.trouble(error).await,
        }
    }

    fn looked(&mut self) {
        self.look_at.pop_front();
        if self.look_at.is_empty() {
            self.look_at.push_back(Instant::now() + LOOK_EVERY);
        }
        self.io.inherited.store(true, Ordering::Release);
    }

    async fn trouble(&mut self, error: RedisStreamsError) {
        match error {
            // Redis is loading its data, say.
            RedisStreamsError::CommandRefused { answer, .. } => {
                self.io.warn_rarely("redis refuses to read", &answer);
                sleep(REFUSED_PAUSE).await;
            }
            error => {
                tracing::debug!(%error, "the group's connection is lost");
                self.reconnect().await;
            }
        }
    }

    /// Remembers this connection's id, by which a blocked read can be ended early when the channel drains.
    async fn note_client_id(&mut self) {
        let mut command = redis::cmd("CLIENT");
        command.arg("ID");
        let answer = self.connection.one(command, ANSWER_LIMIT).await;
        // Without it (an ACL may forbid the command) a drain takes as long as a read blocks.
        let id = answer.ok().as_ref().and_then(entry::number).unwrap_or(0);
        self.io.estates.set_reader(id);
    }
}
