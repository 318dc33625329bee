//! The calling side of the floor.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use slab::Slab;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::entries::{Reader, number};
use super::outbox::Outbox;
use super::{REQUESTS, TRIM_EVERY, connect, read_replies, request};
use crate::load::Echo;
use crate::tasks::or_die;

/// Where the replies of a client go: tells the clients of one stream apart, so it must differ between them.
type Inbox = Arc<str>;

/// A connection pair and the calls that wait on it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    inbox: Inbox,
    outbox: Arc<Outbox>,
    waiting: Arc<Mutex<Slab<oneshot::Sender<Bytes>>>>,
}

impl Client {
    /// Connects, and reads the inbox of that name.
    pub(crate) async fn connect(address: &str, inbox: &str) -> anyhow::Result<Self> {
        let reader = Reader::new(connect(address).await?);
        let client = Self {
            inbox: inbox.into(),
            outbox: Outbox::start(connect(address).await?),
            waiting: Arc::default(),
        };
        let receiver = client.clone();
        tokio::spawn(async move { or_die("floor", receiver.receive(reader).await) });
        Ok(client)
    }

    async fn receive(&self, mut reader: Reader) -> anyhow::Result<()> {
        let inbox = self.inbox.as_bytes();
        let mut last = Bytes::from_static(b"0");
        let mut trimmed = Instant::now();
        let mut read = Vec::new();
        loop {
            read.clear();
            read_replies(&mut read, inbox, &last);
            let entries = reader.read(&read).await?;
            let Some(newest) = entries.last() else { continue };
            last = Bytes::copy_from_slice(&newest.id);
            {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                for entry in entries {
                    let space = entry
                        .value
                        .iter()
                        .position(|byte| *byte == b' ')
                        .context("a reply is cut")?;
                    let sequence = number(&entry.value[..space])?;
                    let caller = waiting.try_remove(sequence).context("a reply that nobody waits for")?;
                    // Nobody receives it if the call was given up.
                    let _ = caller.send(entry.value.slice(space + 1..));
                }
            }
            if trimmed.elapsed() > TRIM_EVERY {
                trimmed = Instant::now();
                self.outbox.push(|out| request::trim(out, inbox, &last));
            }
        }
    }
}

impl Echo for Client {
    type Reply = Bytes;

    async fn echo(&self, payload: &str) -> anyhow::Result<Bytes> {
        let (caller, reply) = oneshot::channel();
        let sequence = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(caller);
        let mut digits = itoa::Buffer::new();
        let sequence = digits.format(sequence).as_bytes();
        self.outbox.push(|out| {
            let parts = [self.inbox.as_bytes(), b" ", sequence, b" ", payload.as_bytes()];
            request::add(out, REQUESTS.as_bytes(), &parts);
        });
        Ok(reply.await?)
    }
}
