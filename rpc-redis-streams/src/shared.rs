//! What the tasks of one IO share.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Pipeline;
use rpc_core::SessionId;
use rpc_core::io::Endpoint;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::commands::Commands;
use crate::config::Config;
use crate::connection::Connection;
use crate::connector::{ANSWER_LIMIT, Connector};
use crate::cursor::Cursor;
use crate::destination::Destination;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::fuse::Fuse;
use crate::heartbeat::Heartbeat;
use crate::keys::Keys;
use crate::lasting::Lasting;
use crate::meta::{self, Agreement};
use crate::outbox::{Message, Outbox, Question};
use crate::parts::{Lane, LargeReplies, Taken};
use crate::registry::Registration;
use crate::report::is_passing;
use crate::resp::Value;
use crate::takeover::Estates;

/// How much longer than it may block a read can stay unanswered before its connection counts as dead.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(1);

/// How many bytes the commands of a blocking read have, but for long names.
pub(crate) const READ_SIZE: usize = 384;

/// How soon what Redis refused is tried again.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// How long a read blocks: for `most`, or until something else is to be done. BLOCK 0 would be for ever.
pub(crate) fn block_for(most: Duration, until: Option<Duration>) -> Duration {
    until
        .map_or(most, |until| until.min(most))
        .max(Duration::from_millis(1))
}

/// One IO, as its tasks see it.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) connector: Connector,
    pub(crate) destination: Destination,
    /// As it was found on connecting.
    pub(crate) agreement: Agreement,
    pub(crate) outbox: Outbox,
    pub(crate) lane: Lane,
    pub(crate) large_replies: LargeReplies,
    pub(crate) taken: Taken,
    /// Where the reader that has most to do with what is written offers its connection.
    pub(crate) fuse: Fuse,
    /// How many entries of requests were last written at once.
    pub(crate) requests_written: AtomicUsize,
    /// Signalled when requests are written.
    pub(crate) replies_expected: Notify,
    pub(crate) clock: Clock,
    /// How far the inbox has been read.
    pub(crate) inbox_cursor: Cursor,
    /// What dead workers have left to be taken over.
    pub(crate) estates: Arc<Estates>,
    /// Whether what a process of the same name may have left has been taken up: from then on, whatever is pending for this
    /// consumer was handed to this very process.
    pub(crate) inherited: AtomicBool,
    /// Held while entries that were read are handed to the channel.
    pub(crate) delivering: Mutex<()>,
    /// No more requests are to be read.
    pub(crate) draining: CancellationToken,
    /// The group's reader has ended.
    pub(crate) group_drained: CancellationToken,
    /// Everything ends.
    pub(crate) stopped: CancellationToken,
    /// For commands that are not of the hot path; opened when it is first needed.
    management: tokio::sync::Mutex<Option<Connection>>,
    /// From `connect` to `open`, which makes it the writer's.
    pub(crate) first_connection: Mutex<Option<Connection>>,
    server: Mutex<Option<Server>>,
    /// While the channel is open: to look which requests are still waited for.
    endpoint: Mutex<Option<Arc<dyn Endpoint>>>,
    pub(crate) opened: AtomicBool,
    /// By what is said of it.
    troubles: Mutex<HashMap<&'static str, Lasting>>,
    /// When Redis was last seen to take no writes.
    writes_refused: Mutex<Option<Instant>>,
}

