//! This project: a typed service, JSON, default settings.

use rpc_core::{RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};

use crate::contender::Contender;
use crate::load::Echo;
use crate::tasks::ready;

/// The service that is called.
#[service(name = "echo")]
pub(crate) trait Echoes {
    /// Answers with what it was given.
    async fn echo(&self, payload: String) -> String;
}

struct Worker;

impl Echoes for Worker {
    async fn echo(&self, payload: String) -> String {
        payload
    }
}

/// A new channel's IO.
async fn connect(contender: Contender, address: &str) -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder().url(address).stream("bench");
    let config = match contender {
        Contender::Broadcast => config.broadcast(),
        _ => config.group("workers"),
    };
    Ok(RedisStreamsIo::connect(config.build()?).await?)
}

/// Serves until the process is killed.
pub(crate) async fn serve(contender: Contender, address: &str) -> anyhow::Result<()> {
    let channel = RpcChannel::builder(connect(contender, address).await?)
        .serve(EchoesServer::new(Worker))?
        .start()
        .await?;
    ready("");
    channel.closed().await;
    Ok(())
}

/// A channel and the client of the service on it.
#[derive(Clone)]
pub(crate) struct Client {
    client: EchoesClient,
    // Calls end when their channel is dropped.
    _channel: RpcChannel,
}

impl Client {
    pub(crate) async fn connect(contender: Contender, address: &str) -> anyhow::Result<Self> {
        let channel = RpcChannel::open(connect(contender, address).await?).await?;
        Ok(Self {
            client: EchoesClient::new(&channel),
            _channel: channel,
        })
    }
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        Ok(self.client.echo(payload.to_owned()).await?)
    }
}
