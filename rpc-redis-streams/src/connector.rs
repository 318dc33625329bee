//! Opening connections to Redis, and opening them again.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::{ConnectionAddr, ConnectionInfo, Pipeline};
use tokio::time::{Instant, sleep, timeout};

use crate::commands::Commands;
use crate::config::Config;
use crate::connection::{Broken, Connection};
use crate::entry;
use crate::error::RedisStreamsError;
use crate::resp::Value;
use crate::socket;

/// How long Redis may take to answer what it is asked besides calls. As long as a connection may take to be opened by default, which is
/// another matter: that may be far, or in a hurry.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long a name may take to be looked up, only to tell what went wrong.
const LOOKUP_LIMIT: Duration = Duration::from_secs(1);

/// A connection that lasts so long was a good one.
const LASTING: Duration = Duration::from_millis(50);

/// The longest pause before a connection that was lost soon is opened again.
const LONGEST_HASTE: Duration = Duration::from_millis(250);

/// Opens connections to the configured server.
#[derive(Clone)]
pub(crate) struct Connector {
    info: ConnectionInfo,
    address: String,
    connect_timeout: Duration,
    /// What has become of the connections of each user.
    latest: Arc<Mutex<HashMap<&'static str, Latest>>>,
}

/// The latest connection of one user.
#[derive(Default)]
struct Latest {
    opened: Option<Instant>,
    /// How many were lost soon, in a row.
    losses: u32,
    /// Since when there is none, and why not.
    missing: Option<(Instant, String)>,
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Self {
        #[cfg(feature = "tls")]
        choose_cryptography();
        Self {
            info: config.connection_info(),
            address: config.address(),
            connect_timeout: config.connect_timeout(),
            latest: Arc::default(),
        }
    }

