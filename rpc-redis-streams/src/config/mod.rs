//! Everything that can be configured: by a builder, by a url, or by a file that serde reads.
//!
//! All three fill in the same [`ConfigBuilder`], so they know the same names and obey the same rules.

mod builder;
mod error;
mod text;
mod url;

use std::time::Duration;

use rpc_core::{ChannelSettings, Codec, EntryId, Mode, SessionId};

pub use builder::ConfigBuilder;
pub use error::ConfigError;

use self::url::Server;

/// How many entries a broadcast stream keeps, unless `max_len` says otherwise.
pub(crate) const DEFAULT_BROADCAST_MAX_LEN: u64 = 10_000;

/// Where and how a channel works; always valid.
///
/// ```
/// use std::time::Duration;
/// use rpc_redis_streams::{Config, Mode};
///
/// # fn main() -> Result<(), rpc_redis_streams::ConfigError> {
/// let built = Config::builder()
///     .url("redis://127.0.0.1:6379")
///     .stream("calc")
///     .group("workers")
///     .call_timeout(Duration::from_secs(5))
///     .build()?;
/// assert_eq!(built.mode(), Mode::Group);
///
/// let read = Config::from_url("redis://127.0.0.1:6379?stream=calc&group=workers&call_timeout=5s")?;
/// assert_eq!(read, built);
/// # Ok(())
/// # }
/// ```
///
/// With serde it is read from a table of the same names; durations are texts like `"5s"` or `"500ms"`:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let json = r#"{ "url": "redis://127.0.0.1:6379", "stream": "calc", "group": "workers", "call_timeout": "5s" }"#;
/// let config: rpc_redis_streams::Config = serde_json::from_str(json)?;
/// assert_eq!(config.stream(), "calc");
/// # Ok(())
/// # }
/// ```
///
/// A clone is as good as the original: unless they are set, session id and consumer are chosen anew each time a config
/// is used to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    server: Server,
    stream: String,
    mode: Mode,
    group: String,
    consumer: Option<String>,
    session_id: Option<SessionId>,
    start: Start,
    max_len: Option<u64>,
    block_timeout: Duration,
    connect_timeout: Duration,
    heartbeat_interval: Duration,
    death_time: Duration,
    max_pack: usize,
    busy_poll: bool,
    settings: ChannelSettings,
}

/// Where a broadcast server begins to read the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// With what is sent from now on; `now` in a url or file.
    #[default]
    Now,
    /// With the oldest entry that the stream has kept; `beginning` in a url or file.
    Beginning,
    /// With the entry after this one; the id, like `1700000000000-0`, in a url or file.
    After(EntryId),
}

impl Config {
    /// Begins with the defaults: broadcast on the stream `rpc` of `redis://127.0.0.1:6379`.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Reads a config from a url, whose parameters have the names of the builder's methods.
    ///
    /// # Errors
    /// When the url is malformed, or a parameter is unknown or out of its bounds.
    pub fn from_url(url: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder().url(url).build()
    }

    /// The server's url without user, password and parameters: fit for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address().to_owned()
    }

    /// The stream that carries the requests; also the name of its key in Redis.
    #[must_use]
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// How servers read the stream.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The group that workers join; without meaning in broadcast mode.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The worker's name within its group; `None` for a new one at each connect.
    #[must_use]
    pub fn consumer(&self) -> Option<&str> {
        self.consumer.as_deref()
    }

    /// The identity of the channel; `None` for a new one at each connect.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        self.session_id
    }

    /// Where a broadcast server begins to read.
    #[must_use]
    pub fn start(&self) -> Start {
        self.start
    }

    /// About how many entries the stream keeps, as asked for; `None` for what is usual in its mode.
    #[must_use]
    pub fn max_len(&self) -> Option<u64> {
        self.max_len
    }

    /// How long a read waits for something to come before it is repeated.
    #[must_use]
    pub fn block_timeout(&self) -> Duration {
        self.block_timeout
    }

    /// How long an attempt to connect may take.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// How often a server says that it lives.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// How long a server may be silent before it counts as dead.
    #[must_use]
    pub fn death_time(&self) -> Duration {
        self.death_time
    }

    /// How many calls may share one entry.
    #[must_use]
    pub fn max_pack(&self) -> usize {
        self.max_pack
    }

    /// Whether a thread that waits for replies looks for them for a while before it sleeps.
    #[must_use]
    pub fn busy_poll(&self) -> bool {
        self.busy_poll
    }

    /// How many requests may wait for a handler.
    #[must_use]
    pub fn max_queue_size(&self) -> usize {
        self.settings.max_queue_size
    }

    /// How many handlers may run at once.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.settings.concurrency
    }

    /// How long a call waits for its reply, unless the client or the method says otherwise.
    #[must_use]
    pub fn call_timeout(&self) -> Duration {
        self.settings.call_timeout
    }

    /// How the arguments of calls are written.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.settings.codec
    }

    /// How many requests may wait in the stream before further ones are refused.
    #[must_use]
    pub fn max_backlog(&self) -> usize {
        self.settings.max_backlog
    }

    /// How many bytes the encoded arguments or the encoded result of a request may have.
    #[must_use]
    pub fn max_payload_size(&self) -> usize {
        self.settings.max_payload_size
    }

    /// How often a request of a group is handed to a worker before it becomes a dead letter.
    #[must_use]
    pub fn max_deliveries(&self) -> u32 {
        self.settings.max_deliveries
    }

    /// How long a failed notification waits before it is tried again.
    #[must_use]
    pub fn retry_backoff(&self) -> Duration {
        self.settings.retry_backoff
    }

    /// How long closing the channel waits for running handlers.
    #[must_use]
    pub fn close_grace(&self) -> Duration {
        self.settings.close_grace
    }

    /// Whether calls that no live server serves end at once.
    #[must_use]
    pub fn fail_fast(&self) -> bool {
        self.settings.fail_fast
    }

    /// Whether a broadcast channel also runs what it sent itself.
    #[must_use]
    pub fn receive_own(&self) -> bool {
        self.settings.receive_own
    }

    /// Whether a peer's close signal closes this channel.
    #[must_use]
    pub fn obey_close_signal(&self) -> bool {
        self.settings.obey_close_signal
    }

    /// The options that concern the channel rather than its stream.
    #[must_use]
    pub fn settings(&self) -> ChannelSettings {
        self.settings
    }

    /// How to reach the server, with user and password.
    pub(crate) fn connection_info(&self) -> redis::ConnectionInfo {
        self.server.connection_info()
    }

    /// The session id to use for one channel.
    pub(crate) fn session_or_fresh(&self) -> SessionId {
        self.session_id.unwrap_or_else(SessionId::generate)
    }

    /// The consumer name to use for one channel.
    pub(crate) fn consumer_or_fresh(&self) -> String {
        self.consumer.clone().unwrap_or_else(fresh_consumer)
    }
}

/// `<host>-<pid>-<8 hex digits>`: says where to look, and is never used twice, because a name that is used again hides
/// that its first owner died.
fn fresh_consumer() -> String {
    // The low half of a version 7 UUID is random.
    let random = uuid::Uuid::now_v7().as_u128() as u32;
    format!("{}-{}-{random:08x}", host_name(), std::process::id())
}

/// The host's name as far as it can be part of a consumer's; `host` when it cannot be found out.
fn host_name() -> String {
    let from_file = |path| std::fs::read_to_string(path).ok();
    let name = from_file("/proc/sys/kernel/hostname")
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| from_file("/etc/hostname"))
        .unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        .take(64)
        .collect();
    if name.is_empty() { "host".to_owned() } else { name }
}

#[cfg(test)]
mod tests;
