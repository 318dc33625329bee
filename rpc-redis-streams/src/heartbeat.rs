//! The beat of a server: at each interval, from a thread and a connection of its own, so that a handler which blocks its
//! runtime does not make the server look dead.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult};
use rpc_core::Mode;
use rpc_core::liveness::Liveness;

use crate::clock::Clock;
use crate::connector::Connector;
use crate::entry;
use crate::keys::Keys;
use crate::lasting::Lasting;
use crate::meta::add_claim;
use crate::patience::PatientConnection;
use crate::registry::{Registration, beat_ms, is_recent, scores, sweep_subscribers};
use crate::resp::Value;
use crate::retention::Retention;
use crate::takeover::{Estates, Sweeper};
use crate::trim::Trimmer;

/// The thread needs little: it formats a few commands.
const STACK: usize = 256 << 10;

/// How long an answer may take at the most before the connection is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How soon the leader trims again, after it found something to trim and after it did not: what a busy group settles
/// within a second can be a hundred thousand entries.
const TRIM_INTERVAL: Duration = Duration::from_millis(250);
const IDLE_TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Beats until it is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The thread ends when it is dropped.
    wishes: Sender<Wish>,
    thread: JoinHandle<()>,
}

/// What the thread is to do before its time.
#[derive(Debug)]
enum Wish {
    Beat,
    Trim,
}

/// What the thread needs to know.
pub(crate) struct Pulse {
    pub(crate) connector: Connector,
    /// How often to beat.
    pub(crate) interval: Duration,
    /// How long a live server may be silent.
    pub(crate) death_time: Duration,
    pub(crate) keys: Keys,
    pub(crate) registration: Registration,
    /// Its last beat: Redis has no later one, unless somebody else beats under the same name. Not known while one is under way, or has
    /// failed: Redis may have it or not.
    pub(crate) last_beat_ms: Option<u64>,
    pub(crate) mode: Mode,
    pub(crate) retention: Retention,
    pub(crate) clock: Clock,
    pub(crate) estates: Arc<Estates>,
    /// Of a worker of a group.
    pub(crate) sweeper: Option<Sweeper>,
    pub(crate) trimmer: Trimmer,
    pub(crate) troubles: Troubles,
}

/// What goes wrong.
#[derive(Debug)]
pub(crate) struct Troubles {
    /// When a beat last succeeded.
    beaten: Instant,
    silence: Lasting,
    claim: Lasting,
    namesake: Lasting,
}

impl Default for Troubles {
    fn default() -> Self {
        Self {
            // Registering was the first.
            beaten: Instant::now(),
            silence: Lasting::default(),
            claim: Lasting::default(),
            namesake: Lasting::default(),
        }
    }
}

impl Heartbeat {
    pub(crate) fn start(pulse: Pulse) -> std::io::Result<Self> {
        let (wishes, wished) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("rpc-heartbeat".to_owned())
            .stack_size(STACK)
            .spawn(move || pulse.beat_while(&wished))?;
        Ok(Self { wishes, thread })
    }

    /// Beats at once: everything may have been flushed, the registry along with it.
    pub(crate) fn beat_now(&self) {
        // A thread that has panicked does not beat.
        let _ = self.wishes.send(Wish::Beat);
    }

    /// Trims at once, if this worker leads its group: much has been read since the last time.
    pub(crate) fn trim_now(&self) {
        let _ = self.wishes.send(Wish::Trim);
    }

    /// Stops, and blocks until a beat that is under way has ended: it would register again who has just left.
    pub(crate) fn stop(self) {
        drop(self.wishes);
        // A thread that panicked does not beat either.
        let _ = self.thread.join();
    }
}