    pub(crate) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Tries once, within the connect timeout.
    pub(crate) async fn connect(&self) -> Result<Connection, RedisStreamsError> {
        match timeout(self.connect_timeout, self.open()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RedisStreamsError::Timeout {
                address: self.address.clone(),
                timeout: self.connect_timeout,
            }),
        }
    }

    async fn open(&self) -> Result<Connection, RedisStreamsError> {
        let socket = match socket::open(&self.info).await {
            Ok(socket) => socket,
            Err(error) => return Err(self.diagnose(error).await),
        };
        let mut connection = Connection::new(socket);
        self.log_in(&mut connection).await?;
        Ok(connection)
    }

    /// AUTH and SELECT as configured, and PING: something else than Redis, or one that wants a password, is found out here.
    async fn log_in(&self, connection: &mut Connection) -> Result<(), RedisStreamsError> {
        let login = self.info.redis_settings();
        let mut commands = Commands::default();
        if let Some(password) = login.password() {
            let user = login.username();
            commands.command("AUTH", 1 + usize::from(user.is_some()));
            if let Some(user) = user {
                commands.arg(user);
            }
            commands.arg(password);
        }
        if login.db() != 0 {
            commands.command("SELECT", 1).arg(login.db().to_string());
        }
        commands.command("PING", 0);
        let answers = match connection.ask(&commands, self.connect_timeout).await {
            Ok(answers) => answers,
            Err(broken) => return Err(self.mistaken(broken)),
        };
        // Said by itself, whatever was asked, and then it hangs up.
        let mut errors = answers.iter().filter_map(entry::error);
        if let Some((_, reason)) = errors.find(|(_, answer)| answer.starts_with("ERR max number of clients")) {
            let address = self.address.clone();
            return Err(RedisStreamsError::HungUp { address, reason });
        }
        let (ping, settings) = answers
            .split_last()
            .map_or((None, &[][..]), |(ping, rest)| (Some(ping), rest));
        if let Some((code, answer)) = settings.iter().find_map(entry::error) {
            return Err(match code {
                // Of a server that has no password, or refuses this one.
                "WRONGPASS" | "NOAUTH" => self.denied(answer),
                _ if code != "NOPERM" && answer.contains("AUTH") => self.denied(answer),
                _ if answer.contains("out of range") => RedisStreamsError::NoDatabase {
                    address: self.address.clone(),
                    database: login.db(),
                    reason: answer,
                },
                _ => RedisStreamsError::CommandRefused {
                    command: "SELECT",
                    answer,
                },
            });
        }
        match ping.and_then(entry::error) {
            // What else it may refuse (loading its data, an ACL without PING), the commands that need it will name.
            Some(("NOAUTH", answer)) => Err(self.denied(answer)),
            _ => Ok(()),
        }
    }

    fn denied(&self, reason: String) -> RedisStreamsError {
        RedisStreamsError::Authentication {
            address: self.address.clone(),
            reason,
        }
    }

    /// What it means when there is no proper answer to the first question: a server of another protocol answers in its
    /// own, or hangs up on ours.
    fn mistaken(&self, broken: Broken) -> RedisStreamsError {
        match broken {
            Broken::Garbled(_) => RedisStreamsError::NotRedis {
                address: self.address.clone(),
                reason: broken.to_string(),
            },
            Broken::Lost(_) => RedisStreamsError::HungUp {
                address: self.address.clone(),
                reason: broken.to_string(),
            },
            Broken::Silent => self.explain("connect", broken, self.connect_timeout),
        }
    }

    /// Why there is no connection.
    async fn diagnose(&self, error: io::Error) -> RedisStreamsError {
        let address = self.address.clone();
        let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        if refused.contains(&error.kind()) && !matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
            || error.kind() == io::ErrorKind::ConnectionRefused
        {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "no such socket",
                _ => "connection refused",
            };
            return RedisStreamsError::Refused {
                address,
                reason: reason.to_owned(),
            };
        }
        if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = self.info.addr()
            && let Ok(Err(_)) = timeout(LOOKUP_LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await
        {
            return RedisStreamsError::UnknownHost { address };
        }
        match error.kind() {
            // A TLS handshake with something that does not speak TLS, or is not whom its certificate names.
            io::ErrorKind::InvalidData => RedisStreamsError::NotRedis {
                address,
                reason: error.to_string(),
            },
            io::ErrorKind::UnexpectedEof => RedisStreamsError::HungUp {
                address,
                reason: error.to_string(),
            },
            _ => RedisStreamsError::Command {
                command: "connect",
                error,
            },
        }
    }

    /// Sends a pipeline; returns one answer for each command, errors of Redis's among them.
    pub(crate) async fn ask_raw(
        &self,
        connection: &mut Connection,
        command: &'static str,
        questions: &Pipeline,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        connection
            .run(questions, ANSWER_LIMIT)
            .await
            .map_err(|broken| self.explain(command, broken, ANSWER_LIMIT))
    }

    /// The same, where an error of Redis's is one: it must not be read as "there is nothing".
    pub(crate) async fn ask(
        &self,
        connection: &mut Connection,
        command: &'static str,
        questions: &Pipeline,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        let answers = self.ask_raw(connection, command, questions).await?;
        entry::accepted(command, answers)
    }

    fn explain(&self, command: &'static str, broken: Broken, timeout: Duration) -> RedisStreamsError {
        match broken {
            Broken::Lost(error) => RedisStreamsError::Command { command, error },
            Broken::Garbled(garbled) => RedisStreamsError::unexpected(command, garbled),
            Broken::Silent => RedisStreamsError::Timeout {
                address: self.address.clone(),
                timeout,
            },
        }
    }

    /// How long to wait before connecting again: not at all, unless the last connection was lost as soon as it was there.
    /// Something on the way may let a login through and nothing else.
    fn haste(&self, who: &'static str) -> Duration {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let latest = latest.entry(who).or_default();
        let soon = latest.opened.is_some_and(|opened| opened.elapsed() < LASTING);
        latest.losses = if soon { latest.losses + 1 } else { 0 };
        match latest.losses {
            0..=2 => Duration::ZERO,
            losses => LONGEST_HASTE.min(Duration::from_millis(10) * (losses - 2)),
        }
    }

    fn connected(&self, who: &'static str) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.entry(who).or_default().opened = Some(Instant::now());
    }

    fn not_connected(&self, who: &'static str, error: &RedisStreamsError) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = &mut latest.entry(who).or_default().missing;
        let since = missing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *missing = Some((since, error.to_string()));
    }

    /// Whether `who` waits for a connection.
    pub(crate) fn is_missing(&self, who: &'static str) -> bool {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.get(who).is_some_and(|latest| latest.missing.is_some())
    }

    /// Whether a connection was lost, and was opened again so short a time ago.
    pub(crate) fn came_back(&self, within: Duration) -> bool {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut opened = latest.values().filter_map(|latest| latest.opened);
        opened.any(|opened| opened.elapsed() < within)
    }

    /// Since when a connection is missing, and why, for a person.
    pub(crate) fn trouble(&self) -> Option<String> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = latest.values().filter_map(|latest| latest.missing.as_ref());
        let (since, why) = missing.min_by_key(|(since, _)| *since)?;
        Some(format!("not connected for {} s: {why}", since.elapsed().as_secs()))
    }

    /// Tries once, and not at once if the last one was lost as soon as it was there.
    pub(crate) async fn connect_again(&self, who: &'static str) -> Result<Connection, RedisStreamsError> {
        sleep(self.haste(who)).await;
        let connection = self.connect().await?;
        self.connected(who);
        Ok(connection)
    }

    /// Tries until it succeeds: from 20 ms to 1 s between attempts, with jitter, so that the clients of a server that
    /// comes back don't all come at once.
    pub(crate) async fn reconnect(&self, who: &'static str) -> Connection {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times()
            .build();
        let mut reported = false;
        let _missing = Missing { connector: self, who };
        sleep(self.haste(who)).await;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    self.connected(who);
                    tracing::info!(connection = who, address = %self.address, "connected again");
                    return connection;
                }
                Err(error) => {
                    self.not_connected(who, &error);
                    // Once an outage, not once an attempt.
                    if !reported {
                        tracing::warn!(connection = who, %error, "not connected; trying again until it succeeds");
                        reported = true;
                    }
                }
            }
            sleep(pauses.next().unwrap_or(Duration::from_secs(1))).await;
        }
    }
}

/// Somebody tries to connect. Nothing is missing any more when that has succeeded, or when nobody tries.
struct Missing<'a> {
    connector: &'a Connector,
    who: &'static str,
}

impl Drop for Missing<'_> {
    fn drop(&mut self) {
        let mut latest = self.connector.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.entry(self.who).or_default().missing = None;
    }
}

/// Rustls panics when nobody has chosen who does its cryptography. An application that has is left its choice.
#[cfg(feature = "tls")]
fn choose_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails only if another thread has chosen meanwhile.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_missing_when_nobody_tries_to_connect_any_more() {
        // Nothing listens there.
        let config = Config::builder().url("unix:///nowhere/redis.sock").build().unwrap();
        let connector = Connector::new(&config);
        let trying = connector.reconnect("parts");
        let given_up = timeout(Duration::from_millis(100), async {
            tokio::pin!(trying);
            loop {
                let step = timeout(Duration::from_millis(1), &mut trying).await;
                assert!(step.is_err());
                if let Some(trouble) = connector.trouble() {
                    break trouble;
                }
            }
        });
        assert!(given_up.await.unwrap().contains("no such socket"));
        assert_eq!(connector.trouble(), None);
    }
}
