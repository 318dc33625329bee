//! What Redis Streams can do without any library, when the obvious design is done well: the measure for all others.
//!
//! Raw RESP over TCP, one stream of requests with a consumer group, one inbox for the replies. Each request and each
//! reply is one entry with one small field. Both sides read and write on separate connections; all that is queued for
//! writing goes out as one write; acknowledgements go along with the replies of the batch that was read. What has been
//! processed is trimmed ten times a second. Not done: anything that a library promises beyond that (deadlines,
//! take-over, transactions, errors).
//!
//! `blocking` is the other end of the scale: for one caller, what is left when there is no runtime either.

pub(crate) mod blocking;
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

/// How many entries one read of the worker takes at most.
const COUNT: &str = "64";

/// How often a reader has what it has processed trimmed.
const TRIM_EVERY: Duration = Duration::from_millis(100);

/// Appends the read of a worker.
fn read_requests(out: &mut Vec<u8>) {
    let consumer = std::process::id().to_string();
    let arguments: [&[u8]; 11] = [
        b"XREADGROUP",
        b"GROUP",
        GROUP.as_bytes(),
        consumer.as_bytes(),
        b"COUNT",
        COUNT.as_bytes(),
        b"BLOCK",
        BLOCK.as_bytes(),
        b"STREAMS",
        REQUESTS.as_bytes(),
        b">",
    ];
    request::command(out, &arguments);
}

/// Appends the read of a client: of what came to `inbox` after `last`.
fn read_replies(out: &mut Vec<u8>, inbox: &[u8], last: &[u8]) {
    request::command(out, &[b"XREAD", b"BLOCK", BLOCK.as_bytes(), b"STREAMS", inbox, last]);
}

/// Connects as many clients, whose inboxes have names that begin with `inbox`.
pub(crate) async fn connect_all(address: &str, inbox: &str, clients: usize) -> anyhow::Result<Vec<Client>> {
    let mut all = Vec::new();
    for number in 0..clients {
        all.push(Client::connect(address, &format!("{inbox}:{number}")).await?);
    }
    Ok(all)
}

/// Where the Redis at `address` listens, which is a url as everybody else gets it.
fn host(address: &str) -> anyhow::Result<&str> {
    address.strip_prefix("redis://").context("the floor speaks TCP only")
}

/// Opens a connection to the Redis at `address`.
async fn connect(address: &str) -> anyhow::Result<TcpStream> {
    let host = host(address)?;
    let socket = TcpStream::connect(host)
        .await
        .with_context(|| format!("connect to {host}"))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}
