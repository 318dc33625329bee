//! NATS: requests to a queue group, through a nats-server that keeps nothing.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt;
use tests::{Process, eventually_some};

use crate::load::Echo;
use crate::tasks::ready;

const SUBJECT: &str = "echo";
const LIMIT: Duration = Duration::from_secs(10);

/// Where nats-server is; Debian has it in a directory that is not on everybody's PATH.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join("nats-server"))
        .find(|program| fs::metadata(program).is_ok_and(|file| file.is_file()))
}

/// A server on a free port, and its address.
pub(crate) async fn start(program: &PathBuf) -> (Process, String) {
    const LISTENS: &str = "Listening for client connections on ";
    let server = Process::program(program)
        .args(["--addr", "127.0.0.1", "--port", "-1"])
        .start();
    let address = eventually_some(LIMIT, "nats-server listens", async || {
        let log = server.stderr();
        log.iter().find_map(|line| Some(line.split_once(LISTENS)?.1.to_owned()))
    });
    let address = format!("nats://{}", address.await);
    (server, address)
}

pub(crate) async fn serve(address: &str) -> anyhow::Result<()> {
    let client = async_nats::connect(address).await?;
    let mut requests = client.queue_subscribe(SUBJECT, "workers".to_owned()).await?;
    // The subscription has reached the server once this has come back.
    client.flush().await?;
    ready("");
    while let Some(Message { reply, payload, .. }) = requests.next().await {
        if let Some(reply) = reply {
            client.publish(reply, payload).await?;
        }
    }
    Ok(())
}

#[derive(Clone)]
pub(crate) struct Client(async_nats::Client);

impl Client {
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        Ok(Self(async_nats::connect(address).await?))
    }
}

impl Echo for Client {
    type Reply = Bytes;

    async fn echo(&self, payload: &str) -> anyhow::Result<Bytes> {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        Ok(self.0.request(SUBJECT, payload).await?.payload)
    }
}
