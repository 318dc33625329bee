//! The arguments of calls that were taken from a group: they are removed when the last group has settled the call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc_core::EntryId;
use rpc_core::message::Request;
use tokio::time::Instant;

use super::Held;
use super::outgoing::GRACE;
use crate::backlog;
use crate::commands::Commands;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::groups::GroupState;
use crate::lifeline;
use crate::shared::Shared;
use crate::wire::Parts;

/// Where the arguments lie of the calls that this worker has, and until when somebody may want them.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    entries: Mutex<HashMap<EntryId, (Parts, Instant)>>,
    /// Whether there ever were any: most workers see none, and are not to pay for a lock.
    any: AtomicBool,
}

impl Taken {
    fn entries(&self) -> MutexGuard<'_, HashMap<EntryId, (Parts, Instant)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry was handed out to this worker.
    pub(crate) fn note(&self, entry: EntryId, requests: &[Request]) {
        let [request] = requests else { return };
        let (Some(parts), Some(deadline)) = (Parts::of(&request.arguments), request.deadline) else {
            return;
        };
        let now = Instant::now();
        let mut entries = self.entries();
        // What was handed to another worker since is never settled here.
        entries.retain(|_, (_, until)| *until > now);
        entries.insert(entry, (parts, deadline.checked_add(GRACE).unwrap_or(deadline)));
        self.any.store(true, Ordering::Release);
    }

    fn settled(&self, entry: EntryId) -> Option<Parts> {
        match self.any.load(Ordering::Acquire) {
            true => Some(self.entries().remove(&entry)?.0),
            false => None,
        }
    }
}

/// An entry is settled: its arguments are removed if they lie elsewhere, unless another group has not settled it.
pub(crate) fn remove_settled(io: &Arc<Shared>, entry: EntryId) {
    let Some(parts) = io.taken.settled(entry) else {
        return;
    };
    let (owned, held) = (Arc::clone(io), Held::new(io, 0));
    lifeline::spawn(io, async move {
        let io = owned;
        match io.stopped.run_until_cancelled(io.is_settled_by_all(entry)).await {
            Some(Ok(true)) => io.remove(parts),
            // By whoever settles it last.
            Some(Ok(false)) | None => {}
            Some(Err(error)) => tracing::debug!(%entry, %error, "the arguments of a call stay until its deadline"),
        }
        drop(held);
    });
}

impl Shared {
    /// XINFO GROUPS, and XPENDING for each group but this channel's.
    async fn is_settled_by_all(&self, entry: EntryId) -> Result<bool, RedisStreamsError> {
        let (to, requests) = (&self.destination, &self.destination.keys.requests);
        let mut groups = Commands::default();
        groups.command("XINFO", 2).arg("GROUPS").arg(requests);
        let answer = self.ask_for(backlog::GROUPS, groups).await?.pop().unwrap_or_default();
        let groups = GroupState::all(answer)
            .ok_or_else(|| RedisStreamsError::unexpected(backlog::GROUPS, "a group without a name or a number"))?;
        let mut pending = Commands::default();
        for group in groups.iter().filter(|group| group.name != to.group) {
            if group.delivered < entry {
                return Ok(false);
            }
            pending.command("XPENDING", 5).arg(requests).arg(&group.name);
            pending.id(entry).id(entry).number(1);
        }
        if pending.len() == 0 {
            return Ok(true);
        }
        let rows = self.ask_for("XPENDING", pending).await?;
        Ok(rows.into_iter().all(|rows| entry::list(rows).is_empty()))
    }
}
