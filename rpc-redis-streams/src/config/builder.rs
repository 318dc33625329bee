//! Options that have been given so far, and the rules they obey.

use std::fmt;
use std::time::Duration;

use rpc_core::delivery::MAX_PACK;
use rpc_core::{ChannelSettings, Codec, Mode, SessionId};

use super::error::beginning;
use super::text::read;
use super::url::Server;
use super::{Config, ConfigError, Start};
use crate::keys::Keys;

const DEFAULT_URL: &str = "redis://127.0.0.1:6379";
const DEFAULT_STREAM: &str = "rpc";
const DEFAULT_GROUP: &str = "rpc-workers";
const DEFAULT_BLOCK_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_MAX_PACK: usize = 16;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
const DEFAULT_DEATH_TIME: Duration = Duration::from_secs(5);

/// So many beats have to be missed for a death: one that is late, or lost with its connection, must not be one.
const BEATS_TO_DEATH: u32 = 3;

/// The longest name of a stream, group or consumer, in bytes.
const MAX_NAME: usize = 512;

/// The largest queue, and the largest number of handlers at once.
const MAX_COUNT: usize = 1_000_000;

const MILLISECOND: Duration = Duration::from_millis(1);
/// The largest backlog.
const MAX_BACKLOG: usize = 1_000_000_000;

/// The largest payload: what a value may have in Redis by default (512 MiB), less what else is in an entry.
const MAX_PAYLOAD: usize = 500_000_000;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Long enough for everything, and short enough to be added to any time.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Options of a [`Config`]; those that are not given have defaults.
#[derive(Clone, Default)]
#[must_use = "`build` makes a config of it"]
pub struct ConfigBuilder {
    url: Option<String>,
    stream: Option<String>,
    mode: Option<Mode>,
    group: Option<String>,
    consumer: Option<String>,
    session_id: Option<SessionId>,
    start: Option<Start>,
    max_len: Option<u64>,
    block_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    heartbeat_interval: Option<Duration>,
    death_time: Option<Duration>,
    max_pack: Option<usize>,
    busy_poll: Option<bool>,
    max_queue_size: Option<usize>,
    concurrency: Option<usize>,
    call_timeout: Option<Duration>,
    codec: Option<Codec>,
    close_grace: Option<Duration>,
    max_backlog: Option<usize>,
    max_payload_size: Option<usize>,
    max_deliveries: Option<usize>,
    retry_backoff: Option<Duration>,
    fail_fast: Option<bool>,
    receive_own: Option<bool>,
    obey_close_signal: Option<bool>,
}

/// Makes the list of names, and the way to give an option by its name, from one list.
macro_rules! options_by_name {
    ($($field:ident),* $(,)?) => {
        impl ConfigBuilder {
            /// The names of all options.
            pub(super) const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// Gives an option that has not been given yet, by its name.
            pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
                match name {
                    $(stringify!($field) => read(&mut self.$field, stringify!($field), text),)*
                    _ => Err(ConfigError::Unknown {
                        name: beginning(name),
                        known: Self::NAMES.join(", "),
                    }),
                }
            }
        }
    };
}

options_by_name!(
    url,
    stream,
    mode,
    group,
    consumer,
    session_id,
    start,
    max_len,
    block_timeout,
    connect_timeout,
    heartbeat_interval,
    death_time,
    max_pack,
    busy_poll,
    max_queue_size,
    concurrency,
    call_timeout,
    codec,
    close_grace,
    max_backlog,
    max_payload_size,
    max_deliveries,
    retry_backoff,
    fail_fast,
    receive_own,
    obey_close_signal,
);

