//! tarpc with bincode, over TCP from client to worker.

use anyhow::Context;
use futures_util::StreamExt;
use tarpc::serde_transport::Transport;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{ClientMessage, Response, context};
use tarpc::{client, server};
use tokio::net::{TcpListener, TcpStream};

use crate::load::Echo;
use crate::tasks::ready;

/// More calls than there are callers: its defaults are fewer.
const AT_ONCE: usize = 4096;

#[tarpc::service]
trait Echoes {
    async fn echo(payload: String) -> String;
}

#[derive(Clone)]
struct Worker;

impl Echoes for Worker {
    async fn echo(self, _: context::Context, payload: String) -> String {
        payload
    }
}

pub(crate) async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(&listener.local_addr()?.to_string());
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let transport: Transport<_, ClientMessage<EchoesRequest>, Response<EchoesResponse>, _> =
            Transport::from((socket, Bincode::default()));
        let config = server::Config {
            pending_response_buffer: AT_ONCE,
        };
        let mut responses = Box::pin(BaseChannel::new(config, transport).execute(Worker.serve()));
        tokio::spawn(async move {
            while let Some(response) = responses.next().await {
                tokio::spawn(response);
            }
        });
    }
}

#[derive(Clone)]
pub(crate) struct Client(EchoesClient);

impl Client {
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
        socket.set_nodelay(true)?;
        let transport = Transport::from((socket, Bincode::default()));
        let mut config = client::Config::default();
        config.max_in_flight_requests = AT_ONCE;
        config.pending_request_buffer = AT_ONCE;
        Ok(Self(EchoesClient::new(config, transport).spawn()))
    }
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        Ok(self.0.echo(context::current(), payload.to_owned()).await?)
    }
}
