//! The one task that writes: everything queued goes out as one flush, and while that is in flight the next one fills.

mod selection;

use std::collections::HashSet;
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rpc_core::io::{Endpoint, SendFailure};
use rpc_core::message::Target;
use rpc_core::{IoError, Mode};
use tokio::time::{Instant, sleep, timeout};

use crate::backlog::Backlog;
use crate::commands::Commands;
use crate::connection::{Connection, WRITE_LIMIT};
use crate::error::RedisStreamsError;
use crate::flush::{Flush, Options};
use crate::mailbox::{Mailbox, Renewal};
use crate::meta::{self, Agreement};
use crate::outbox::{MAX_FLUSH_MESSAGES, Message, request_of};
use crate::parts;
use crate::report::Fate;
use crate::shared::{REFUSED_PAUSE, Shared};
use crate::turns::let_others_run;

use self::selection::is_to_stream;

/// After so many failures in a row messages are written one at a time.
const SUSPICIOUS: u32 = 2;

/// After so many, a message that is large is not written again.
const HOPELESS: u32 = 5;

/// What takes no time to write, however narrow the way.
const SMALL: usize = 4 << 10;

/// The most bytes that are written in front of a blocking read.
const MAX_FUSED: usize = 128 << 10;

/// How long answers that nobody waits for may be left where they are. Not less than a tick: a timer that is due before all
/// others costs a system call.
const LINGER: Duration = TICK;

/// How often the inbox is looked after, and what Redis refuses for good is tried again.
const TICK: Duration = Duration::from_millis(500);

/// How often, while there is no connection, what nobody waits for any more is forgotten.
const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// Owns the connection that writes.
pub(crate) struct Writer {
    io: Arc<Shared>,
    endpoint: Arc<dyn Endpoint>,
    connection: Connection,
    /// What is being written.
    commands: Commands,
    agreement: Agreement,
    /// Why requests are not written any more: servers have claimed the stream for something else.
    refused: Option<IoError>,
    /// How often in a row the connection was lost while it wrote.
    failures: u32,
    /// The last request that may have been written.
    last_sent: u64,
    /// Requests that are written again because the connection broke: they may have been taken at the first time.
    doubtful: HashSet<u64>,
    /// Of a work queue.
    backlog: Option<Backlog>,
    mailbox: Mailbox,
    /// Whether requests and settlements are to be written one by one, because Redis has refused them together.
    divided: bool,
    /// What Redis refuses for good.
    parked: Vec<Message>,
}

impl Writer {
    pub(crate) fn new(
        io: Arc<Shared>,
        endpoint: Arc<dyn Endpoint>,
        connection: Connection,
        agreement: Agreement,
    ) -> Self {
        let settings = io.config.settings();
        let is_queue = io.config.mode() == Mode::Group;
        Self {
            backlog: is_queue.then(|| Backlog::new(settings.max_backlog)),
            io,
            endpoint,
            connection,
            commands: Commands::default(),
            agreement,
            refused: None,
            failures: 0,
            last_sent: 0,
            doubtful: HashSet::new(),
            mailbox: Mailbox::new(agreement.began),
            divided: false,
            parked: Vec::new(),
        }
    }

    /// Writes until the IO is stopped.
    pub(crate) async fn run(mut self) {
        let mut tick = pin!(sleep(Duration::ZERO));
        // Whether the next tick is late, because there is nothing to look after.
        let mut rests = false;
        let io = Arc::clone(&self.io);
        let write = async {
            loop {
                tokio::select! {
                    () = io.outbox.filled() => {
                        if mem::take(&mut rests) {
                            tick.as_mut().reset(Instant::now() + TICK);
                        }
                        // Others who are ready to run may have something to add.
                        let_others_run().await;
                        self.flush().await;
                    }
                    () = tick.as_mut() => {
                        self.look_for_claim().await;
                        self.keep_inbox().await;
                        // It may have been mended.
                        self.io.outbox.settle(0, mem::take(&mut self.parked));
                        let pause = self.pause();
                        rests = pause > TICK;
                        tick.as_mut().reset(Instant::now() + pause);
                    }
                }
            }
        };
        io.stopped.run_until_cancelled(write).await;
    }

