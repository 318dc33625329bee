//! From an entry to what the channel is told.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::io::{Endpoint, Outgoing};
use rpc_core::message::{Delivery, Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};
use rpc_core::{CallId, EntryId, SessionId};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::entry::Entry;
use crate::outbox::Message;
use crate::packs;
use crate::shared::Shared;
use crate::wire::{self, Decoded, Malformed, WireRequest};

/// What is known of who had an entry before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// How often the entry has been handed to a consumer, this time included.
    pub(crate) deliveries: u32,
    /// Whether the group was created anew since the entry was written: it may have been handed out before that.
    pub(crate) forgotten: bool,
}

impl History {
    /// Nobody had it.
    pub(crate) const NONE: Self = Self {
        deliveries: 1,
        forgotten: false,
    };

    /// How many attempts there were before, at the most. The requests of an entry count them from what they say themselves:
    /// one that was written again for them starts anew in Redis's count.
    fn attempts_before(self) -> u32 {
        self.deliveries
            .saturating_sub(1)
            .saturating_add(u32::from(self.forgotten))
    }
}

/// What an entry of the stream, read as `origin` says, is to be delivered as; `None` if it is nothing for the channel.
pub(crate) fn from_stream(
    io: &Shared,
    endpoint: &dyn Endpoint,
    entry: Entry,
    origin: Origin,
    history: History,
) -> Option<Delivery> {
    let acknowledge = (origin == Origin::Group).then_some(entry.id);
    let reason = match wire::decode(entry.fields) {
        Ok(Decoded::Requests { caller, requests }) => {
            let requests = received(requests, entry.id, history, &io.clock);
            if origin == Origin::Group && packs::is_for_others(&requests, &io.destination.group) {
                skip(io, caller, entry.id);
                return None;
            }
            return Some(Delivery {
                entry: entry.id,
                origin,
                caller,
                requests,
                forgotten: history.forgotten,
            });
        }
        Ok(_) => "the entry carries no requests".to_owned(),
        Err(malformed) => match refuse_codec(io, &malformed, acknowledge) {
            true => return None,
            false => malformed.to_string(),
        },
    };
    endpoint.malformed();
    io.warn_rarely(
        "an entry of the stream cannot be read",
        &format!("{}: {reason}", entry.id),
    );
    if origin == Origin::Group {
        io.outbox.push(Message::Malformed {
            entry: entry.id,
            reason,
        });
    }
    None
}

/// Acknowledges an entry that is none of this group's business.
fn skip(io: &Shared, caller: SessionId, entry: EntryId) {
    io.outbox.push(Message::Outgoing(Outgoing::Settle {
        caller,
        reply: None,
        acknowledge: Some(entry),
        record: None,
    }));
}

/// Tells the channel about an entry of its inbox.
pub(crate) fn from_inbox(io: &Shared, endpoint: &dyn Endpoint, entry: Entry) {
    match wire::decode(entry.fields) {
        Ok(Decoded::Replies { from, replies }) => endpoint.reply(from, replies),
        Ok(Decoded::Requests { caller, requests }) if io.draining.is_cancelled() => {
            let calls = requests.iter().filter(|r| r.request.kind == Kind::Call);
            let closing = Fault::new(FaultKind::Overloaded, "the session is closing");
            refuse(io, caller, calls.map(|r| r.request.sequence), &closing, None);
        }
        Ok(Decoded::Requests { caller, requests }) => endpoint.deliver(Delivery {
            entry: entry.id,
            origin: Origin::Direct,
            caller,
            requests: with_deadlines(requests, entry.id, &io.clock),
            forgotten: false,
        }),
        Ok(Decoded::Cancel { caller, calls }) => cancelled(io, endpoint, entry.id, caller, calls),
        Ok(Decoded::Hello | Decoded::Close { .. }) => {}
        Err(malformed) => {
            if !refuse_codec(io, &malformed, None) {
                endpoint.malformed();
                io.warn_rarely(
                    "an entry of the inbox cannot be read",
                    &format!("{}: {malformed}", entry.id),
                );
            }
        }
    }
}

/// Refuses calls that are written in a codec which this build does not have; false if it is not that, or nobody waits.
fn refuse_codec(io: &Shared, malformed: &Malformed, acknowledge: Option<EntryId>) -> bool {
    match malformed {
        Malformed::UnknownCodec { caller, calls, .. } if !calls.is_empty() => {
            let fault = Fault::new(FaultKind::BadArguments, malformed.to_string());
            refuse(io, *caller, calls.iter().copied(), &fault, acknowledge);
            true
        }
        _ => false,
    }
}

/// Refuses calls that never reach the channel.
fn refuse(
    io: &Shared,
    caller: SessionId,
    calls: impl Iterator<Item = u64>,
    fault: &Fault,
    acknowledge: Option<EntryId>,
) {
    for sequence in calls {
        io.outbox.push(Message::Outgoing(Outgoing::Settle {
            caller,
            reply: Some(Reply {
                sequence,
                outcome: Outcome::Fault(fault.clone()),
                handler_time: Duration::ZERO,
            }),
            acknowledge,
            record: None,
        }));
    }
}

/// Tells the channel about an entry of the control stream; one up to `opened` was written before the channel was there.
pub(crate) fn from_control(io: &Shared, endpoint: &Arc<dyn Endpoint>, entry: Entry, opened: EntryId) {
    match wire::decode(entry.fields) {
        Ok(Decoded::Close { from }) if from != io.session() && entry.id > opened => {
            Arc::clone(endpoint).close_requested();
        }
        Ok(Decoded::Cancel { caller, calls }) => cancelled(io, &**endpoint, entry.id, caller, calls),
        // Other kinds have no business here, and a newer version may write what this one does not know.
        Ok(_) | Err(_) => {}
    }
}

fn cancelled(
    io: &Shared,
    endpoint: &dyn Endpoint,
    entry: EntryId,
    session: SessionId,
    calls: Vec<(u64, Option<Duration>)>,
) {
    let (now, age) = (Instant::now(), io.clock.age(entry));
    for (sequence, ttl) in calls {
        let deadline = deadline(now, ttl, age);
        endpoint.cancelled(CallId { session, sequence }, deadline);
    }
}

/// The requests of an entry, with their deadlines and the attempts that they are at.
pub(crate) fn received(requests: Vec<WireRequest>, entry: EntryId, history: History, clock: &Clock) -> Vec<Request> {
    let mut requests = with_deadlines(requests, entry, clock);
    for request in &mut requests {
        request.attempt = request.attempt.saturating_add(history.attempts_before());
    }
    requests
}

fn with_deadlines(requests: Vec<WireRequest>, entry: EntryId, clock: &Clock) -> Vec<Request> {
    let (now, age) = (Instant::now(), clock.age(entry));
    requests
        .into_iter()
        .map(|WireRequest { mut request, ttl }| {
            request.deadline = deadline(now, ttl, age);
            request
        })
        .collect()
}

/// The deadline of what was written with `ttl` to live, and is `age` old now: in the past, if that is more.
fn deadline(now: Instant, ttl: Option<Duration>, age: Duration) -> Option<Instant> {
    // A time to live past what the clock can hold is as good as none.
    ttl.and_then(|ttl| now.checked_add(ttl.saturating_sub(age)))
}
