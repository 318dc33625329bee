//! The reader of a consumer group: takes as many requests as there is room for, and no more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;
use rpc_core::EntryId;
use rpc_core::io::Endpoint;
use rpc_core::message::{Delivery, Origin};
use tokio::time::{Instant, sleep, timeout_at};

use crate::appetite::{Appetite, PackSize, READ_COUNT};
use crate::claim::{ALONE_FOR, ALONE_POLL, Claimed, ClaimedEntry, claim};
use crate::connection::{Broken, Connection};
use crate::creation::{ask_boundary, create_group};
use crate::entry::{self, Entry};
use crate::error::RedisStreamsError;
use crate::inbound::{self, History};
use crate::outbox::Message;
use crate::packs::Pack;
use crate::resp::{Commands, Value};
use crate::shared::{REFUSED_PAUSE, Shared, WATCHDOG};
use crate::takeover::Estate;
use crate::turns::let_others_run;

/// A read with so many entries or more, and no fewer than it asked for, is likely to have left some in the stream.
const FULL: usize = 4;

/// XREADGROUP and HGET.
const READ_ANSWERS: usize = 2;

/// After so many bytes the stream is trimmed before its time. More than for the inbox, because it takes more commands.
const TRIM_BYTES: usize = 8 << 20;

/// How many pending entries are looked at in one go.
const PENDING_PAGE: usize = 256;

/// The length of the first field of an entry.
const SIZE: &str = "\
    local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) \
    return found[1] and #(found[1][2][2] or '') or 0";

/// What Redis could be thought to hang up on for its size.
const LARGE: u64 = 256 << 10;

/// After so many lost connections in a row, an entry is looked at more closely before it is fetched again.
const SUSPICIOUS: u32 = 3;

/// The entry that was being fetched when connections were lost, one after the other.
#[derive(Debug, Default)]
struct Unfetched {
    entry: EntryId,
    losses: u32,
    given_up: bool,
}

impl Unfetched {
    fn lost(&mut self, entry: EntryId) {
        if self.entry != entry {
            *self = Self {
                entry,
                ..Self::default()
            };
        }
        self.losses += 1;
    }

    fn is_suspicious(&self, entry: EntryId) -> bool {
        self.entry == entry && self.losses >= SUSPICIOUS
    }

