//! The serving side of the floor.

use anyhow::Context;
use tokio::time::Instant;

use super::entries::Reader;
use super::outbox::Outbox;
use super::{GROUP, REQUESTS, TRIM_EVERY, connect, read_requests, request};
use crate::consumer_group;
use crate::tasks::ready;

/// Reads requests as a consumer of the group and answers each with what it carries.
pub(crate) async fn serve(address: &str) -> anyhow::Result<()> {
    consumer_group::create(address, REQUESTS, GROUP).await?;
    let mut reader = Reader::new(connect(address).await?);
    let outbox = Outbox::start(connect(address).await?);
    let [requests, group] = [REQUESTS.as_bytes(), GROUP.as_bytes()];
    let mut read = Vec::new();
    read_requests(&mut read);

    ready("");
    let mut trimmed = Instant::now();
    loop {
        let entries = reader.read(&read).await?;
        let Some(newest) = entries.last() else { continue };
        let trim = trimmed.elapsed() > TRIM_EVERY;
        let mut acknowledge: Vec<&[u8]> = vec![b"XACK", requests, group];
        for entry in &entries {
            acknowledge.push(&entry.id);
        }
        let replies: Vec<_> = entries
            .iter()
            .map(|entry| reply(&entry.value))
            .collect::<Result<_, _>>()?;
        outbox.push(|out| {
            for (inbox, reply) in replies {
                request::add(out, inbox, &[reply]);
            }
            request::command(out, &acknowledge);
            if trim {
                // Read is as good as processed: its bytes are here.
                request::trim(out, requests, &newest.id);
            }
        });
        if trim {
            trimmed = Instant::now();
        }
    }
}

/// The inbox that a request names, and what goes there: its number and its payload.
pub(super) fn reply(request: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let space = request
        .iter()
        .position(|byte| *byte == b' ')
        .context("a request is cut")?;
    Ok((&request[..space], &request[space + 1..]))
}
