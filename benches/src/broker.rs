//! What stands between client and worker, fresh for each measurement.

#[cfg(feature = "peers")]
use anyhow::Context;
#[cfg(feature = "peers")]
use tests::Process;
use tests::RedisServer;

use crate::contender::Need;
use crate::measurement::Settings;

/// A running broker; stopped when it is dropped.
#[derive(Debug)]
pub(crate) struct Broker {
    server: Server,
    address: String,
}

#[derive(Debug)]
enum Server {
    Redis(RedisServer),
    #[cfg(feature = "peers")]
    Nats(Process),
    #[cfg(feature = "peers")]
    None,
}

impl Broker {
    /// Starts it.
    pub(crate) async fn start(need: Need, settings: &Settings) -> anyhow::Result<Self> {
        let (server, address) = match need {
            Need::Redis | Need::RedisUnix => {
                let server = redis(settings).await;
                let address = if need == Need::Redis {
                    server.url()
                } else {
                    server.unix_url()
                };
                (Server::Redis(server), address)
            }
            #[cfg(feature = "peers")]
            Need::Nats => {
                let program = crate::peers::nats::program().context("nats-server is not installed")?;
                let (server, address) = crate::peers::nats::start(&program).await;
                (Server::Nats(server), address)
            }
            #[cfg(feature = "peers")]
            Need::None => (Server::None, String::new()),
        };
        Ok(Self { server, address })
    }

    /// Its url; empty if there is nothing.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.server {
            Server::Redis(server) => Some(server.pid()),
            #[cfg(feature = "peers")]
            Server::Nats(server) => Some(server.pid()),
            #[cfg(feature = "peers")]
            Server::None => None,
        }
    }

    /// The url to ask for INFO, if it is Redis.
    pub(crate) fn redis(&self) -> Option<String> {
        match &self.server {
            Server::Redis(server) => Some(server.unix_url()),
            #[cfg(feature = "peers")]
            Server::Nats(_) | Server::None => None,
        }
    }
}

async fn redis(settings: &Settings) -> RedisServer {
    let mut redis = RedisServer::builder();
    if let Some(program) = &settings.server {
        redis = redis.program(program);
    }
    for (name, value) in &settings.server_arguments {
        redis = redis.arg(name, value);
    }
    redis.start().await
}