impl ConfigBuilder {
    /// The server: `redis://user:password@host:port/db`, `rediss://…` (feature `tls`), or `unix:///path?db=1`.
    ///
    /// The url may carry other options as parameters (`?stream=calc&call_timeout=5s`), but none that is given here too.
    /// In user, password and parameters, the characters `/ ? # @ : %` are written percent-encoded (`%2F`). A unix socket
    /// takes `db`, `user` and `pass` as parameters. Default: `redis://127.0.0.1:6379`.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.url = Some(url.into());
        self
    }

    /// The stream that carries the requests, which is the name of its key in Redis.
    ///
    /// 1 to 512 bytes without spaces and control characters; braces only around the whole name. Default: `rpc`.
    pub fn stream(mut self, stream: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self
    }

    /// How servers read the stream: all who use a stream have to say the same.
    ///
    /// Default: group if [`group`](Self::group) is given, else broadcast.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Broadcast mode: every server gets every request.
    pub fn broadcast(self) -> Self {
        self.mode(Mode::Broadcast)
    }

    /// Group mode, and the group that workers join: one worker of the group gets each request.
    ///
    /// 1 to 512 bytes without spaces and control characters. Default in group mode: `rpc-workers`.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The worker's name within its group; group mode only.
    ///
    /// No two live workers may have the same. 1 to 512 bytes without spaces and control characters. Default: a new one
    /// at each connect, made of host, process id and a random number.
    pub fn consumer(mut self, consumer: impl Into<String>) -> Self {
        self.consumer = Some(consumer.into());
        self
    }

    /// The identity of the channel, to which replies are addressed.
    ///
    /// No two channels may have the same, not even one after the other. Default: a new one at each connect.
    pub fn session_id(mut self, session_id: SessionId) -> Self {
        self.session_id = Some(session_id);
        self
    }

    /// Where a broadcast server begins to read the stream; broadcast mode only.
    ///
    /// Default: [`Start::Now`].
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// About how many entries the stream keeps, handled or not: older ones are dropped when new ones are added.
    ///
    /// At least 1. Default: 10 000 in broadcast mode. In group mode what all groups have handled is dropped and nothing
    /// else, so that this option, if given, may cost requests that no worker has seen.
    pub fn max_len(mut self, max_len: u64) -> Self {
        self.max_len = Some(max_len);
        self
    }

    /// How long a read waits for something to come before it is repeated.
    ///
    /// 10 ms to 1 h. Shorter notices a dead connection sooner, longer saves commands. Default: 2 s.
    pub fn block_timeout(mut self, timeout: Duration) -> Self {
        self.block_timeout = Some(timeout);
        self
    }

    /// How long an attempt to connect may take.
    ///
    /// 1 ms to 1 h. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = Some(timeout);
        self
    }

    /// How often a server says that it lives: the same for all servers of a stream.
    ///
    /// 10 ms to 1 min. Each beat costs Redis a handful of small commands. Default: 1 s.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = Some(interval);
        self
    }

    /// How long a server may be silent before it counts as dead, and others take over what it held: the same for all who
    /// use a stream.
    ///
    /// At least three times the `heartbeat_interval`, at most 10 min. Shorter takes over sooner; a worker that is merely
    /// held up for longer (a frozen process, a machine that swaps) has its calls run twice. If it differs, each worker
    /// judges by its own. Default: 5 s.
    pub fn death_time(mut self, silence: Duration) -> Self {
        self.death_time = Some(silence);
        self
    }

    /// How many calls may share one entry of the stream, 1 to 64; 1 turns that off.
    ///
    /// Calls that wait to be written at the same moment are put together if their handlers have been seen to run for a
    /// few microseconds: an entry goes to one worker, and holds about 200 µs of work. Slow methods, those marked
    /// `at_most_once` or `dedupe`, and notifications always stand alone. Default: 16.
    pub fn max_pack(mut self, calls: usize) -> Self {
        self.max_pack = Some(calls);
        self
    }

    /// Whether a thread that waits for replies looks for them for a while before it sleeps.
    ///
    /// It costs CPU time in which nothing else could be done, and saves the waking of the thread and of its CPU, which can take
    /// longer than the call. Only in runtimes of one thread (`#[tokio::main(flavor = "current_thread")]`), on Linux, and for
    /// 300 µs at a time with up to 32 calls in flight, 60 µs with up to 64; where replies take longer, or others need the CPU,
    /// it is tried ever more rarely, down to once in 128 writes. Default: yes.
    pub fn busy_poll(mut self, poll: bool) -> Self {
        self.busy_poll = Some(poll);
        self
    }

    /// How many requests may wait for a handler before a broadcast server drops the oldest and tells its caller.
    ///
    /// 1 to 1 000 000. In group mode nothing is dropped: what a worker cannot run stays in Redis. Default: 1000.
    pub fn max_queue_size(mut self, requests: usize) -> Self {
        self.max_queue_size = Some(requests);
        self
    }

    /// How many handlers may run at once.
    ///
    /// 1 to 1 000 000. Default: 1024.
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.concurrency = Some(handlers);
        self
    }

    /// How long a call waits for its reply, unless the client or the method says otherwise.
    ///
    /// 1 ms to 365 days. Default: 30 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = Some(timeout);
        self
    }

    /// How the arguments of calls are written.
    ///
    /// Servers answer in the codec of the call, so callers of one stream may choose differently; `Codec::MessagePack` needs
    /// the feature `messagepack` on both sides. Calls back to a caller (`cx.caller()`) are written as he wrote his. Default:
    /// [`Codec::Json`].
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// How long closing the channel waits for running handlers.
    ///
    /// 0 to 365 days. Default: 10 s.
    pub fn close_grace(mut self, grace: Duration) -> Self {
        self.close_grace = Some(grace);
        self
    }

    /// How many entries may wait in the stream before this channel's further requests to it are refused as `Overloaded`,
    /// before they are written; group mode only. Calls that share an entry ([`max_pack`](Self::max_pack)) count once.
    ///
    /// Those that a group has not been handed and those that it has not settled count, of the group that has most. The
    /// length of the stream is looked at while requests are written (XLEN, every 10 ms or 256 requests); above the bound the
    /// groups are asked (XINFO GROUPS, every 50 ms). Between two looks each client may exceed the bound by what it writes at
    /// once, 1024 requests at the most, and by 256. Where Redis does not know what a group has not been handed (before 7.0,
    /// and for a while after entries were deleted or the group was created anew), everything in the stream counts, unless the
    /// group has been handed all. 1 to 1 000 000 000. Default: 1 000 000.
    pub fn max_backlog(mut self, requests: usize) -> Self {
        self.max_backlog = Some(requests);
        self
    }

    /// How many bytes the encoded arguments of a request may have, and the encoded result of one.
    ///
    /// Larger arguments are not sent, a larger result is answered with a fault, and what others send beyond it is refused:
    /// the caller is told the size and the limit in each case. 1 to 500 000 000. Default: 16 MiB.
    pub fn max_payload_size(mut self, bytes: usize) -> Self {
        self.max_payload_size = Some(bytes);
        self
    }

    /// How often a request of a group is handed to a worker before it becomes a dead letter.
    ///
    /// 1 to 1 000 000. Default: 3.
    pub fn max_deliveries(mut self, deliveries: usize) -> Self {
        self.max_deliveries = Some(deliveries);
        self
    }

    /// How long a failed notification waits before it is tried again; twice as long each further time.
    ///
    /// 1 ms to 1 hour. Default: 1 s.
    pub fn retry_backoff(mut self, pause: Duration) -> Self {
        self.retry_backoff = Some(pause);
        self
    }

    /// Whether a call that no live server serves ends as `NoWorkers`, before anything is written, instead of waiting for
    /// servers to come.
    ///
    /// It ends so when the registry has shown no server of it for a second, and not within three seconds of connecting.
    /// Servers that don't register, such as programs in other languages, are not seen. Notifications always wait. Default:
    /// yes.
    pub fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = Some(fail_fast);
        self
    }

    /// Whether a broadcast channel also runs what it sent itself.
    ///
    /// In group mode own requests are run like any other, whatever is said here. Default: no.
    pub fn receive_own(mut self, receive: bool) -> Self {
        self.receive_own = Some(receive);
        self
    }

    /// Whether a peer's close signal closes this channel.
    ///
    /// Default: no.
    pub fn obey_close_signal(mut self, obey: bool) -> Self {
        self.obey_close_signal = Some(obey);
        self
    }

    /// Checks the options and makes a config of them.
    ///
    /// # Errors
    /// When an option is malformed, out of its bounds, or has no meaning in the mode.
    pub fn build(mut self) -> Result<Config, ConfigError> {
        let url = self.url.take().unwrap_or_else(|| DEFAULT_URL.to_owned());
        let (server, parameters) = Server::parse(&url)?;
        // Given, so that a `url` among the parameters is given twice.
        self.url = Some(url);
        for (name, text) in parameters {
            self.set(&name, &text)?;
        }

        let mode = self.resolve_mode()?;
        let settings = self.settings()?;
        let stream = checked_name("stream", self.stream, DEFAULT_STREAM)?;
        if !Keys::accepts(&stream) {
            return Err(ConfigError::Name {
                field: "stream",
                value: stream,
                rule: "braces may only stand around the whole name, as in {calc}",
            });
        }
        if self.max_len == Some(0) {
            return Err(out_of_range("max_len", 0, 1, u64::MAX));
        }
        let (heartbeat_interval, death_time) = checked_pulse(self.heartbeat_interval, self.death_time)?;
        Ok(Config {
            server,
            stream,
            mode,
            group: checked_name("group", self.group, DEFAULT_GROUP)?,
            consumer: match self.consumer {
                Some(consumer) => Some(checked_name("consumer", Some(consumer), "")?),
                None => None,
            },
            session_id: self.session_id,
            start: self.start.unwrap_or_default(),
            max_len: self.max_len,
            block_timeout: checked_time(
                "block_timeout",
                self.block_timeout.unwrap_or(DEFAULT_BLOCK_TIMEOUT),
                Duration::from_millis(10),
                HOUR,
            )?,
            connect_timeout: checked_time(
                "connect_timeout",
                self.connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT),
                MILLISECOND,
                HOUR,
            )?,
            heartbeat_interval,
            death_time,
            max_pack: checked_number("max_pack", self.max_pack.unwrap_or(DEFAULT_MAX_PACK), MAX_PACK)?,
            busy_poll: self.busy_poll.unwrap_or(true),
            settings,
        })
    }

    fn resolve_mode(&self) -> Result<Mode, ConfigError> {
        let implied = match self.group {
            Some(_) => Mode::Group,
            None => Mode::Broadcast,
        };
        let mode = self.mode.unwrap_or(implied);
        let remedy = match mode {
            Mode::Broadcast if self.mode.is_some() => "ask for group mode",
            Mode::Broadcast => "name a group",
            Mode::Group => "ask for broadcast mode, without a group",
        };
        let misplaced = match mode {
            Mode::Broadcast if self.group.is_some() => Some("group"),
            Mode::Broadcast if self.consumer.is_some() => Some("consumer"),
            Mode::Group if self.start.is_some() => Some("start"),
            Mode::Broadcast | Mode::Group => None,
        };
        match misplaced {
            None => Ok(mode),
            Some(field) => Err(ConfigError::WrongMode { field, mode, remedy }),
        }
    }

    fn settings(&self) -> Result<ChannelSettings, ConfigError> {
        let mut settings = ChannelSettings::default();
        if let Some(size) = self.max_queue_size {
            settings.max_queue_size = checked_count("max_queue_size", size)?;
        }
        if let Some(handlers) = self.concurrency {
            settings.concurrency = checked_count("concurrency", handlers)?;
        }
        if let Some(timeout) = self.call_timeout {
            settings.call_timeout = checked_time("call_timeout", timeout, MILLISECOND, YEAR)?;
        }
        if let Some(grace) = self.close_grace {
            settings.close_grace = checked_time("close_grace", grace, Duration::ZERO, YEAR)?;
        }
        if let Some(requests) = self.max_backlog {
            settings.max_backlog = checked_number("max_backlog", requests, MAX_BACKLOG)?;
        }
        if let Some(bytes) = self.max_payload_size {
            settings.max_payload_size = checked_number("max_payload_size", bytes, MAX_PAYLOAD)?;
        }
        if let Some(deliveries) = self.max_deliveries {
            let deliveries = checked_count("max_deliveries", deliveries)?;
            settings.max_deliveries = u32::try_from(deliveries).unwrap_or(u32::MAX);
        }
        if let Some(pause) = self.retry_backoff {
            settings.retry_backoff = checked_time("retry_backoff", pause, MILLISECOND, HOUR)?;
        }
        settings.codec = self.codec.unwrap_or_default();
        settings.fail_fast = self.fail_fast.unwrap_or(settings.fail_fast);
        settings.receive_own = self.receive_own.unwrap_or(settings.receive_own);
        settings.obey_close_signal = self.obey_close_signal.unwrap_or(settings.obey_close_signal);
        Ok(settings)
    }
}

