//! The seam between channels and what carries their messages.
//!
//! A channel decides *what* happens to a message: which handler runs it, what is dropped, refused or answered. An
//! [`RpcIo`] only moves messages: it takes [`Outgoing`] ones, hands what arrives to its [`Endpoint`], and says who else
//! is there. So every IO obeys the same delivery rules.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::codec::{Codec, Payload};
pub use crate::dedupe::{Claim, KeyedRun, Record, UNBOUNDED_RUN};
use crate::descriptor::ServiceDescriptor;
use crate::error::IoError;
use crate::id::{CallId, EntryId, SessionId};
use crate::message::{Delivery, Fault, Reply, Request, Target};

/// Carries the messages of one channel.
#[async_trait]
pub trait RpcIo: fmt::Debug + Send + Sync + 'static {
    /// The session of the channel that this IO carries.
    fn session(&self) -> SessionId;

    /// The name of the stream, for a person.
    fn stream(&self) -> &str;

    /// How servers read the stream.
    fn mode(&self) -> Mode;

    /// The bounds and defaults of the channel.
    fn settings(&self) -> ChannelSettings;

    /// Starts handing what arrives to `endpoint`. Called once, before everything else.
    ///
    /// `services` are those that everybody on the stream can call: requests are read from it only if there are any. After
    /// this returns, nothing addressed to the session and no request sent to the stream is missed.
    async fn open(&self, endpoint: Arc<dyn Endpoint>, services: &[&'static ServiceDescriptor]) -> Result<(), IoError>;

    /// Queues a message; never blocks. What becomes of it is told to the endpoint.
    fn send(&self, message: Outgoing);

    /// The servers registered under the stream.
    async fn peers(&self) -> Result<Vec<Peer>, IoError>;

    /// How many requests wait in the stream, unread or unsettled, for the group that has most; `None` where nobody can
    /// tell, as in broadcast.
    async fn backlog(&self) -> Result<Option<u64>, IoError>;

    /// What keeps it from carrying messages just now (a lost connection, say), and what to do, for a person; `None` if nothing
    /// does, or it cannot tell, which is the default.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Fetches the arguments of a request that it has delivered without them ([`Payload::elsewhere`]), just before the request is
    /// run; by default there are none. Cancel safe.
    ///
    /// # Errors
    /// What to answer instead of running the request: they are gone, say.
    async fn fetch(&self, arguments: &Payload) -> Result<Payload, Fault> {
        Ok(arguments.clone())
    }

    /// Claims the idempotency key of `run` before it is run; an earlier attempt at the same run, or one whose server is dead,
    /// stands in nobody's way.
    async fn claim(&self, run: &KeyedRun) -> Result<Claim, IoError>;

    /// Stops reading requests; when it returns, no more will be delivered.
    async fn drain(&self);

    /// Writes what is queued, deregisters and ends all tasks. Called once, after [`RpcIo::drain`].
    async fn close(&self);

    /// Ends all tasks at once, because nobody holds the channel any more.
    fn abort(&self);
}

/// The channel, as its IO sees it.
///
/// Nothing here blocks, except for [`Endpoint::room`].
#[async_trait]
pub trait Endpoint: fmt::Debug + Send + Sync {
    /// Waits until there is room for at least one more request of a group; returns for how many. Cancel safe.
    ///
    /// Only deliveries of a group need room: the others make room by dropping the oldest.
    async fn room(&self) -> usize;

    /// Requests have arrived, the oldest first.
    fn deliver(&self, deliveries: Vec<Delivery>);

    /// Replies of the channel with session `from` have arrived. Late and repeated ones are counted and ignored.
    fn reply(&self, from: SessionId, replies: Vec<Reply>);

    /// A notification will be handled: its sender need not wait any longer.
    fn accepted(&self, sequence: u64);

    /// A request will not be answered.
    fn failed(&self, sequence: u64, target: Target, failure: SendFailure);

    /// The acknowledgement of an entry is confirmed.
    fn confirmed(&self, entry: EntryId);

    /// Whether the channel holds an entry of its group that is not confirmed.
    fn holds(&self, entry: EntryId) -> bool;

    /// The entries of its group that the channel holds.
    fn held(&self) -> HashSet<EntryId>;

    /// Gives up the entries of its group of which no request has begun, and takes no others: from now on none of these
    /// begins here, so that the next worker may count as their first. Returns those that have begun and stay held.
    fn hand_back(&self) -> HashSet<EntryId>;

    /// Whether somebody still waits for what becomes of a request of this channel. One that nobody waits for need not be
    /// sent: it was given up, or has ended as lost.
    fn is_waiting(&self, sequence: u64) -> bool;

    /// Replies may have been lost: every call up to `last_sent` ends as indeterminate.
    fn replies_lost(&self, last_sent: u64, reason: &str);

    /// The stream may have lost requests: every call to it up to `last_sent` ends as indeterminate.
    fn requests_lost(&self, last_sent: u64, reason: &str);

    /// How many calls wait for a reply.
    fn in_flight(&self) -> usize;

    /// This many calls had expired before the channel could be told of them.
    fn expired(&self, calls: u64);

    /// This many requests were gone before they could be read.
    fn missed(&self, requests: u64);

    /// An entry could not be read as a message.
    fn malformed(&self);

    /// The caller of a call has given it up: it is not run any more, or not to its end. Until `deadline` it may still
    /// arrive.
    fn cancelled(&self, call: CallId, deadline: Option<Instant>);

    /// The IO has ended of its own, because its runtime is gone, say, and carries nothing any more: so the channel ends, at once.
    fn broken(&self);

    /// A peer has signalled the channels of the stream to close; this one does if it is configured to obey.
    fn close_requested(self: Arc<Self>);
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
    /// How this channel writes the arguments of its calls (JSON); calls back to a caller are written as he wrote his. Servers
    /// answer in the codec of the call, whatever they have here.
    pub codec: Codec,
    /// How long `close` waits for running handlers (10 s).
    pub close_grace: Duration,
    /// How many entries of requests may wait for a group, not handed out or not settled, before further ones to the stream are refused
    /// as `Overloaded` (1 000 000). Group mode only.
    pub max_backlog: usize,
    /// How many bytes the encoded arguments of a request may have, and the encoded result of one (16 MiB). Larger ones
    /// are not sent, and not taken from others: the caller is told the size and the limit.
    pub max_payload_size: usize,
    /// How often a request of a group may be handed to a server before it becomes a dead letter (3): because its workers
    /// died, or, for a notification, because its handler failed.
    pub max_deliveries: u32,
    /// How long a failed notification waits before it is tried again (1 s); twice as long each further time.
    pub retry_backoff: Duration,
    /// Whether a call that no live server serves ends at once as [`NoWorkers`](crate::CallError::NoWorkers) (yes), or waits
    /// for servers to come.
    ///
    /// "At once" is when the registry has shown nobody for a second, and not within three seconds of opening the channel.
    /// Notifications always wait.
    pub fail_fast: bool,
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
            codec: Codec::default(),
            close_grace: Duration::from_secs(10),
            max_backlog: 1_000_000,
            max_payload_size: 16 << 20,
            max_deliveries: 3,
            retry_backoff: Duration::from_secs(1),
            fail_fast: true,
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
    /// The end of one delivered request. Its parts take effect together or
    /// not at all; the IO repeats it until it is confirmed.
    Settle {
        /// Whom to answer.
        caller: SessionId,
        /// The answer, unless nobody waits for one.
        reply: Option<Reply>,
        /// The entry that is settled with this request as its last. The IO answers with [`Endpoint::confirmed`].
        acknowledge: Option<EntryId>,
        /// What becomes of its idempotency key, if it was claimed.
        record: Option<Box<Record>>,
    },
    /// Copies a request of an entry of a group to the dead letters, answers its caller and acknowledges it, all at once or not at all;
    /// the IO repeats it until it is confirmed, and answers with [`Endpoint::confirmed`].
    DeadLetter {
        /// Whom to answer.
        caller: SessionId,
        /// The answer, unless nobody waits for one.
        reply: Option<Reply>,
        /// The entry.
        entry: EntryId,
        /// Which of the entry's requests it is, counted from 0: the others are no dead letters.
        index: usize,
        /// Whether it is settled with this request as its last, so that it is to be acknowledged, too.
        acknowledge: bool,
        /// Why it cannot be run, for a person.
        reason: String,
        /// How often it has been handed to a server.
        attempts: u32,
    },
    /// The caller of a call has given it up: whoever has it need not run it.
    Cancel {
        /// Where the call went.
        target: Target,
        /// The number of the call within this session.
        sequence: u64,
        /// The call's deadline, until which it is to be remembered.
        deadline: Option<Instant>,
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
