//! Connections to Redis: opening them, and opening them again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionInfo, Pipeline, RedisError, Value};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::entry;
use crate::error::{RedisStreamsError, diagnose};

/// Opens connections to the configured server.
#[derive(Clone)]
pub(crate) struct Connector {
    info: ConnectionInfo,
    address: String,
    connect_timeout: Duration,
}

impl Connector {
    pub(crate) fn new(config: &Config) -> Self {
        #[cfg(feature = "tls")]
        choose_cryptography();
        Self {
            info: config.connection_info(),
            address: config.address(),
            connect_timeout: config.connect_timeout(),
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
        let client = redis::Client::open(self.info.clone()).map_err(RedisStreamsError::command("connect"))?;
        // No response timeout: it would end blocking reads after Redis may have delivered. Every use has its own limit.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let attempt = client.get_multiplexed_async_connection_with_config(&config);
        match timeout(self.connect_timeout, attempt).await {
            Ok(Ok(inner)) => Ok(Connection { inner }),
            Ok(Err(error)) => Err(diagnose(error, &self.info, &self.address).await),
            Err(_) => Err(RedisStreamsError::Timeout {
                address: self.address.clone(),
                timeout: self.connect_timeout,
            }),
        }
    }

    /// Sends a pipeline within the connect timeout; returns one answer for each command, errors of Redis's among them.
    pub(crate) async fn ask_raw(
        &self,
        connection: &mut Connection,
        command: &'static str,
        questions: &Pipeline,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        connection
            .run(questions, self.connect_timeout)
            .await
            .map_err(|broken| self.explain(command, broken))
    }

    /// The same, where an error of Redis's is one: it must not be read as "there is nothing".
    pub(crate) async fn ask(
        &self,
        connection: &mut Connection,
        command: &'static str,
        questions: &Pipeline,
    ) -> Result<Vec<Value>, RedisStreamsError> {
        let answers = self.ask_raw(connection, command, questions).await?;
        match answers.iter().find_map(entry::error) {
            Some((_, answer)) => Err(RedisStreamsError::CommandRefused { command, answer }),
            None => Ok(answers),
        }
    }

    fn explain(&self, command: &'static str, broken: Broken) -> RedisStreamsError {
        match broken {
            Broken::Lost(source) => RedisStreamsError::Command { command, source },
            Broken::Silent => RedisStreamsError::Timeout {
                address: self.address.clone(),
                timeout: self.connect_timeout,
            },
        }
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
        loop {
            match self.connect().await {
                Ok(connection) => {
                    tracing::info!(connection = who, address = %self.address, "connected again");
                    return connection;
                }
                Err(error) => {
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

/// One connection, for one user at a time or for commands that do not block.
#[derive(Clone)]
pub(crate) struct Connection {
    inner: MultiplexedConnection,
}

/// Why a command or pipeline has no answer.
pub(crate) enum Broken {
    /// The connection is of no use any more.
    Lost(RedisError),
    /// Nothing came in time.
    Silent,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(error) => error.fmt(f),
            Self::Silent => f.write_str("no answer in time"),
        }
    }
}

impl Connection {
    /// Sends all commands at once; returns one answer for each. An error that Redis gives to one of them is its answer.
    ///
    /// A connection that did not answer must not be used again: the answer may still come, to the next question.
    pub(crate) async fn run(&mut self, pipeline: &Pipeline, limit: Duration) -> Result<Vec<Value>, Broken> {
        let answers = self.inner.send_packed_commands(pipeline, 0, pipeline.len());
        match timeout(limit, answers).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => Err(Broken::Lost(error)),
            Err(_) => Err(Broken::Silent),
        }
    }

    /// Sends one command; an error that Redis gives is the answer.
    pub(crate) async fn one(&mut self, command: Cmd, limit: Duration) -> Result<Value, Broken> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let mut answers = self.run(&pipeline, limit).await?;
        Ok(answers.pop().unwrap_or_default())
    }
}