/// What only a channel that serves has.
pub(crate) struct Server {
    pub(crate) registration: Registration,
    pub(crate) heartbeat: Heartbeat,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        connector: Connector,
        keys: Keys,
        agreement: Agreement,
        connection: Connection,
    ) -> Self {
        Self {
            destination: Destination {
                keys,
                session: config.session_or_fresh(),
                group: config.group().to_owned(),
                consumer: config.consumer_or_fresh(),
            },
            connector,
            agreement,
            outbox: Outbox::default(),
            lane: Lane::default(),
            large_replies: LargeReplies::default(),
            taken: Taken::default(),
            fuse: Fuse::default(),
            requests_written: AtomicUsize::new(0),
            replies_expected: Notify::new(),
            clock: Clock::new(),
            inbox_cursor: Cursor::default(),
            estates: Arc::default(),
            inherited: AtomicBool::new(false),
            delivering: Mutex::new(()),
            draining: CancellationToken::new(),
            group_drained: CancellationToken::new(),
            stopped: CancellationToken::new(),
            management: tokio::sync::Mutex::new(None),
            first_connection: Mutex::new(Some(connection)),
            server: Mutex::new(None),
            endpoint: Mutex::new(None),
            opened: AtomicBool::new(false),
            troubles: Mutex::default(),
            writes_refused: Mutex::new(None),
            config,
        }
    }

    pub(crate) fn session(&self) -> SessionId {
        self.destination.session
    }

    /// Asks a short question along with what the writer writes: a client that asks again and again is not to need one more
    /// connection for it.
    pub(crate) async fn ask(
        &self,
        command: &'static str,
        questions: Pipeline,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        let mut commands = Commands::default();
        for question in questions.cmd_iter() {
            commands.add(question);
        }
        self.ask_for(command, commands).await
    }

    /// The same, of questions that are written already.
    pub(crate) async fn ask_for(
        &self,
        command: &'static str,
        questions: Commands,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        if self.endpoint().is_none() {
            return Err(RedisStreamsError::NotOpen);
        }
        let (answer, answers) = oneshot::channel();
        self.outbox.push(Message::Ask(Question {
            commands: questions,
            answer: Some(answer),
        }));
        match timeout(ANSWER_LIMIT, answers).await {
            Ok(Ok(answers)) => entry::accepted(command, answers),
            // There is no writer any more.
            Ok(Err(_)) => Err(RedisStreamsError::NotOpen),
            Err(_) => Err(RedisStreamsError::Command {
                command,
                error: io::ErrorKind::TimedOut.into(),
            }),
        }
    }

    /// Has commands written whose answers are of no interest.
    pub(crate) fn tell(&self, commands: Commands) {
        self.outbox.push(Message::Ask(Question { commands, answer: None }));
    }

    /// Whether servers may be silent because Redis takes no writes, or took none a moment ago: out of memory, say. Then
    /// nobody is dead for it.
    ///
    /// HSETNX of what is there already: refused like a beat, and otherwise without effect.
    pub(crate) async fn cannot_beat(&self) -> bool {
        let mut probe = redis::pipe();
        probe
            .cmd("HSETNX")
            .arg(&self.destination.keys.meta)
            .arg("version")
            .arg(meta::WIRE_VERSION);
        let answer = self.ask("HSETNX of the wire version", probe).await;
        let mut refused = self.writes_refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(RedisStreamsError::CommandRefused { answer, .. }) = answer
            && is_passing(entry::code_of(&answer))
        {
            *refused = Some(Instant::now());
        }
        // A beat that was refused is made up for by the next, over a new connection.
        let a_moment = 3 * self.config.heartbeat_interval();
        refused.is_some_and(|last| last.elapsed() < a_moment)
    }

    /// Runs `command` on the connection for management, which is opened when it is needed and dropped when it fails.
    pub(crate) async fn manage<T>(
        &self,
        command: impl AsyncFnOnce(&mut Connection) -> Result<T, RedisStreamsError>,
    ) -> Result<T, RedisStreamsError> {
        let mut slot = self.management.lock().await;
        // Taken out while in use: whoever is cancelled in here leaves none behind that could give his answer to another.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        let result = command(&mut connection).await;
        if !matches!(
            result,
            Err(RedisStreamsError::Command { .. } | RedisStreamsError::Timeout { .. })
        ) {
            *slot = Some(connection);
        }
        result
    }

    /// Reports trouble that may come by the thousand.
    pub(crate) fn warn_rarely(&self, what: &'static str, why: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = troubles.entry(what).or_default().is_due();
        drop(troubles);
        if is_due {
            tracing::warn!(stream = self.destination.keys.requests, why, "{what}");
        }
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn endpoint(&self) -> MutexGuard<'_, Option<Arc<dyn Endpoint>>> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all tasks, and the heartbeat.
    pub(crate) fn abort(&self) {
        self.draining.cancel();
        self.stopped.cancel();
        self.server().take();
        // The endpoint holds the channel, which holds this IO.
        self.endpoint().take();
    }

    /// Forgets requests that nobody waits for any more: while Redis is away, they would pile up.
    pub(crate) fn purge_outbox(&self) {
        if let Some(endpoint) = self.endpoint().clone() {
            self.outbox
                .forget_unless(|request| endpoint.is_waiting(request.sequence));
        }
    }
}