    /// When to look after things again, if nothing is written meanwhile. A process may have a thousand sessions that do nothing.
    fn pause(&self) -> Duration {
        match self.agreement.claimed || self.refused.is_some() {
            true => self
                .mailbox
                .rest(self.endpoint.in_flight() > 0, Instant::now())
                .max(TICK),
            false => TICK,
        }
    }

    async fn flush(&mut self) {
        // After repeated failures one message at a time: one that Redis never takes is not to hold up the others.
        let most = if self.failures < SUSPICIOUS {
            MAX_FLUSH_MESSAGES
        } else {
            1
        };
        let mut messages = self.io.outbox.take(most);
        let mut taken = messages.len();
        if messages.iter().any(is_to_stream) {
            self.watch_backlog().await;
        }
        if self.mailbox.is_lost() && messages.iter().any(|message| sequence_of(message).is_some()) {
            // What is answered must have somewhere to go.
            let renewal = self.mailbox.reopen(&self.io, &mut self.connection).await;
            self.renewed(renewal).await;
        }
        self.drop_unwanted(&mut messages);
        taken -= self.store_large(&mut messages);
        if self.failures >= HOPELESS {
            messages.iter_mut().for_each(|message| self.shrink(message));
        }
        // Until a server has claimed the stream it may become a work queue, which a client must not trim.
        let max_len = self
            .agreement
            .claimed
            .then(|| self.agreement.retention.max_len())
            .flatten();
        let now = Instant::now();
        let options = Options {
            max_len,
            max_pack: self.io.config.max_pack(),
            asks_length: self.backlog.as_ref().is_some_and(|backlog| backlog.is_look_due(now)),
            divided: mem::take(&mut self.divided),
        };
        let flush = Flush::new(messages, &self.io.destination, options, now, &mut self.commands);
        if flush.len() == 0 {
            return self.io.outbox.settle(taken, Vec::new());
        }
        self.last_sent = self.last_sent.max(flush.last_sequence);
        let requests = flush.requests();
        if requests > 0 {
            self.io.requests_written.store(requests, Ordering::Relaxed);
            self.io.replies_expected.notify_one();
        }
        let commands = &mut self.commands;
        // Whether nothing but the way and Redis takes time.
        let mut is_quick = commands.pieces().len() <= SMALL;
        // Not what is large: it would hold up what the reader is waiting for, and gain nothing.
        let fused = (commands.pieces().len() <= MAX_FUSED)
            .then(|| self.io.fuse.take())
            .flatten();
        let answers = match fused {
            Some(offer) => {
                let linger = LINGER.min(offer.block());
                let hurry = async {
                    // Either way it is time to look.
                    let _ = timeout(linger, self.io.outbox.filled()).await;
                };
                let idle = flush.size_of_idle_answers();
                is_quick &= idle.is_none();
                offer.write(commands, WRITE_LIMIT, idle, hurry).await
            }
            None => self.connection.ask(commands, WRITE_LIMIT).await,
        };
        if is_quick && answers.is_ok() {
            self.io.lane.note_answered(now);
        }
        // What was written is not to be held until there is something else to write.
        self.commands.clear();
        match answers {
            Ok(answers) => {
                self.failures = 0;
                let report = flush.read(answers);
                report.refused.iter().for_each(|request| self.remove_unwritten(request));
                report.unwanted.into_iter().for_each(|parts| self.io.remove(parts));
                self.tell(report.fates);
                if let Some(backlog) = &mut self.backlog {
                    backlog.wrote(requests, report.length, now);
                }
                self.divided = report.divide;
                // What is written again one by one is so at once.
                let pause = !report.again.is_empty() && !report.divide;
                let done = taken - report.again.len() - report.later.len();
                self.parked.extend(report.later);
                self.io.outbox.settle(done, report.again);
                if let Some(trouble) = report.trouble {
                    self.io.warn_rarely("redis refuses to write", &trouble);
                }
                if pause {
                    sleep(REFUSED_PAUSE).await;
                }
                if report.demoted {
                    self.reconnect().await;
                }
            }
            Err(broken) => {
                tracing::debug!(%broken, "the writing connection is lost");
                self.failures += 1;
                self.divided = options.divided;
                let report = flush.into_report();
                self.doubtful.retain(|sequence| self.endpoint.is_waiting(*sequence));
                self.doubtful.extend(report.again.iter().filter_map(sequence_of));
                self.tell(report.fates);
                self.io.outbox.settle(taken - report.again.len(), report.again);
                self.reconnect().await;
            }
        }
    }

