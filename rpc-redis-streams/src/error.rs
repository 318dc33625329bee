//! What can go wrong between this process and Redis.

use std::io;
use std::time::Duration;

use rpc_core::{IoError, Mode};

/// Why a stream cannot be used: what [`RedisStreamsIo::connect`](crate::RedisStreamsIo::connect) and the management
/// commands return.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisStreamsError {
    /// Nothing listens there.
    #[error("no redis at {address}: {reason}; start a redis-server there, or correct the `url`")]
    Refused {
        /// The address, without credentials.
        address: String,
        /// What the system said, in short.
        reason: String,
    },

    /// The host's name has no address.
    #[error("no redis at {address}: the host name cannot be resolved; correct the `url`, or the name service")]
    UnknownHost {
        /// The address, without credentials.
        address: String,
    },

    /// Nobody answered in time.
    #[error("no answer from {address} within {timeout:?}; is it reachable from here, and is redis awake?")]
    Timeout {
        /// The address, without credentials.
        address: String,
        /// How long was waited: the `connect_timeout`, or 5 s for an answer later.
        timeout: Duration,
    },

    /// User or password are wrong, or missing.
    #[error(
        "{address} refuses the login: {reason}; correct user and password in the `url`: redis://user:password@host, \
         redis://:password@host without a user, or redis://host where none is wanted"
    )]
    Authentication {
        /// The address, without credentials.
        address: String,
        /// What Redis said.
        reason: String,
    },

    /// The server has fewer databases.
    #[error(
        "{address} has no database {database}: {reason}; correct the number at the end of the `url`, or raise `databases` of the server"
    )]
    NoDatabase {
        /// The address, without credentials.
        address: String,
        /// The number that the `url` asks for.
        database: i64,
        /// What Redis said.
        reason: String,
    },

    /// Something else listens there.
    #[error(
        "{address} does not speak the redis protocol: {reason}; correct the `url` (port, `redis://` or `rediss://`)"
    )]
    NotRedis {
        /// The address, without credentials.
        address: String,
        /// What was received instead.
        reason: String,
    },

    /// The connection was closed in place of an answer to the login.
    #[error(
        "{address} hung up at the login: {reason}; redis may be stopping there, or have as many clients as it takes (`maxclients`), or \
         something else listens (correct port and `redis://` or `rediss://` in the `url`)"
    )]
    HungUp {
        /// The address, without credentials.
        address: String,
        /// What the system said.
        reason: String,
    },

    /// The server lacks what is needed.
    #[error("{address} runs redis {version}; at least 6.2 is needed")]
    TooOld {
        /// The address, without credentials.
        address: String,
        /// The version it reports.
        version: String,
    },

    /// The key holds something else.
    #[error("the key `{key}` holds a {found}, not a stream; choose another `stream`, or delete the key")]
    WrongType {
        /// The key.
        key: String,
        /// What it holds.
        found: String,
    },

    /// The servers of the stream read it in another mode.
    #[error(
        "the stream `{stream}` is used in {found} mode, this is configured for {wanted} mode; \
         correct `mode`, or choose another `stream`"
    )]
    ModeMismatch {
        /// The stream.
        stream: String,
        /// The mode that its servers have set.
        found: String,
        /// The configured mode.
        wanted: Mode,
    },

    /// The servers of the stream keep another number of entries.
    #[error(
        "the stream `{stream}` keeps {found}, this is configured for {wanted}; \
         leave `max_len` out to follow the stream, or choose another `stream`"
    )]
    RetentionMismatch {
        /// The stream.
        stream: String,
        /// What its servers have set.
        found: String,
        /// What is configured.
        wanted: String,
    },

    /// The stream is written in a format that this version does not know.
    #[error("the stream `{stream}` uses wire version {found}, this library knows {known}; update the older side")]
    WireVersion {
        /// The stream.
        stream: String,
        /// The version in use.
        found: String,
        /// The version of this library.
        known: u32,
    },

    /// The IO carries no channel yet.
    #[error("this RedisStreamsIo is not in a channel yet; open one with it first")]
    NotOpen,

    /// An IO carries one channel.
    #[error("this RedisStreamsIo carries a channel already; connect another one")]
    InUse,

    /// The connection broke.
    #[error("{command}: {error}")]
    Command {
        /// What was attempted.
        command: &'static str,
        /// What the operating system says.
        error: io::Error,
    },

    /// Redis refused a command.
    #[error("{command}: redis refused it: {answer}{}", remedy(.answer))]
    CommandRefused {
        /// What was attempted.
        command: &'static str,
        /// What it answered.
        answer: String,
    },

    /// Redis answered what no version of it should.
    #[error("{command}: redis gave an unexpected answer: {answer}")]
    UnexpectedAnswer {
        /// What was attempted.
        command: &'static str,
        /// What it answered.
        answer: String,
    },
}

impl RedisStreamsError {
    pub(crate) fn unexpected(command: &'static str, answer: impl std::fmt::Debug) -> Self {
        Self::UnexpectedAnswer {
            command,
            answer: format!("{answer:?}"),
        }
    }
}

/// What to do about a refusal, where that can be told.
fn remedy(answer: &str) -> &'static str {
    match answer.starts_with("NOPERM") {
        true => "; extend the ACL of this user: docs/delivery.md says what it needs",
        false => "",
    }
}

impl From<RedisStreamsError> for IoError {
    fn from(error: RedisStreamsError) -> Self {
        Self::new(error)
    }
}
