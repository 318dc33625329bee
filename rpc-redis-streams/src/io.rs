//! The IO itself: opens, wires up and closes what the other modules do.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rpc_core::io::{Endpoint, Outgoing, Peer};
use rpc_core::{ChannelSettings, EntryId, IoError, Mode, RpcIo, ServiceDescriptor, SessionId};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Config, Start};
use crate::connection::{Connection, Connector};
use crate::entry;
use crate::error::RedisStreamsError;
use crate::flush::Destination;
use crate::group::GroupReader;
use crate::heartbeat::{Heartbeat, Pulse};
use crate::inbound::Cursor;
use crate::inbox::{InboxReader, last_id, reads_stream};
use crate::keys::Keys;
use crate::meta::{self, Agreement, ask};
use crate::outbox::{Message, Outbox};
use crate::registry::{self, Registration};
use crate::wire;
use crate::writer::{INBOX_TTL, Writer};

/// How much longer than it may block a read can stay unanswered before its connection counts as dead.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(1);

/// How long `close` waits for Redis to take the last replies.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How often the same kind of trouble is reported.
const WARN_INTERVAL_MS: u64 = 5_000;

/// The IO of one channel on one stream of a Redis server. A cheap clone, so that one can be kept for management while
/// the other is in the channel.
///
/// ```no_run
/// use rpc_core::{RpcChannel, service};
/// use rpc_redis_streams::{Config, RedisStreamsIo};
///
/// #[service]
/// trait Greeter {
///     async fn greet(&self, name: String) -> String;
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::builder().url("redis://127.0.0.1:6379").stream("greeter").group("workers").build()?;
/// let channel = RpcChannel::open(RedisStreamsIo::connect(config).await?).await?;
/// let greeting = GreeterClient::new(&channel).greet("Ada".to_owned()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStreamsIo {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) connector: Connector,
    pub(crate) destination: Destination,
    /// As it was found on connecting.
    agreement: Agreement,
    pub(crate) outbox: Outbox,
    pub(crate) clock: Clock,
    /// How far the inbox has been read.
    pub(crate) inbox_cursor: Cursor,
    /// The client id of the connection that blocks in XREADGROUP; zero when not known.
    pub(crate) group_client: AtomicU64,
    /// No more requests are to be read.
    pub(crate) draining: CancellationToken,
    /// The group's reader has ended.
    pub(crate) group_drained: CancellationToken,
    /// Everything ends.
    pub(crate) stopped: CancellationToken,
    /// For commands that are not of the hot path; opened when it is first needed.
    management: tokio::sync::Mutex<Option<Connection>>,
    /// From `connect` to `open`, which makes it the writer's.
    first_connection: Mutex<Option<Connection>>,
    server: Mutex<Option<Server>>,
    opened: AtomicBool,
    started: Instant,
    warned_ms: AtomicU64,
}

/// What only a channel that serves has.
struct Server {
    registration: Registration,
    _heartbeat: Heartbeat,
}

impl RedisStreamsIo {
    /// Connects to Redis and looks whether the stream can be used as configured.
    ///
    /// One attempt, within `connect_timeout`; a connection that is lost later is re-established for as long as it takes.
    ///
    /// # Errors
    /// When the server cannot be reached or used, or the stream is used in another mode: the error says what to do.
    pub async fn connect(config: Config) -> Result<Self, RedisStreamsError> {
        let connector = Connector::new(&config);
        let keys = Keys::new(config.stream());
        let mut connection = connector.connect().await?;
        let agreement = meta::check(&mut connection, &connector, &config, &keys).await?;
        let inner = Inner {
            destination: Destination {
                keys,
                session: config.session_or_fresh(),
                group: config.group().to_owned(),
                consumer: config.consumer_or_fresh(),
            },
            connector,
            agreement,
            outbox: Outbox::default(),
            clock: Clock::new(),
            inbox_cursor: Cursor::default(),
            group_client: AtomicU64::new(0),
            draining: CancellationToken::new(),
            group_drained: CancellationToken::new(),
            stopped: CancellationToken::new(),
            management: tokio::sync::Mutex::new(None),
            first_connection: Mutex::new(Some(connection)),
            server: Mutex::new(None),
            opened: AtomicBool::new(false),
            started: Instant::now(),
            warned_ms: AtomicU64::new(0),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The stream that carries the requests.
    #[must_use]
    pub fn stream(&self) -> &str {
        self.inner.config.stream()
    }

    /// The group, and the name of this consumer in it; `None` in broadcast mode.
    #[must_use]
    pub fn consumer(&self) -> Option<(&str, &str)> {
        let to = &self.inner.destination;
        (self.inner.config.mode() == Mode::Group).then_some((&to.group, &to.consumer))
    }

    /// The session, to which replies are addressed.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.inner.session()
    }

    /// The servers registered under the stream, live or dead, with the time since they were last heard of.
    ///
    /// HGETALL, TIME and ZRANGE: two round trips on a connection of its own.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn workers(&self) -> Result<Vec<Peer>, RedisStreamsError> {
        let inner = &self.inner;
        inner
            .manage(async |connection| registry::peers(connection, &inner.connector, &inner.destination.keys).await)
            .await
    }
}

