//! The beat of a server: once a second, from a thread and a connection of its own, so that a handler which blocks its
//! runtime does not make the server look dead.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use redis::{RedisResult, Value};
use rpc_core::{EntryId, Mode};

use crate::clock::Clock;
use crate::connection::Connector;
use crate::entry;
use crate::keys::Keys;
use crate::registry::{BEAT, DEATH, Registration, scores, sweep_subscribers};
use crate::retention::{Retention, trim_settled};

/// The thread needs little: it formats a few commands.
const STACK: usize = 256 << 10;

/// How long an answer may take before the connection is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Beats until it is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// Never sent on: the thread ends when this is dropped.
    _stop: Sender<()>,
}

/// What the thread needs to know.
pub(crate) struct Pulse {
    pub(crate) connector: Connector,
    pub(crate) keys: Keys,
    pub(crate) registration: Registration,
    pub(crate) mode: Mode,
    pub(crate) retention: Retention,
    pub(crate) clock: Clock,
}

impl Heartbeat {
    pub(crate) fn start(pulse: Pulse) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        std::thread::Builder::new()
            .name("rpc-heartbeat".to_owned())
            .stack_size(STACK)
            .spawn(move || pulse.beat_until(&stopped))?;
        Ok(Self { _stop: stop })
    }
}

impl Pulse {
    fn beat_until(self, stopped: &Receiver<()>) {
        let mut connection = None;
        let mut floor = EntryId::ZERO;
        while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
            let beat = match &mut connection {
                Some(connection) => self.beat(connection, &mut floor),
                None => self.connect().and_then(|new| {
                    let new = connection.insert(new);
                    self.beat(new, &mut floor)
                }),
            };
            if let Err(error) = beat {
                // The writer reports outages; a beat that is missed shows in the registry.
                tracing::debug!(%error, "a beat was missed");
                connection = None;
            }
        }
    }

    fn connect(&self) -> RedisResult<redis::Connection> {
        let client = redis::Client::open(self.connector.info().clone())?;
        let connection = client.get_connection_with_timeout(self.connector.connect_timeout())?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(connection)
    }

    fn beat(&self, connection: &mut redis::Connection, floor: &mut EntryId) -> RedisResult<()> {
        let asked = Instant::now();
        let time: Value = redis::cmd("TIME").query(connection)?;
        let now_ms = entry::time_ms(time).unwrap_or_else(|| self.clock.now_ms());
        self.clock.set(now_ms, asked);
        self.registration.beat(&self.keys, now_ms).exec(connection)?;
        match self.mode {
            Mode::Broadcast => sweep_subscribers(connection, &self.keys, now_ms),
            Mode::Group if self.retention == Retention::Processed && self.leads(connection, now_ms)? => {
                *floor = trim_settled(connection, &self.keys, *floor)?;
                Ok(())
            }
            Mode::Group => Ok(()),
        }
    }

    /// Whether this is the worker of its group that trims: the first by name of those that live.
    fn leads(&self, connection: &mut redis::Connection, now_ms: u64) -> RedisResult<bool> {
        let workers: Value = redis::cmd("ZRANGE")
            .arg(self.registration.beats(&self.keys))
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query(connection)?;
        let death_ms = DEATH.as_millis() as u64;
        let leader = scores(workers)
            .into_iter()
            .filter(|(_, beat)| now_ms.saturating_sub(*beat) < death_ms)
            .map(|(name, _)| name)
            .min();
        Ok(leader.as_deref() == Some(self.registration.name().as_str()))
    }
}
