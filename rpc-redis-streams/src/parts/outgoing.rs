//! Which messages have their payloads stored in parts before they are written.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rpc_core::io::{Endpoint, Outgoing};
use rpc_core::message::{Kind, Target};
use rpc_core::{Mode, Payload};
use tokio::time::{Instant, timeout_at};

use super::{Held, Lane, NotWritten};
use crate::outbox::{Message, size_of};
use crate::shared::Shared;
use crate::wire::Parts;

/// From so many bytes on a payload lies in parts.
const LARGE: usize = 512 << 10;

/// How long a result is kept. Its caller removes it; this is for callers that die while it is on its way, and much longer than it may
/// take them to fetch it.
const RESULT_TTL: Duration = Duration::from_secs(600);

/// How much longer than the call its arguments are kept: clocks and timers are not exact.
pub(super) const GRACE: Duration = Duration::from_secs(10);

impl Lane {
    /// Whether the payload of a message is to be stored before the message is written.
    pub(crate) fn is_for(&self, message: &mut Message, mode: Mode) -> bool {
        if mode == Mode::Group && is_followed(message) {
            return false;
        }
        let is_large = |payload: &mut Payload| payload.elsewhere.is_none() && payload.bytes.len() >= LARGE;
        payload_of(message).is_some_and(is_large) && !self.is_refused()
    }
}

/// Whether a settlement is to be written before another one, which acknowledges the entry of both.
fn is_followed(message: &Message) -> bool {
    matches!(message, Message::Outgoing(Outgoing::Settle { acknowledge: None, .. }))
}

/// The payload of a message that may lie elsewhere until its receiver fetches it.
///
/// Only what goes away by itself at a time that is known: a call has a deadline, and its reply is waited for. Not of a run with
/// an idempotency key, which Redis is to keep in one piece with the key.
fn payload_of(message: &mut Message) -> Option<&mut Payload> {
    match message {
        Message::Outgoing(Outgoing::Request {
            target: Target::Stream,
            request,
        }) if request.kind == Kind::Call && request.deadline.is_some() => Some(&mut request.arguments),
        Message::Outgoing(Outgoing::Settle {
            reply: Some(reply),
            record: None,
            ..
        }) => reply.outcome.payload_mut(),
        _ => None,
    }
}

/// Stores the payload of a message that the writer has in hand, and has the message written that says where it lies.
pub(crate) async fn store(io: Arc<Shared>, endpoint: Arc<dyn Endpoint>, mut message: Message) {
    let held = Held::new(&io, size_of(&message));
    // To make it took a while, too.
    io.lane.let_others_go_first(&io.outbox).await;
    let call = match &message {
        Message::Outgoing(Outgoing::Request { request, .. }) => request.deadline.map(|at| (request.sequence, at)),
        _ => None,
    };
    if let Some(payload) = payload_of(&mut message) {
        let write = write(&io, &*endpoint, payload, call);
        match io.stopped.run_until_cancelled(write).await {
            Some(Ok(parts)) => *payload = parts.payload(payload.codec),
            Some(Err(NotWritten::Unwanted)) => return io.outbox.hand_back(None),
            Some(Err(NotWritten::Refused)) | None => {}
        }
    }
    io.outbox.hand_back(Some(message));
    drop(held);
}

/// Writes the payload of a reply, or of the call with that number and deadline.
async fn write(
    io: &Shared,
    endpoint: &dyn Endpoint,
    payload: &Payload,
    call: Option<(u64, Instant)>,
) -> Result<Parts, NotWritten> {
    let Some((sequence, deadline)) = call else {
        let begun = OnceLock::new();
        let keep = || {
            begun.get_or_init(Instant::now);
            Some(RESULT_TTL)
        };
        let parts = io.write_parts(payload, keep).await?;
        // The first of them would not live for long enough.
        if begun.get().is_some_and(|begun| begun.elapsed() > RESULT_TTL / 2) {
            io.lane.refuse();
            io.remove(parts);
            return Err(NotWritten::Refused);
        }
        return Ok(parts);
    };
    let keep = || {
        let left = deadline.checked_duration_since(Instant::now())?;
        endpoint.is_waiting(sequence).then_some(left.saturating_add(GRACE))
    };
    // What is under way then goes by itself.
    let written = timeout_at(deadline, io.write_parts(payload, keep)).await;
    written.unwrap_or(Err(NotWritten::Unwanted))
}
