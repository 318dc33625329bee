//! The IO itself: opens, wires up and closes what the other modules do.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rpc_core::io::{Claim, Endpoint, KeyedRun, Outgoing, Peer};
use rpc_core::message::{Fault, FaultKind};
use rpc_core::{ChannelSettings, IoError, Mode, Payload, RpcIo, ServiceDescriptor, SessionId};
use tokio::time::timeout;

use crate::backlog;
use crate::busy_poll;
use crate::config::Config;
use crate::connector::Connector;
use crate::dedupe;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::group::GroupReader;
use crate::inbox::{InboxReader, reads_stream};
use crate::keys::Keys;
use crate::lifeline;
use crate::meta;
use crate::outbox::Message;
use crate::registry::{self, LIST_SERVERS, Servers};
use crate::report::is_passing;
use crate::shared::Shared;
use crate::subscription::Subscription;
use crate::writer::Writer;

/// How long `close` waits for Redis to take the last replies, and then to leave the registry: also when it does not take them,
/// or what had not begun would count as begun.
const REPLIES_LIMIT: Duration = Duration::from_secs(4);
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// At each multiple of so many waiting messages, those that nobody waits for are forgotten.
const PURGE_EVERY: usize = 4096;

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
    pub(crate) inner: Arc<Shared>,
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
        let inner = Shared::new(config, connector, keys, agreement, connection);
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
    /// Those that have been silent for this IO's `death_time` count as dead.
    ///
    /// HGETALL, TIME and ZRANGE: two round trips on a connection of its own.
    ///
    /// # Errors
    /// When Redis cannot be asked.
    pub async fn workers(&self) -> Result<Vec<Peer>, RedisStreamsError> {
        let inner = &self.inner;
        inner
            .manage(async |connection| {
                let death_time = inner.config.death_time();
                registry::peers(connection, &inner.connector, &inner.destination.keys, death_time).await
            })
            .await
    }
}

#[async_trait]
impl RpcIo for RedisStreamsIo {
    fn session(&self) -> SessionId {
        self.inner.session()
    }

    fn stream(&self) -> &str {
        self.inner.config.stream()
    }

    fn mode(&self) -> Mode {
        self.inner.config.mode()
    }

    fn settings(&self) -> ChannelSettings {
        self.inner.config.settings()
    }

    async fn open(&self, endpoint: Arc<dyn Endpoint>, services: &[&'static ServiceDescriptor]) -> Result<(), IoError> {
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
        if io.sync_clock(&mut connection).await.is_err() {
            // Lost since `connect`, which may have been long ago.
            connection = io.connector.connect().await?;
            io.sync_clock(&mut connection).await?;
        }
        // All anchors are taken before anything is announced: from here on nothing is missed.
        let obeys = io.config.settings().obey_close_signal;
        let control = if serves || obeys {
            Some(io.last_id(&mut connection, &io.destination.keys.control).await?)
        } else {
            None
        };
        let stream = if reads_stream(io.config.mode(), serves) {
            Some(Subscription::start(io, &mut connection).await?)
        } else {
            None
        };
        io.inbox_cursor.set(io.open_inbox(&mut connection).await?);
        let reader = io.connector.connect().await?;
        let works = serves && io.config.mode() == Mode::Group;
        let mut inbox_reader = InboxReader::new(Arc::clone(io), endpoint.clone(), reader, control, stream, !works);
        if serves {
            // Before any request is read: one that was given up is not to start.
            inbox_reader.catch_up().await?;
        }
        let group_reader = if works {
            Some(io.connector.connect().await?)
        } else {
            None
        };
        let agreement = if serves {
            io.register(&mut connection, services, endpoint.clone()).await?
        } else {
            io.agreement
        };

        *io.endpoint() = Some(endpoint.clone());
        match group_reader {
            Some(connection) => {
                lifeline::spawn(io, GroupReader::new(Arc::clone(io), endpoint.clone(), connection).run());
            }
            None => io.group_drained.cancel(),
        }
        lifeline::spawn(io, inbox_reader.run());
        lifeline::spawn(io, busy_poll::run(Arc::clone(io), endpoint.clone()));
        lifeline::spawn(io, Writer::new(Arc::clone(io), endpoint, connection, agreement).run());
        Ok(())
    }

    fn send(&self, message: Outgoing) {
        let waiting = self.inner.outbox.push(Message::Outgoing(message));
        if waiting.is_multiple_of(PURGE_EVERY) {
            self.inner.purge_outbox();
        }
    }

    async fn peers(&self) -> Result<Vec<Peer>, IoError> {
        let inner = &self.inner;
        let keys = &inner.destination.keys;
        let servers = Servers::read(inner.ask(LIST_SERVERS, Servers::question(keys)).await?);
        let beats = inner.ask(LIST_SERVERS, servers.beats_question(keys)).await?;
        let mut peers = servers.peers(keys, beats, inner.config.death_time());
        if !peers.is_empty() && peers.iter().all(|peer| !peer.alive) {
            // They may not have found their way back yet, or Redis takes no beats.
            let back = inner.connector.came_back(2 * inner.config.heartbeat_interval());
            if back || inner.cannot_beat().await {
                peers.iter_mut().for_each(|peer| peer.alive = true);
            }
        }
        Ok(peers)
    }

    async fn backlog(&self) -> Result<Option<u64>, IoError> {
        let inner = &self.inner;
        if inner.config.mode() == Mode::Broadcast {
            return Ok(None);
        }
        let question = backlog::question(&inner.destination.keys);
        Ok(backlog::longest(inner.ask(backlog::GROUPS, question).await?)?)
    }

    fn trouble(&self) -> Option<String> {
        self.inner.connector.trouble()
    }

    async fn fetch(&self, arguments: &Payload) -> Result<Payload, Fault> {
        let fetched = self.inner.fetch(arguments, || true).await;
        fetched.map_err(|why| {
            // An earlier attempt may have had them.
            let why = format!("its arguments cannot be had: {why}");
            Fault::new(FaultKind::Indeterminate, why)
        })
    }

    async fn claim(&self, run: &KeyedRun) -> Result<Claim, IoError> {
        let io = &self.inner;
        let mut claim = redis::pipe();
        claim.add_command(dedupe::claim(&io.destination, run, &io.estates.dead()));
        let answer = match io.ask(dedupe::COMMAND, claim).await {
            // An ACL, or a key of another type: it will not pass by itself.
            Err(RedisStreamsError::CommandRefused { answer, .. }) if !is_passing(entry::code_of(&answer)) => {
                return Ok(Claim::Refused(answer));
            }
            other => other?.pop(),
        };
        Ok(dedupe::read(answer.unwrap_or_default())?)
    }

    async fn drain(&self) {
        self.inner.draining.cancel();
        // A batch that is being handed out has looked at `draining` before.
        drop(self.inner.delivering.lock());
        self.inner.unblock_group_reader().await;
        self.inner.group_drained.cancelled().await;
    }

    async fn close(&self) {
        if timeout(REPLIES_LIMIT, self.inner.outbox.idle()).await.is_err() {
            tracing::warn!("closed before redis had taken everything; what is pending will be run again");
        }
        match timeout(LEAVE_LIMIT, self.inner.deregister()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "closed without deregistering; the registry will notice"),
            Err(_) => tracing::warn!("closed without deregistering: redis does not answer; the registry will notice"),
        }
        self.abort();
    }

    fn abort(&self) {
        self.inner.abort();
    }
}

impl fmt::Debug for RedisStreamsIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStreamsIo")
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