impl Inner {
    pub(crate) fn session(&self) -> SessionId {
        self.destination.session
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

    /// Reports trouble that may come by the thousand, at most every few seconds.
    pub(crate) fn warn_rarely(&self, what: &str, why: &str) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX) + WARN_INTERVAL_MS;
        let last = self.warned_ms.load(Ordering::Relaxed);
        let due = now - last >= WARN_INTERVAL_MS;
        if due
            && self
                .warned_ms
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(stream = self.destination.keys.requests, why, "{what}");
        }
    }

    /// Creates the inbox; returns the id from which it is to be read.
    pub(crate) async fn open_inbox(&self, connection: &mut Connection) -> Result<EntryId, RedisStreamsError> {
        let inbox = self.destination.keys.inbox(self.session());
        let mut open = redis::pipe();
        open.cmd("XADD")
            .arg(&inbox)
            .arg("*")
            .arg(wire::FIELD)
            .arg(wire::hello(self.session()));
        open.cmd("PEXPIRE").arg(&inbox).arg(INBOX_TTL.as_millis() as u64);
        let answers = ask(connection, &self.connector, "open the inbox", &open).await?;
        let answer = answers.into_iter().next().unwrap_or_default();
        entry::id(&answer).ok_or_else(|| RedisStreamsError::unexpected("XADD to the inbox", answer))
    }

    /// Creates the group, and the stream if need be, unless they exist. It starts at the settled floor; at zero when the
    /// stream has none, so that what was sent before the first worker came is run.
    pub(crate) async fn create_group(&self, connection: &mut Connection) -> Result<(), RedisStreamsError> {
        let to = &self.destination;
        let floor = meta::floor(connection, &self.connector, &to.keys).await?;
        // A group reads what comes after its start.
        let start = floor.map_or(EntryId::ZERO, EntryId::previous);
        let mut create = redis::pipe();
        create.cmd("XGROUP").arg("CREATE").arg(&to.keys.requests).arg(&to.group);
        create.arg(start.to_string()).arg("MKSTREAM");
        let answer = ask(connection, &self.connector, "XGROUP CREATE", &create).await?.pop();
        match answer.as_ref().and_then(entry::error) {
            None | Some(("BUSYGROUP", _)) => Ok(()),
            Some((_, text)) => Err(RedisStreamsError::unexpected("XGROUP CREATE", text)),
        }
    }

    /// Sets the clock by Redis's.
    async fn sync_clock(&self, connection: &mut Connection) -> Result<(), RedisStreamsError> {
        let mut time = redis::pipe();
        time.cmd("TIME");
        let asked = Instant::now();
        let answer = ask(connection, &self.connector, "TIME", &time).await?.pop();
        if let Some(now_ms) = answer.and_then(entry::time_ms) {
            self.clock.set(now_ms, asked);
        }
        Ok(())
    }

    /// From where a broadcast subscriber reads the stream.
    async fn stream_start(&self, connection: &mut Connection) -> Result<EntryId, RedisStreamsError> {
        match self.config.start() {
            Start::Beginning => Ok(EntryId::ZERO),
            Start::After(id) => Ok(id),
            Start::Now => self.last_id(connection, &self.destination.keys.requests).await,
        }
    }

    async fn last_id(&self, connection: &mut Connection, key: &str) -> Result<EntryId, RedisStreamsError> {
        let limit = self.connector.connect_timeout();
        last_id(connection, key, limit)
            .await
            .map_err(|broken| RedisStreamsError::unexpected("XINFO STREAM", broken.to_string()))
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes this channel a server: claims the stream, creates the group, registers, and starts to beat.
    async fn register(
        &self,
        connection: &mut Connection,
        services: &[&'static ServiceDescriptor],
    ) -> Result<Agreement, RedisStreamsError> {
        let (keys, config) = (&self.destination.keys, &self.config);
        let agreement = meta::claim(connection, &self.connector, config, keys).await?;
        if config.mode() == Mode::Group {
            self.create_group(connection).await?;
        }
        let names = services.iter().map(|service| service.name().to_owned()).collect();
        let registration = Registration::new(
            self.session(),
            config.mode(),
            config.group(),
            &self.destination.consumer,
            names,
        );
        let beat = registration.beat(keys, self.clock.now_ms());
        ask(connection, &self.connector, "register", &beat).await?;
        let heartbeat = Heartbeat::start(Pulse {
            connector: self.connector.clone(),
            keys: keys.clone(),
            registration: registration.clone(),
            mode: config.mode(),
            retention: agreement.retention,
            clock: self.clock.clone(),
        })
        .map_err(|error| RedisStreamsError::unexpected("start the heartbeat", error))?;
        *self.server() = Some(Server {
            registration,
            _heartbeat: heartbeat,
        });
        Ok(agreement)
    }

    /// Ends a read that blocks, by CLIENT UNBLOCK, so that a drain need not wait it out.
    async fn unblock_group_reader(&self) {
        while !self.group_drained.is_cancelled() {
            let id = self.group_client.load(Ordering::Acquire);
            if id != 0 {
                let mut unblock = redis::pipe();
                unblock.cmd("CLIENT").arg("UNBLOCK").arg(id);
                let answer = self
                    .manage(async |connection| ask(connection, &self.connector, "CLIENT UNBLOCK", &unblock).await)
                    .await;
                if let Err(error) = answer {
                    tracing::debug!(%error, "the group's reader cannot be unblocked; its read is waited out");
                    return;
                }
            }
            // Again, because the reader may have been between two reads.
            let _ = timeout(Duration::from_millis(50), self.group_drained.cancelled()).await;
        }
    }

    /// Leaves the registry and takes its own keys along.
    async fn deregister(&self) -> Result<(), RedisStreamsError> {
        let (to, server) = (&self.destination, self.server().take());
        let mut leave = redis::pipe();
        if let Some(server) = &server {
            leave = server.registration.leave(&to.keys);
            if self.config.mode() == Mode::Group {
                leave.cmd("EVAL").arg(DELETE_IDLE_CONSUMER).arg(1);
                leave.arg(&to.keys.requests).arg(&to.group).arg(&to.consumer);
            }
        }
        leave.cmd("DEL").arg(to.keys.inbox(self.session()));
        self.manage(async |connection| ask(connection, &self.connector, "deregister", &leave).await)
            .await
            .map(|_| ())
    }
}

/// Deletes a consumer that has nothing pending. In one step: DELCONSUMER destroys what is pending.
const DELETE_IDLE_CONSUMER: &str = "\
    if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then \
        return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) \
    end";

#[async_trait]
impl RpcIo for RedisStreamsIo {
    fn session(&self) -> SessionId {
        self.inner.session()
    }

    fn mode(&self) -> Mode {
        self.inner.config.mode()
    }

    fn settings(&self) -> ChannelSettings {
        self.inner.config.settings()
    }

    async fn open(&self, endpoint: Endpoint, services: &[&'static ServiceDescriptor]) -> Result<(), IoError> {
        let io = &self.inner;
        if io.opened.swap(true, Ordering::AcqRel) {
            return Err(RedisStreamsError::InUse.into());
        }
        let first = io
            .first_connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut connection = match first {
            Some(connection) => connection,
            None => io.connector.connect().await?,
        };
        let serves = !services.is_empty();
        io.sync_clock(&mut connection).await?;
        // All anchors are taken before anything is announced: from here on nothing is missed.
        let obeys = io.config.settings().obey_close_signal;
        let control = if serves || obeys {
            Some(io.last_id(&mut connection, &io.destination.keys.control).await?)
        } else {
            None
        };
        let stream = if reads_stream(io.config.mode(), serves) {
            Some(io.stream_start(&mut connection).await?)
        } else {
            None
        };
        io.inbox_cursor.set(io.open_inbox(&mut connection).await?);
        let reader = io.connector.connect().await?;
        let works = serves && io.config.mode() == Mode::Group;
        let group_reader = if works {
            Some(io.connector.connect().await?)
        } else {
            None
        };
        let agreement = if serves {
            io.register(&mut connection, services).await?
        } else {
            io.agreement
        };

        match group_reader {
            Some(connection) => {
                tokio::spawn(GroupReader::new(Arc::clone(io), endpoint.clone(), connection).run());
            }
            None => io.group_drained.cancel(),
        }
        tokio::spawn(InboxReader::new(Arc::clone(io), endpoint.clone(), reader, control, stream).run());
        tokio::spawn(Writer::new(Arc::clone(io), endpoint, connection, agreement).run());
        Ok(())
    }

    fn send(&self, message: Outgoing) {
        self.inner.outbox.push(Message::Outgoing(message));
    }

    async fn peers(&self) -> Result<Vec<Peer>, IoError> {
        Ok(self.workers().await?)
    }

    async fn drain(&self) {
        self.inner.draining.cancel();
        self.inner.unblock_group_reader().await;
        self.inner.group_drained.cancelled().await;
    }

    async fn close(&self) {
        let closing = async {
            self.inner.outbox.idle().await;
            self.inner.deregister().await
        };
        match timeout(CLOSE_LIMIT, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "closed without deregistering; the registry will notice"),
            Err(_) => tracing::warn!("closed before redis had taken everything; what is pending will be run again"),
        }
        self.abort();
    }

    fn abort(&self) {
        self.inner.draining.cancel();
        self.inner.stopped.cancel();
        self.inner.server().take();
    }
}

impl fmt::Debug for RedisStreamsIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreamsIo")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
