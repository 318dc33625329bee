//! This project: a typed service, default settings but for what the contender is about.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rpc_core::{Codec, RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};

use crate::contender::Contender;
use crate::load::Echo;
use crate::measurement::{Case, Handler};
use crate::tasks::{HANDLED, ready};

/// The group of the workers.
pub(crate) const GROUP: &str = "workers";

/// More than any backlog that is measured, so that nothing is refused.
const BACKLOG: usize = 10_000_000;

/// The name of one of the streams.
pub(crate) fn stream(number: usize) -> String {
    format!("bench-{number}")
}

/// The service that is called.
#[service(name = "echo")]
pub(crate) trait Echoes {
    /// Answers with what it was given.
    async fn echo(&self, payload: String) -> String;
}

struct Worker(Handler);

impl Echoes for Worker {
    async fn echo(&self, payload: String) -> String {
        HANDLED.fetch_add(1, Ordering::Relaxed);
        match self.0 {
            Handler::Echo => {}
            Handler::Wait => tokio::time::sleep(Duration::from_millis(1)).await,
            Handler::Calculate => {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_micros(200) {
                    std::hint::spin_loop();
                }
            }
        }
        payload
    }
}

/// The IO of a new channel on one of the streams.
async fn connect(contender: Contender, address: &str, number: usize) -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(address)
        .stream(stream(number))
        .max_backlog(BACKLOG);
    let config = match contender {
        Contender::Broadcast => config.broadcast(),
        Contender::Unpacked => config.group(GROUP).max_pack(1),
        Contender::MessagePack => config.group(GROUP).codec(Codec::MessagePack),
        _ => config.group(GROUP),
    };
    Ok(RedisStreamsIo::connect(config.build()?).await?)
}

/// Serves until the process is killed.
pub(crate) async fn serve(case: &Case, address: &str) -> anyhow::Result<()> {
    let Case { contender, shape, .. } = case;
    let mut channels = Vec::new();
    for number in 0..shape.streams * shape.channels {
        let io = connect(*contender, address, number % shape.streams).await?;
        let channel = RpcChannel::builder(io).serve(EchoesServer::new(Worker(shape.handler)))?;
        channels.push(channel.start().await?);
    }
    ready("");
    for channel in channels {
        channel.closed().await;
    }
    Ok(())
}

/// A channel and the client of the service on it.
#[derive(Clone)]
pub(crate) struct Client {
    client: EchoesClient,
    // Calls end when their channel is dropped.
    _channel: RpcChannel,
}

/// As many clients, spread over the streams.
pub(crate) async fn connect_all(case: &Case, address: &str, sessions: usize) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for number in 0..sessions {
        let io = connect(case.contender, address, number % case.shape.streams).await?;
        let channel = RpcChannel::open(io).await?;
        clients.push(Client {
            client: EchoesClient::new(&channel),
            _channel: channel,
        });
    }
    Ok(clients)
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        Ok(self.client.echo(payload.to_owned()).await?)
    }
}