    /// True the first time: it is pending until the writer has settled it.
    fn give_up(&mut self, entry: EntryId) -> bool {
        self.entry == entry && !std::mem::replace(&mut self.given_up, true)
    }
}

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
    pack_size: PackSize,
    appetite: Appetite,
    unfetched: Unfetched,
    /// How many bytes were read since it was trimmed for them.
    untrimmed: usize,
    /// Entries up to here may have run before the group was created; as it was last heard.
    boundary: EntryId,
    ahead: Option<Ahead>,
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
        let max_pack = io.config.max_pack();
        Self {
            io,
            endpoint,
            connection,
            // A consumer of this very name may have left something behind.
            look_at: VecDeque::from([Instant::now()]),
            alone: None,
            held_up: false,
            pack_size: PackSize::new(max_pack),
            appetite: Appetite::new(),
            unfetched: Unfetched::default(),
            untrimmed: 0,
            boundary: EntryId::ZERO,
            ahead: None,
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
        let (read, asked, limit) = self.question(room);
        let answers = self.io.fuse.read(&mut self.connection, read, limit).await;
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
                    let deliveries: Vec<_> = entries.into_iter().filter_map(|entry| self.open(entry, 1)).collect();
                    let requests = deliveries.iter().map(|delivery| delivery.requests.len()).sum();
                    self.pack_size.note(requests, count);
                    self.appetite.note(count >= asked, bytes);
                    if count >= asked.max(FULL) && room > requests {
                        self.read_ahead(room - requests).await;
                    }
                    deliveries
                        .into_iter()
                        .for_each(|delivery| self.endpoint.deliver(delivery));
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
        let (read, asked, limit) = self.question(room);
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

    /// What to ask for to fill `room`: the commands, the number of entries, and how long the answers may take.
    fn question(&self, room: usize) -> (Commands, usize, Duration) {
        let block = self.block();
        // At least one: COUNT 0 would be no bound at all.
        let count = self.pack_size.entries(room.min(self.appetite.requests));
        let mut read = Commands::default();
        read.add(&self.command(count, block));
        read.add(&ask_boundary(&self.io.destination));
        (read, count, block + WATCHDOG)
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
        let block = match self.held_up {
            true => ALONE_POLL,
            false => self.io.config.block_timeout(),
        };
        // BLOCK 0 would be for ever.
        until_look
            .map_or(block, |until| until.min(block))
            .max(Duration::from_millis(1))
    }

    fn command(&self, count: usize, block: Duration) -> Cmd {
        let to = &self.io.destination;
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(&to.group).arg(&to.consumer);
        command.arg("COUNT").arg(count);
        command.arg("BLOCK").arg(block.as_millis() as u64);
        command.arg("STREAMS").arg(&to.keys.requests).arg(">");
        command
    }

    fn open(&self, entry: Entry, deliveries: u32) -> Option<Delivery> {
        let history = self.history(entry.id, deliveries);
        inbound::from_stream(&self.io, &*self.endpoint, entry, Origin::Group, history)
    }

    /// Hands an entry to the channel.
    fn deliver(&self, entry: Entry, deliveries: u32) {
        if let Some(delivery) = self.open(entry, deliveries) {
            self.endpoint.deliver(delivery);
        }
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
                Ok(true) => tracing::warn!(group = self.io.destination.group, "the group was gone; created anew"),
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
            Err(error) => self.trouble(error).await,
        }
    }

    fn looked(&mut self) {
        self.look_at.pop_front();
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

    /// Takes over what dead workers have left, as far as there is room; returns how many entries that were.
    ///
    /// By a script that asks again whether the owner is dead. Never by XAUTOCLAIM, which would take hours-long calls from
    /// live workers.
    async fn take_over(&mut self, room: usize) -> Result<usize, RedisStreamsError> {
        let mut taken = 0;
        self.held_up = false;
        for estate in self.io.estates.open() {
            let room = (room - taken).min(READ_COUNT);
            if room == 0 {
                break;
            }
            match self.claim(&estate, room).await {
                Ok(claimed) => taken += claimed,
                // The reader's own read finds that out, too, and creates the group anew.
                Err(RedisStreamsError::CommandRefused { answer, .. }) if answer.contains("NOGROUP") => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    async fn claim(&mut self, estate: &Estate, most: usize) -> Result<usize, RedisStreamsError> {
        let max_deliveries = self.io.config.settings().max_deliveries;
        let claim = claim(
            &self.io.destination,
            estate,
            most,
            max_deliveries,
            self.is_nobody_alone(),
        );
        let answer = self
            .io
            .connector
            .ask(&mut self.connection, "EVAL of the take-over", &claim)
            .await?
            .pop();
        let claimed = Claimed::read(answer.unwrap_or_default());
        self.held_up |= claimed.held_up;
        self.learn_boundary(claimed.boundary);
        let mut taken = 0;
        let mut packs = Vec::new();
        for ClaimedEntry {
            entry,
            deliveries,
            alone,
        } in claimed.entries
        {
            if entry.fields.is_empty() {
                // Deleted while it was pending: there is nothing left to run.
                self.endpoint.missed(1);
                continue;
            }
            tracing::info!(entry = %entry.id, from = estate.consumer, "took over a dead worker's entry");
            taken += 1;
            if alone {
                self.alone = Some((entry.id, Instant::now()));
            }
            match self.open_pack(entry, deliveries) {
                Ok(pack) => packs.push(pack),
                Err(entry) => self.deliver(entry, deliveries),
            }
        }
        // Last, because the connection may break here: what is not split by then is found by the next look.
        for pack in packs {
            self.split(pack).await?;
        }
        Ok(taken)
    }

    /// Whether no entry of those that are run for the last time is in hand, or it has been for long enough.
    fn is_nobody_alone(&self) -> bool {
        self.alone
            .is_none_or(|(entry, since)| !self.endpoint.holds(entry) || since.elapsed() >= ALONE_FOR)
    }

    /// The pack in an entry that was delivered before, unless it is none, or this worker still has it in hand: it has come back
    /// to one that was taken for dead.
    fn open_pack(&self, entry: Entry, deliveries: u32) -> Result<Pack, Entry> {
        if self.endpoint.holds(entry.id) {
            return Err(entry);
        }
        let history = self.history(entry.id, deliveries);
        Pack::open(entry, history, &self.io.clock)
    }

    async fn split(&mut self, mut pack: Pack) -> Result<(), RedisStreamsError> {
        let split = pack.split(&self.io.destination);
        match self
            .io
            .connector
            .ask(&mut self.connection, "EVAL that splits a pack", &split)
            .await
        {
            Ok(_) => {
                self.endpoint.expired(pack.expired);
                Ok(())
            }
            // Out of memory, say. Better run as it is than not at all.
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                self.io.warn_rarely("redis refuses to split an entry", &answer);
                self.deliver(pack.entry, pack.history.deliveries);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// By XPENDING and XRANGE, because a re-read by XREADGROUP would raise Redis's count of deliveries.
    async fn take_up_pending(&mut self) -> Result<(), RedisStreamsError> {
        let mut from = EntryId::ZERO;
        loop {
            // Taken before the question: what is settled and forgotten between the two is listed as pending, and is not
            // held any more. Only this reader adds to what is held.
            let held = self.endpoint.held();
            let to = &self.io.destination;
            let mut pending = redis::pipe();
            pending
                .cmd("XPENDING")
                .arg(&to.keys.requests)
                .arg(&to.group)
                .arg(from.to_string())
                .arg("+");
            pending.arg(PENDING_PAGE).arg(&to.consumer);
            let answer = self
                .io
                .connector
                .ask(&mut self.connection, "XPENDING", &pending)
                .await?
                .pop();
            let page: Vec<(EntryId, u32)> = entry::list(answer.unwrap_or_default())
                .into_iter()
                .filter_map(pending_entry)
                .collect();
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = last.next();
            for (id, deliveries) in page {
                if self.io.draining.is_cancelled() {
                    return Ok(());
                }
                if !held.contains(&id) && !self.endpoint.holds(id) {
                    self.take_up(id, deliveries).await?;
                }
            }
        }
    }

    async fn take_up(&mut self, id: EntryId, deliveries: u32) -> Result<(), RedisStreamsError> {
        const READ_PENDING: &str = "read a pending entry";
        if self.is_hopeless(id).await? {
            return Ok(());
        }
        let (to, id_text) = (&self.io.destination, id.to_string());
        let mut question = redis::pipe();
        let deliveries = if self.io.inherited.load(Ordering::Acquire) {
            question
                .cmd("XRANGE")
                .arg(&to.keys.requests)
                .arg(&id_text)
                .arg(&id_text);
            deliveries
        } else {
            // Left by a process of this name that has died, which is a take-over: it counts as one more delivery.
            question
                .cmd("XCLAIM")
                .arg(&to.keys.requests)
                .arg(&to.group)
                .arg(&to.consumer);
            question.arg(0).arg(&id_text);
            deliveries.saturating_add(1)
        };
        question.add_command(ask_boundary(to));
        let answers = self
            .io
            .connector
            .ask_raw(&mut self.connection, READ_PENDING, &question)
            .await;
        if let Err(RedisStreamsError::Command { .. }) = answers {
            self.unfetched.lost(id);
        }
        let mut answers = answers?.into_iter();
        let answer = answers.next().unwrap_or_default();
        if let Some((_, answer)) = entry::error(&answer) {
            let command = READ_PENDING;
            return Err(RedisStreamsError::CommandRefused { command, answer });
        }
        self.learn_boundary(answers.next().as_ref().and_then(entry::id));
        match entry::entries(answer).pop() {
            Some(entry) => match self.open_pack(entry, deliveries) {
                Ok(pack) => self.split(pack).await?,
                Err(entry) => self.deliver(entry, deliveries),
            },
            None => {
                // Trimmed or deleted by somebody: nothing is left to run, but it is not to be pending for ever.
                self.endpoint.missed(1);
                self.io.outbox.push(Message::Malformed {
                    entry: id,
                    reason: "the entry was deleted while it was pending".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether an entry is not to be fetched: Redis hangs up on each who does, because it is larger than an answer may be.
    /// Then it goes to the dead letters as it is, or all that is behind it would wait for ever.
    async fn is_hopeless(&mut self, id: EntryId) -> Result<bool, RedisStreamsError> {
        if !self.unfetched.is_suspicious(id) {
            return Ok(false);
        }
        let mut question = redis::pipe();
        question.cmd("EVAL").arg(SIZE).arg(1);
        question.arg(&self.io.destination.keys.requests).arg(id.to_string());
        let answer = self
            .io
            .connector
            .ask(&mut self.connection, "EVAL of the size of an entry", &question)
            .await?
            .pop();
        let size = answer.as_ref().and_then(entry::number).unwrap_or(0);
        // A small one is not the reason.
        if size < LARGE {
            return Ok(false);
        }
        if self.unfetched.give_up(id) {
            let reason = format!("redis hangs up on its {size} bytes; see its client-output-buffer-limit");
            tracing::error!(entry = %id, reason, "a dead letter");
            self.endpoint.malformed();
            self.io.outbox.push(Message::Malformed { entry: id, reason });
        }
        Ok(true)
    }

    /// Remembers this connection's id, by which a blocked read can be ended early when the channel drains.
    async fn note_client_id(&mut self) {
        let mut command = redis::cmd("CLIENT");
        command.arg("ID");
        let answer = self.connection.one(command, self.io.connector.connect_timeout()).await;
        // Without it (an ACL may forbid the command) a drain takes as long as a read blocks.
        let id = answer.ok().as_ref().and_then(entry::number).unwrap_or(0);
        self.io.estates.set_reader(id);
    }
}

/// A row of XPENDING: `[id, consumer, idle, deliveries]`.
fn pending_entry(row: Value) -> Option<(EntryId, u32)> {
    let row = entry::list(row);
    let deliveries = row.get(3).and_then(entry::number).unwrap_or(1);
    Some((entry::id(row.first()?)?, u32::try_from(deliveries).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_suspicious_after_three_losses_in_a_row_and_given_up_once() {
        let (one, two) = (EntryId { ms: 1, seq: 0 }, EntryId { ms: 2, seq: 0 });
        let mut unfetched = Unfetched::default();
        unfetched.lost(one);
        unfetched.lost(one);
        unfetched.lost(two);
        unfetched.lost(two);
        assert!(!unfetched.is_suspicious(two) && !unfetched.is_suspicious(one));
        unfetched.lost(two);
        assert!(unfetched.is_suspicious(two));
        assert!(unfetched.give_up(two));
        assert!(!unfetched.give_up(two) && unfetched.is_suspicious(two));
    }
}
