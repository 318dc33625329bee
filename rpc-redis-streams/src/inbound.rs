//! From an entry to what the channel is told.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::io::{Endpoint, Outgoing};
use rpc_core::message::{Delivery, Fault, FaultKind, Kind, Origin, Outcome, Reply, Request};
use rpc_core::{CallId, EntryId, SessionId};
use tokio::time::Instant;

use crate::clock::Moment;
use crate::entry::Entry;
use crate::outbox::Message;
use crate::packs;
use crate::parts::take_replies;
use crate::shared::Shared;
use crate::wire::{self, Decoded, Malformed};

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

    /// Sets the attempts that the requests of an entry are at.
    pub(crate) fn apply(self, requests: &mut [Request]) {
        for request in requests {
            request.attempt = request.attempt.saturating_add(self.attempts_before());
        }
    }
}

/// Where entries that were read at one moment go.
pub(crate) struct Inbound<'a> {
    io: &'a Arc<Shared>,
    endpoint: &'a Arc<dyn Endpoint>,
    moment: Moment,
}

impl<'a> Inbound<'a> {
    /// Of entries that were read just now.
    pub(crate) fn now(io: &'a Arc<Shared>, endpoint: &'a Arc<dyn Endpoint>) -> Self {
        let moment = io.clock.moment();
        Self { io, endpoint, moment }
    }

    /// What an entry of the stream, read as `origin` says, is to be delivered as; `None` if it is nothing for the channel.
    pub(crate) fn stream_entry(&self, entry: Entry, origin: Origin, history: History) -> Option<Delivery> {
        let io = self.io;
        let acknowledge = (origin == Origin::Group).then_some(entry.id);
        let reason = match wire::decode(entry.fields, self.moment.written(entry.id)) {
            Ok(Decoded::Requests { caller, mut requests }) => {
                history.apply(&mut requests);
                if origin == Origin::Group && packs::is_for_others(&requests, &io.destination.group) {
                    self.skip(caller, entry.id);
                    return None;
                }
                packs::hide_group(&mut requests);
                if origin == Origin::Group {
                    io.taken.note(entry.id, &requests);
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
            Err(malformed) => match self.refuse_codec(&malformed, acknowledge) {
                true => return None,
                false => malformed.to_string(),
            },
        };
        self.endpoint.malformed();
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
    fn skip(&self, caller: SessionId, entry: EntryId) {
        self.io.outbox.push(Message::Outgoing(Outgoing::Settle {
            caller,
            reply: None,
            acknowledge: Some(entry),
            record: None,
        }));
    }

    /// Tells the channel about an entry of its inbox.
    pub(crate) fn inbox_entry(&self, entry: Entry) {
        match wire::decode(entry.fields, self.moment.written(entry.id)) {
            Ok(Decoded::Replies { from, replies }) => take_replies(self.io, self.endpoint, from, replies),
            Ok(Decoded::Requests { caller, requests }) if self.io.draining.is_cancelled() => {
                let calls = requests.iter().filter(|request| request.kind == Kind::Call);
                let closing = Fault::new(FaultKind::Overloaded, "the session is closing");
                self.refuse(caller, calls.map(|call| call.sequence), &closing, None);
            }
            Ok(Decoded::Requests { caller, requests }) => self.endpoint.deliver(vec![Delivery {
                entry: entry.id,
                origin: Origin::Direct,
                caller,
                requests,
                forgotten: false,
            }]),
            Ok(Decoded::Cancel { caller, calls }) => self.cancelled(caller, calls),
            Ok(Decoded::Hello | Decoded::Close { .. }) => {}
            Err(malformed) => {
                if !self.refuse_codec(&malformed, None) {
                    self.endpoint.malformed();
                    self.io.warn_rarely(
                        "an entry of the inbox cannot be read",
                        &format!("{}: {malformed}", entry.id),
                    );
                }
            }
        }
    }

    /// Refuses calls that are written in a codec which this build does not have; false if it is not that, or nobody waits.
    fn refuse_codec(&self, malformed: &Malformed, acknowledge: Option<EntryId>) -> bool {
        match malformed {
            Malformed::UnknownCodec { caller, calls, .. } if !calls.is_empty() => {
                let fault = Fault::new(FaultKind::BadArguments, malformed.to_string());
                self.refuse(*caller, calls.iter().copied(), &fault, acknowledge);
                true
            }
            _ => false,
        }
    }

    /// Refuses calls that never reach the channel.
    fn refuse(&self, caller: SessionId, calls: impl Iterator<Item = u64>, fault: &Fault, acknowledge: Option<EntryId>) {
        for sequence in calls {
            self.io.outbox.push(Message::Outgoing(Outgoing::Settle {
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
    pub(crate) fn control_entry(&self, entry: Entry, opened: EntryId) {
        match wire::decode(entry.fields, self.moment.written(entry.id)) {
            Ok(Decoded::Close { from }) if from != self.io.session() && entry.id > opened => {
                Arc::clone(self.endpoint).close_requested();
            }
            Ok(Decoded::Cancel { caller, calls }) => self.cancelled(caller, calls),
            // Other kinds have no business here, and a newer version may write what this one does not know.
            Ok(_) | Err(_) => {}
        }
    }

    fn cancelled(&self, session: SessionId, calls: Vec<(u64, Option<Instant>)>) {
        for (sequence, deadline) in calls {
            self.endpoint.cancelled(CallId { session, sequence }, deadline);
        }
    }
}
