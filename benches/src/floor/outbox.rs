//! Commands that wait to be written: whatever is queued goes out as one write.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::tasks::or_die;

/// The queue in front of one connection for writing.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queued: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Outbox {
    /// A queue and the tasks that write it to `socket` and check what Redis answers.
    pub(super) fn start(socket: TcpStream) -> Arc<Self> {
        let outbox = Arc::new(Self::default());
        let (replies, requests) = socket.into_split();
        let queue = Arc::clone(&outbox);
        tokio::spawn(async move { or_die("floor", write(&queue, requests).await) });
        tokio::spawn(async move { or_die("floor", check(replies).await) });
        outbox
    }

    /// Queues what `append` appends.
    pub(super) fn push(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let mut queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = queued.is_empty();
        append(&mut queued);
        if was_empty {
            self.filled.notify_one();
        }
    }
}

async fn write(outbox: &Outbox, mut socket: OwnedWriteHalf) -> anyhow::Result<()> {
    let mut batch = Vec::new();
    loop {
        outbox.filled.notified().await;
        std::mem::swap(
            &mut batch,
            &mut *outbox.queued.lock().unwrap_or_else(PoisonError::into_inner),
        );
        socket.write_all(&batch).await?;
        batch.clear();
    }
}

/// Reads the answers to XADD, XACK and XTRIM: ids and numbers, of which nothing is needed but that they are no errors.
async fn check(mut socket: OwnedReadHalf) -> anyhow::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let read = socket.read_buf(&mut buffer).await?;
        ensure!(read > 0, "Redis closed the connection for writing");
        // All of them consist of lines; a bulk's second line is an id and starts with a digit.
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[start..start + length];
            if line.first() == Some(&b'-') {
                bail!("Redis answered {}", String::from_utf8_lossy(line));
            }
            start += length + 1;
        }
        buffer.drain(..start);
    }
}
