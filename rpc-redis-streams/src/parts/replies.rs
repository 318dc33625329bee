//! Replies whose results lie in parts: fetched, and handed on in their order.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rpc_core::SessionId;
use rpc_core::io::Endpoint;
use rpc_core::message::{Fault, FaultKind, Outcome, Reply};

use crate::lifeline;
use crate::shared::Shared;
use crate::wire::Parts;

/// The calls whose results are being fetched, and what has come for them since: the first reply counts, and not the first to be
/// at hand.
#[derive(Debug, Default)]
pub(crate) struct LargeReplies {
    waiting: Mutex<HashMap<u64, Vec<(SessionId, Reply)>>>,
    /// Whether there are any.
    any: AtomicBool,
}

impl LargeReplies {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Vec<(SessionId, Reply)>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a reply back that is to be handed on now; with `true` if others are to wait for it.
    fn queue(&self, from: SessionId, reply: Reply) -> Option<(Reply, bool)> {
        let is_large = place(&reply).is_some();
        let mut waiting = self.waiting();
        if let Some(behind) = waiting.get_mut(&reply.sequence) {
            behind.push((from, reply));
            return None;
        }
        if is_large {
            waiting.insert(reply.sequence, Vec::new());
            self.any.store(true, Ordering::Release);
        }
        Some((reply, is_large))
    }

    /// What has come for a call whose result is there.
    fn end(&self, sequence: u64) -> Vec<(SessionId, Reply)> {
        let mut waiting = self.waiting();
        let behind = waiting.remove(&sequence).unwrap_or_default();
        self.any.store(!waiting.is_empty(), Ordering::Release);
        behind
    }
}

/// Where the result lies, if it lies elsewhere.
fn place(reply: &Reply) -> Option<Parts> {
    reply.outcome.payload().and_then(Parts::of)
}

/// Hands replies to their callers: at once, or when their results have been fetched.
pub(crate) fn take_replies(io: &Arc<Shared>, endpoint: &Arc<dyn Endpoint>, from: SessionId, replies: Vec<Reply>) {
    if !io.large_replies.any.load(Ordering::Acquire) && replies.iter().all(|reply| place(reply).is_none()) {
        return endpoint.reply(from, replies);
    }
    for reply in replies {
        match io.large_replies.queue(from, reply) {
            Some((reply, true)) => lifeline::spawn(io, deliver(Arc::clone(io), Arc::clone(endpoint), from, reply)),
            Some((reply, false)) => endpoint.reply(from, vec![reply]),
            None => {}
        }
    }
}

/// Fetches the result of a reply, has its parts removed, and hands on the reply and what has come behind it.
async fn deliver(io: Arc<Shared>, endpoint: Arc<dyn Endpoint>, from: SessionId, reply: Reply) {
    let sequence = reply.sequence;
    let Some(reply) = io.stopped.run_until_cancelled(fetch(&io, &*endpoint, reply)).await else {
        return;
    };
    endpoint.reply(from, vec![reply]);
    for (from, reply) in io.large_replies.end(sequence) {
        // Too late for its call, if that has ended; its parts are to go all the same.
        if let Some(parts) = place(&reply) {
            io.remove(parts);
        }
        endpoint.reply(from, vec![reply]);
    }
}

/// The reply with its result, if somebody waits for it; its parts are removed either way.
async fn fetch(io: &Shared, endpoint: &dyn Endpoint, mut reply: Reply) -> Reply {
    let sequence = reply.sequence;
    let Some(payload) = reply.outcome.payload_mut() else {
        return reply;
    };
    let Some(parts) = Parts::of(payload) else {
        return reply;
    };
    let wanted = || endpoint.is_waiting(sequence);
    // The caller of one that is too large is told its size.
    let fetched = match payload.size() <= io.config.settings().max_payload_size && wanted() {
        true => io.fetch(payload, wanted).await,
        false => Ok(payload.clone()),
    };
    io.remove(parts);
    match fetched {
        Ok(fetched) => *payload = fetched,
        Err(why) => {
            let why = format!("it has run, but its result cannot be had: {why}");
            reply.outcome = Outcome::Fault(Fault::new(FaultKind::Indeterminate, why));
        }
    }
    reply
}