    /// Asks, when it is time, whether too much waits in the stream.
    async fn watch_backlog(&mut self) {
        let io = &self.io;
        let due = |backlog: &&mut Backlog| backlog.is_question_due(Instant::now());
        let Some(backlog) = self.backlog.as_mut().filter(due) else {
            return;
        };
        match backlog
            .ask(&mut self.connection, &io.connector, &io.destination.keys)
            .await
        {
            Ok(()) => {}
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                io.warn_rarely("redis does not say how much waits in the stream", &answer);
            }
            Err(error) => {
                tracing::debug!(%error, "the writing connection is lost");
                self.reconnect().await;
            }
        }
    }

    fn tell(&self, fates: Vec<Fate>) {
        for fate in fates {
            match fate {
                Fate::Accepted(sequence) => self.endpoint.accepted(sequence),
                Fate::Failed(sequence, target, failure) => self.fail(sequence, target, failure),
                Fate::Confirmed(entry) => {
                    parts::remove_settled(&self.io, entry);
                    self.endpoint.confirmed(entry);
                }
            }
        }
    }

    /// A request was refused. Of one that has been written before, that says nothing about the first time.
    fn fail(&self, sequence: u64, target: Target, failure: SendFailure) {
        let failure = if self.doubtful.contains(&sequence) {
            let why = match failure {
                SendFailure::NotSent(error) => error.to_string(),
                SendFailure::Overloaded(why) | SendFailure::Indeterminate(why) => why,
                _ => "its session is gone".to_owned(),
            };
            SendFailure::Indeterminate(format!(
                "the connection broke while the call was sent, and when it was sent again: {why}"
            ))
        } else {
            failure
        };
        self.endpoint.failed(sequence, target, failure);
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
            Err(
                mismatch @ (RedisStreamsError::ModeMismatch { .. }
                | RedisStreamsError::RetentionMismatch { .. }
                | RedisStreamsError::WireVersion { .. }),
            ) => {
                tracing::error!(error = %mismatch, "requests are refused from now on");
                self.refused = Some(mismatch.into());
            }
            Err(error) => tracing::debug!(%error, "it is not known yet what the stream is used for"),
        }
    }

    /// Connects again, until the inbox has been looked after: it may have gone with a restart, which is to be known before
    /// anything is sent that would be answered there.
    async fn reconnect(&mut self) {
        let io = Arc::clone(&self.io);
        let purge = async {
            loop {
                sleep(PURGE_PAUSE).await;
                io.purge_outbox();
            }
        };
        tokio::select! {
            () = self.connect_anew() => {}
            () = purge => {}
        }
    }

    async fn connect_anew(&mut self) {
        loop {
            self.connection = self.io.connector.reconnect("writer").await;
            match self.mailbox.renew(&self.io, &mut self.connection).await {
                Ok(renewal) => return self.note(renewal),
                Err(error) => tracing::debug!(%error, "the writing connection is lost"),
            }
            sleep(REFUSED_PAUSE).await;
        }
    }

    async fn keep_inbox(&mut self) {
        let somebody_waits = self.endpoint.in_flight() > 0;
        if self.mailbox.rest(somebody_waits, Instant::now()).is_zero() {
            let renewal = self.mailbox.renew(&self.io, &mut self.connection).await;
            self.renewed(renewal).await;
        }
    }

    async fn renewed(&mut self, renewal: Result<Renewal, RedisStreamsError>) {
        match renewal {
            Ok(renewal) => self.note(renewal),
            Err(error) => {
                tracing::debug!(%error, "the writing connection is lost");
                self.reconnect().await;
            }
        }
    }

    fn note(&self, renewal: Renewal) {
        match renewal {
            Renewal::Kept => {}
            Renewal::Reopened => {
                let why = "the inbox was lost while the call waited (redis has lost data, or somebody deleted it), and a reply with it";
                self.endpoint.replies_lost(self.last_sent, why);
            }
            Renewal::Replaced => {
                let why = "the stream was deleted while the call waited, and the call with it";
                self.endpoint.requests_lost(self.last_sent, why);
            }
        }
    }
}

fn sequence_of(message: &Message) -> Option<u64> {
    request_of(message).map(|request| request.sequence)
}