impl Pulse {
    fn beat_while(mut self, wished: &Receiver<Wish>) {
        let mut connection = None;
        let mut liveness = Liveness::new(self.interval, self.death_time);
        let mut next_beat = Instant::now() + self.interval;
        // Of the worker that leads its group.
        let mut next_trim: Option<Instant> = None;
        let mut has_beaten = false;
        loop {
            let next = next_trim.map_or(next_beat, |trim| trim.min(next_beat));
            let pause = next.saturating_duration_since(Instant::now());
            match wished.recv_timeout(pause) {
                // Only a beat shows who leads, and whoever leads trims each time.
                Ok(Wish::Trim) if !has_beaten => next_beat = Instant::now(),
                Err(RecvTimeoutError::Timeout) | Ok(Wish::Trim) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wish::Beat) => next_beat = Instant::now(),
            }
            let mut leads = next_trim.is_some();
            let now = Instant::now();
            if now >= next_beat {
                // Counted from its beginning: one that takes long, or waits for an answer in vain, does not put off the next.
                next_beat = now + self.interval;
                has_beaten = true;
                let beat = self
                    .connected(&mut connection)
                    .and_then(|connection| self.beat(connection, &mut liveness));
                leads = beat.unwrap_or_else(|error| {
                    liveness.missed();
                    self.estates.clear();
                    tracing::debug!(%error, "a beat was missed");
                    self.report_silence(&error);
                    connection = None;
                    false
                });
            }
            next_trim = None;
            if leads && let Some(open) = &mut connection {
                let interval = match self.trimmer.trim(open, self.clock.now_ms()) {
                    Ok(true) => TRIM_INTERVAL,
                    Ok(false) => IDLE_TRIM_INTERVAL,
                    Err(error) => {
                        // The stream may be gone, or an ACL forbid it: no reason to beat less.
                        tracing::debug!(%error, "the stream is not trimmed");
                        if refusal(&error).is_none() {
                            connection = None;
                        }
                        IDLE_TRIM_INTERVAL
                    }
                };
                next_trim = Some(Instant::now() + interval);
            }
        }
    }

    fn connected<'a>(&self, connection: &'a mut Option<PatientConnection>) -> RedisResult<&'a mut PatientConnection> {
        match connection {
            Some(connection) => Ok(connection),
            None => Ok(connection.insert(self.connect()?)),
        }
    }

    fn connect(&self) -> RedisResult<PatientConnection> {
        let client = redis::Client::open(self.connector.info().clone())?;
        // Where packets vanish, there must be time left for another connection before others think us dead.
        let patience = self.death_time / 2;
        let connection = client.get_connection_with_timeout(self.connector.connect_timeout().min(patience))?;
        PatientConnection::new(connection, ANSWER_LIMIT.min(patience))
    }

    /// Returns whether this is the worker that leads its group.
    fn beat(&mut self, connection: &mut PatientConnection, liveness: &mut Liveness) -> RedisResult<bool> {
        let asked = Instant::now();
        let time: Value = redis::cmd("TIME").query(connection)?;
        let now_ms = entry::time_ms(time).unwrap_or_else(|| self.clock.now_ms());
        self.clock.set(now_ms, asked);
        self.look_for_namesake(connection)?;
        self.last_beat_ms = None;
        self.registration.beat(&self.keys, now_ms).exec(connection)?;
        self.last_beat_ms = Some(now_ms);
        liveness.beat(now_ms);
        self.troubles.beaten = Instant::now();
        self.claim(connection)?;
        let Some(sweeper) = &mut self.sweeper else {
            return sweep_subscribers(connection, &self.keys, now_ms, self.death_time).map(|()| false);
        };
        let workers: Value = redis::cmd("ZRANGE")
            .arg(self.registration.beats(&self.keys))
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query(connection)?;
        let workers = scores(workers);
        sweeper.sweep(connection, &workers, liveness, &self.estates)?;
        Ok(self.leads(&workers, now_ms))
    }

    /// Says so when somebody else beats under this server's name. One that has died does not, nor one that has left.
    fn look_for_namesake(&mut self, connection: &mut PatientConnection) -> RedisResult<()> {
        let Some(own) = self.last_beat_ms else { return Ok(()) };
        let beat = match self.registration.ask_last_beat(&self.keys).query(connection) {
            Ok(beat) => beat_ms(&beat),
            // Whether that beat can be written is another matter.
            Err(error) if refusal(&error).is_some() => None,
            Err(error) => return Err(error),
        };
        // An earlier one is its own: Redis has lost the later ones.
        if beat.is_some_and(|beat| beat > own) && self.troubles.namesake.is_due() {
            let (stream, name) = (&self.keys.requests, self.registration.name());
            match self.mode {
                Mode::Group => tracing::error!(
                    stream,
                    name,
                    "another worker of this name beats, too: each runs what the other holds, so that calls run twice; give each a \
                     `consumer` of its own, or none"
                ),
                Mode::Broadcast => tracing::error!(
                    stream,
                    name,
                    "another subscriber of this session beats, too: each takes the replies of the other; give each a `session_id` of \
                     its own, or none"
                ),
            }
        }
        Ok(())
    }

    /// Claims the stream again and again, because somebody may have flushed or deleted it. Whether Redis takes that says nothing
    /// of whether this server lives.
    fn claim(&mut self, connection: &mut PatientConnection) -> RedisResult<()> {
        let mut claim = redis::pipe();
        add_claim(&mut claim, &self.keys, self.mode, self.retention);
        match claim.exec(connection) {
            Err(error) if refusal(&error).is_some() => {
                if self.troubles.claim.is_due() {
                    let meta = &self.keys.meta;
                    tracing::warn!(meta, %error, "redis refuses what says how the stream is used; delete it if it is foreign");
                }
                Ok(())
            }
            claimed => claimed,
        }
    }

    /// Says so when own beats have failed for so long that others take this server for dead.
    fn report_silence(&mut self, error: &RedisError) {
        let silent = self.troubles.beaten.elapsed();
        if silent >= self.death_time && self.troubles.silence.is_due() {
            let stream = &self.keys.requests;
            tracing::warn!(
                stream,
                ?silent,
                %error,
                "this server cannot beat: others whose beats reach redis take it for dead, and run what it holds"
            );
        }
    }

    /// Whether this is the worker of its group that trims: the first by name of those that live.
    fn leads(&self, workers: &[(String, u64)], now_ms: u64) -> bool {
        let leader = workers
            .iter()
            .filter(|(_, beat)| is_recent(*beat, now_ms, self.death_time))
            .map(|(name, _)| name)
            .min();
        leader == Some(&self.registration.name())
    }
}

/// The code with which Redis has refused a command, or one of a pipeline; `None` if the connection is of no use any more.
fn refusal(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}
