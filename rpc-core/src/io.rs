//! The seam between channels and what carries their messages.
//!
//! A channel decides *what* happens to a message: which handler runs it, what is dropped, refused or answered. An
//! [`RpcIo`] only moves messages: it takes [`Outgoing`] ones, hands what arrives to its [`Endpoint`], and says who else
//! is there. So every IO obeys the same delivery rules.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::error::IoError;
use crate::id::{EntryId, SessionId};
use crate::message::{Reply, Request, Target};
use crate::service::ServiceDescriptor;

pub use crate::endpoint::Endpoint;

/// Carries the messages of one channel.
#[async_trait]
pub trait RpcIo: fmt::Debug + Send + Sync + 'static {
    /// The session of the channel that this IO carries.
    fn session(&self) -> SessionId;

    /// How servers read the stream.
    fn mode(&self) -> Mode;

    /// The bounds and defaults of the channel.
    fn settings(&self) -> ChannelSettings;

    /// Starts handing what arrives to `endpoint`. Called once, before everything else.
    ///
    /// `services` are those that everybody on the stream can call: requests are read from it only if there are any. After this returns, nothing addressed to the session and no
    /// request sent to the stream is missed.
    async fn open(&self, endpoint: Endpoint, services: &[&'static ServiceDescriptor]) -> Result<(), IoError>;

    /// Queues a message; never blocks. What becomes of it is told to the endpoint.
    fn send(&self, message: Outgoing);

    /// The servers registered under the stream.
    async fn peers(&self) -> Result<Vec<Peer>, IoError>;

    /// Stops reading requests; when it returns, no more will be delivered.
    async fn drain(&self);

    /// Writes what is queued, deregisters and ends all tasks. Called once, after [`RpcIo::drain`].
    async fn close(&self);

    /// Ends all tasks at once, because nobody holds the channel any more.
    fn abort(&self);
}

/// How servers read the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every subscriber gets every request.
    Broadcast,
    /// One worker of each group gets each request.
    Group,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Group => "group",
        })
    }
}

/// The bounds and defaults of a channel; every IO's configuration carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelSettings {
    /// How many requests may wait for a handler before the oldest is dropped (1000). Group mode never drops; it reads
    /// no more than it can run.
    pub max_queue_size: usize,
    /// How many handlers may run at once (1024).
    pub concurrency: usize,
    /// How long a call waits for its reply unless the client or the method says otherwise (30 s).
    pub call_timeout: Duration,
    /// How long `close` waits for running handlers (10 s).
    pub close_grace: Duration,
    /// How often a request of a group may be handed to a server before it becomes a dead letter (3): because its workers
    /// died, or, for a notification, because its handler failed.
    pub max_deliveries: u32,
    /// How long a failed notification waits before it is tried again (1 s); twice as long each further time.
    pub retry_backoff: Duration,
    /// Whether a broadcast channel also runs what it sent itself (no).
    pub receive_own: bool,
    /// Whether a peer's `signal_close` closes this channel (no).
    pub obey_close_signal: bool,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            max_queue_size: 1000,
            concurrency: 1024,
            call_timeout: crate::DEFAULT_CALL_TIMEOUT,
            close_grace: Duration::from_secs(10),
            max_deliveries: 3,
            retry_backoff: Duration::from_secs(1),
            receive_own: false,
            obey_close_signal: false,
        }
    }
}

/// A message that an IO is asked to carry.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outgoing {
    /// A call or notification. The IO answers with [`Endpoint::accepted`] or [`Endpoint::failed`].
    Request {
        /// Where it goes.
        target: Target,
        /// The request.
        request: Request,
    },
    /// The end of one delivered request. What belongs together (`reply` and `acknowledge`) takes effect together or
    /// not at all; the IO repeats it until it is confirmed.
    Settle {
        /// Whom to answer.
        caller: SessionId,
        /// The answer, unless nobody waits for one.
        reply: Option<Reply>,
        /// The entry that is settled with this request as its last. The IO answers with [`Endpoint::confirmed`].
        acknowledge: Option<EntryId>,
    },
    /// Copies an entry of a group to the dead letters, answers its caller and acknowledges it, all at once or not at all;
    /// the IO repeats it until it is confirmed, and answers with [`Endpoint::confirmed`].
    DeadLetter {
        /// Whom to answer.
        caller: SessionId,
        /// The answer, unless nobody waits for one.
        reply: Option<Reply>,
        /// The entry.
        entry: EntryId,
        /// Whether it is settled with this request as its last, so that it is to be acknowledged, too.
        acknowledge: bool,
        /// Why it cannot be run, for a person.
        reason: String,
        /// How often it has been handed to a server.
        attempts: u32,
    },
    /// Asks every channel of the stream that is configured to obey to close.
    SignalClose,
}

/// Why a request was not sent, or will not be answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SendFailure {
    /// The session it was addressed to no longer lives.
    SessionGone,
    /// It was refused before it was sent: there is no room for it.
    Overloaded(String),
    /// It may or may not have been accepted.
    Indeterminate(String),
    /// It was certainly not sent.
    NotSent(IoError),
}

/// A server registered under the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its session.
    pub session: SessionId,
    /// Its group and its consumer name there; `None` for a broadcast subscriber.
    pub consumer: Option<(String, String)>,
    /// The wire names of its services.
    pub services: Vec<String>,
    /// The version of the library that it runs.
    pub version: String,
    /// How long ago it was last heard of.
    pub age: Duration,
    /// Whether it counts as alive.
    pub alive: bool,
}

impl Peer {
    /// A live subscriber that was heard of just now.
    #[must_use]
    pub fn new(session: SessionId, services: Vec<String>) -> Self {
        Self {
            session,
            consumer: None,
            services,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            age: Duration::ZERO,
            alive: true,
        }
    }
}
