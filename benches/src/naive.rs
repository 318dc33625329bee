//! What the redis crate gives when it is used as its examples show: one awaited command per call on a multiplexed
//! connection, and a connection of its own for blocking reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamMaxlen, StreamReadOptions, StreamReadReply};
use tokio::sync::oneshot;

use crate::consumer_group;
use crate::load::Echo;
use crate::redis_connection::connect;
use crate::tasks::{or_die, ready};

const REQUESTS: &str = "requests";
const GROUP: &str = "workers";
const BLOCK_MILLIS: usize = 1000;

/// What most programs do against endless streams. Must be more than there are calls at once, or calls vanish.
const LENGTH: StreamMaxlen = StreamMaxlen::Approx(8192);

fn text(entry: &StreamId, field: &str) -> anyhow::Result<String> {
    entry
        .get(field)
        .with_context(|| format!("an entry has no field {field}"))
}

/// Answers each request in a task of its own.
pub(crate) async fn serve(address: &str) -> anyhow::Result<()> {
    consumer_group::create(address, REQUESTS, GROUP).await?;
    let mut reader = connect(address).await?;
    let writer = connect(address).await?;
    let options = StreamReadOptions::default()
        .group(GROUP, std::process::id().to_string())
        .count(64)
        .block(BLOCK_MILLIS);
    ready("");
    loop {
        let reply: Option<StreamReadReply> = reader.xread_options(&[REQUESTS], &[">"], &options).await?;
        for entry in reply
            .into_iter()
            .flat_map(|reply| reply.keys)
            .flat_map(|stream| stream.ids)
        {
            let mut writer = writer.clone();
            tokio::spawn(async move { or_die("redis-crate/naive", answer(&mut writer, &entry).await) });
        }
    }
}

async fn answer(writer: &mut MultiplexedConnection, entry: &StreamId) -> anyhow::Result<()> {
    let fields = [
        ("sequence", text(entry, "sequence")?),
        ("payload", text(entry, "payload")?),
    ];
    let _: String = writer.xadd_maxlen(text(entry, "inbox")?, LENGTH, "*", &fields).await?;
    let _: u64 = writer.xack(REQUESTS, GROUP, &[&entry.id]).await?;
    Ok(())
}

/// A multiplexed connection and the calls that wait for their replies.
#[derive(Clone)]
pub(crate) struct Client {
    writer: MultiplexedConnection,
    inbox: Arc<str>,
    last: Arc<AtomicU64>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<String>>>>,
}

impl Client {
    pub(crate) async fn connect(address: &str, inbox: &str) -> anyhow::Result<Self> {
        let client = Self {
            writer: connect(address).await?,
            inbox: inbox.into(),
            last: Arc::default(),
            waiting: Arc::default(),
        };
        let reader = connect(address).await?;
        let receiver = client.clone();
        tokio::spawn(async move { or_die("redis-crate/naive", receiver.receive(reader).await) });
        Ok(client)
    }

    async fn receive(&self, mut reader: MultiplexedConnection) -> anyhow::Result<()> {
        let options = StreamReadOptions::default().block(BLOCK_MILLIS);
        let mut last = "0".to_owned();
        loop {
            let reply: Option<StreamReadReply> = reader.xread_options(&[&*self.inbox], &[&last], &options).await?;
            for entry in reply
                .into_iter()
                .flat_map(|reply| reply.keys)
                .flat_map(|stream| stream.ids)
            {
                let sequence: u64 = text(&entry, "sequence")?.parse()?;
                let caller = self
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&sequence);
                let Some(caller) = caller else {
                    bail!("a reply that nobody waits for")
                };
                // Nobody receives it if the call was given up.
                let _ = caller.send(text(&entry, "payload")?);
                last = entry.id;
            }
        }
    }
}

impl Echo for Client {
    type Reply = String;

    async fn echo(&self, payload: &str) -> anyhow::Result<String> {
        let sequence = self.last.fetch_add(1, Ordering::Relaxed);
        let (caller, reply) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(sequence, caller);
        let number = sequence.to_string();
        let fields = [("inbox", &*self.inbox), ("sequence", &number), ("payload", payload)];
        let _: String = self.writer.clone().xadd_maxlen(REQUESTS, LENGTH, "*", &fields).await?;
        Ok(reply.await?)
    }
}
