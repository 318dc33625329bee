//! What Redis Streams can do without any library, when the obvious design is done well: the measure for all others.
//!
//! Raw RESP over TCP, one stream of requests with a consumer group, one inbox for the replies. Each request and each
//! reply is one entry with one small field. Both sides read and write on separate connections; all that is queued for
//! writing goes out as one write; acknowledgements go along with the replies of the batch that was read. What has been
//! processed is trimmed ten times a second. Not done: anything that a library promises beyond that (deadlines,
//! take-over, transactions, errors).

mod client;
mod entries;
mod outbox;
mod request;
mod worker;

pub(crate) use client::Client;
pub(crate) use worker::serve;

use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;

/// The stream of requests.
const REQUESTS: &str = "requests";

/// The consumer group that reads it.
const GROUP: &str = "workers";

/// How long a blocking read waits, in milliseconds.
const BLOCK: &str = "1000";

/// How often a reader has what it has processed trimmed.
const TRIM_EVERY: Duration = Duration::from_millis(100);

/// Connects as many clients, whose inboxes have names that begin with `inbox`.
pub(crate) async fn connect_all(address: &str, inbox: &str, clients: usize) -> anyhow::Result<Vec<Client>> {
    let mut all = Vec::new();
    for number in 0..clients {
        all.push(Client::connect(address, &format!("{inbox}:{number}")).await?);
    }
    Ok(all)
}

/// Opens a connection to the Redis at `address`, which is a url as everybody else gets it.
async fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let host = address.strip_prefix("redis://").context("the floor speaks TCP only")?;
    let socket = TcpStream::connect(host)
        .await
        .with_context(|| format!("connect to {host}"))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
