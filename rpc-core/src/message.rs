//! What travels between channels, before an IO gives it a form on its wire.

use std::fmt;
use std::time::Duration;

use bytestring::ByteString;
use tokio::time::Instant;

use crate::codec::Payload;
use crate::id::{EntryId, SessionId};

/// The greatest number of headers that a call carries; a server reads no more.
pub const MAX_HEADERS: usize = 1024;

/// Names and values that accompany a call, as in HTTP.
///
/// Kept in the order of insertion; few are expected, so look-up is a scan.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// No headers.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Sets `name` to `value`, in place of an earlier value.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(header) => header.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Takes `name` away; returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(index).1)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shows the names only: a value may be a token.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(headers: I) -> Self {
        let mut all = Self::new();
        for (name, value) in headers {
            all.insert(name, value);
        }
        all
    }
}

/// Whether somebody waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The caller waits for a reply.
    Call,
    /// Nobody is told how it ended.
    Notification,
}

/// One call or notification on its way to a server.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of the call within the caller's session.
    pub sequence: u64,
    /// Whether a reply is expected.
    pub kind: Kind,
    /// The wire name of the method, `service.method`.
    pub method: ByteString,
    /// When it is no longer worth running; `None` for never.
    pub deadline: Option<Instant>,
    /// How often it has been handed to a server, this time included: the first is 1.
    pub attempt: u32,
    /// What accompanies it.
    pub headers: Headers,
    /// The positional arguments.
    pub arguments: Payload,
    /// Whether it must not run twice; known to the sender, and not on the wire.
    pub at_most_once: bool,
    /// How long its handler is likely to run, if it may be put into one entry with others; known to the sender, and not on
    /// the wire.
    pub packable: Option<Duration>,
}

impl Request {
    /// Whether its deadline has passed.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// To the stream: to every subscriber, or to one worker of each group.
    Stream,
    /// To the one channel that has this session.
    Session(SessionId),
}

/// Where a delivery came from, which decides how it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Read as a member of a group: acknowledged when all its requests are settled.
    Group,
    /// Read as one of all subscribers: nothing to acknowledge.
    Broadcast,
    /// Sent to this very session: nothing to acknowledge.
    Direct,
}

/// One entry handed to a server: the requests of one session.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The entry they came in.
    pub entry: EntryId,
    /// How it was read.
    pub origin: Origin,
    /// The session that waits for the replies.
    pub caller: SessionId,
    /// The requests; an entry carries at most [`crate::delivery::MAX_PACK`] of them.
    pub requests: Vec<Request>,
    /// Whether nobody knows any more who had it before: its group was lost, and created anew after it was written.
    pub forgotten: bool,
}

/// The answer to one call.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The number of the call within the session that made it.
    pub sequence: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How long the handler ran; zero when it did not.
    pub handler_time: Duration,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The method returned this value (the `Ok` of a `Result`).
    Returned(Payload),
    /// The method returned this `Err`.
    Failed(Payload),
    /// The method did not return: the server says why.
    Fault(Fault),
}

impl Outcome {
    /// What the method returned, if it did.
    #[must_use]
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Returned(payload) | Self::Failed(payload) => Some(payload),
            Self::Fault(_) => None,
        }
    }

    /// The same, to be changed.
    #[must_use]
    pub fn payload_mut(&mut self) -> Option<&mut Payload> {
        match self {
            Self::Returned(payload) | Self::Failed(payload) => Some(payload),
            Self::Fault(_) => None,
        }
    }

    /// This, unless it is larger than `whose` limit allows: then a fault that says so.
    pub(crate) fn within(self, limit: usize, whose: &str) -> Self {
        match &self {
            Self::Returned(payload) | Self::Failed(payload) if payload.size() > limit => {
                let size = payload.size();
                let message = format!(
                    "it has {size} bytes, and {whose} `max_payload_size` is {limit}; return less, or raise that at both ends"
                );
                Self::Fault(Fault::new(FaultKind::BadResult, message))
            }
            _ => self,
        }
    }
}

/// Why a server could not give a method's own result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// Details, for a person.
    pub message: String,
}

impl Fault {
    /// A fault of `kind` with details for a person.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// The ways in which a server can refuse or fail a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The server has no such method.
    MethodNotFound,
    /// The arguments are not what the method takes.
    BadArguments,
    /// The arguments are larger than the server takes; the method did not run.
    TooLarge,
    /// The server's queue was full; the method did not run.
    Overloaded,
    /// The handler panicked.
    Panicked,
    /// The worker that ran the call died, and no other one may or can run it again.
    WorkerLost,
    /// The server closed before the handler had finished.
    Closing,
    /// Whether it has run is not known any more, and it must not run twice.
    Indeterminate,
    /// The result has no form in the call's codec, or is larger than the server sends.
    BadResult,
    /// Something that this build has no name for: the server is newer.
    Other,
}

impl FaultKind {
    const ALL: [Self; 10] = [
        Self::MethodNotFound,
        Self::BadArguments,
        Self::TooLarge,
        Self::Overloaded,
        Self::Panicked,
        Self::WorkerLost,
        Self::Closing,
        Self::Indeterminate,
        Self::BadResult,
        Self::Other,
    ];

    /// The name that stands on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MethodNotFound => "method-not-found",
            Self::BadArguments => "bad-arguments",
            Self::TooLarge => "too-large",
            Self::Overloaded => "overloaded",
            Self::Panicked => "panicked",
            Self::WorkerLost => "worker-lost",
            Self::Closing => "closing",
            Self::Indeterminate => "indeterminate",
            Self::BadResult => "bad-result",
            Self::Other => "other",
        }
    }

    /// The kind of that name; [`FaultKind::Other`] if this build doesn't know it.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(Self::Other)
    }

    /// Whether the server has nothing to answer, so that in broadcast another subscriber's answer counts more.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::BadArguments | Self::TooLarge | Self::MethodNotFound | Self::Closing
        )
    }
}