/// Without the url, which may contain a password.
impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder")
            .field("stream", &self.stream)
            .field("mode", &self.mode)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

fn checked_name(field: &'static str, name: Option<String>, default: &str) -> Result<String, ConfigError> {
    let name = name.unwrap_or_else(|| default.to_owned());
    let is_bad = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_NAME || name.contains(is_bad) {
        return Err(ConfigError::Name {
            field,
            value: beginning(&name),
            rule: "a name has 1 to 512 bytes, without spaces and control characters",
        });
    }
    Ok(name)
}

fn checked_count(field: &'static str, count: usize) -> Result<usize, ConfigError> {
    checked_number(field, count, MAX_COUNT)
}

fn checked_number(field: &'static str, number: usize, greatest: usize) -> Result<usize, ConfigError> {
    if (1..=greatest).contains(&number) {
        Ok(number)
    } else {
        Err(out_of_range(field, number, 1, greatest))
    }
}

fn checked_pulse(interval: Option<Duration>, death: Option<Duration>) -> Result<(Duration, Duration), ConfigError> {
    let interval = interval.unwrap_or(DEFAULT_HEARTBEAT_INTERVAL);
    let interval = checked_time("heartbeat_interval", interval, Duration::from_millis(10), MINUTE)?;
    let (death, least) = (death.unwrap_or(DEFAULT_DEATH_TIME), interval * BEATS_TO_DEATH);
    if death < least {
        return Err(ConfigError::TooSoonDead { death, interval, least });
    }
    Ok((interval, checked_time("death_time", death, least, 10 * MINUTE)?))
}

fn checked_time(
    field: &'static str,
    time: Duration,
    least: Duration,
    greatest: Duration,
) -> Result<Duration, ConfigError> {
    if (least..=greatest).contains(&time) {
        Ok(time)
    } else {
        Err(out_of_range(field, time, least, greatest))
    }
}

fn out_of_range<T: fmt::Debug>(field: &'static str, value: T, least: T, greatest: T) -> ConfigError {
    ConfigError::OutOfRange {
        field,
        value: format!("{value:?}"),
        least: format!("{least:?}"),
        greatest: format!("{greatest:?}"),
    }
}
