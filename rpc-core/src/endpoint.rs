//! What an IO tells its channel.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::codec::Payload;
use crate::error::CallError;
use crate::id::{EntryId, SessionId};
use crate::io::SendFailure;
use crate::message::{Delivery, Kind, Outcome, Reply, Target};
use crate::shared::Shared;

/// The channel, as its IO sees it; a cheap clone.
///
/// Nothing here blocks, except for [`Endpoint::room`].
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

impl Endpoint {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Waits until there is room for at least one more request of a group; returns for how many. Cancel safe.
    ///
    /// Only deliveries of a group need room: the others make room by dropping the oldest.
    pub async fn room(&self) -> usize {
        self.shared.dispatcher.room().await
    }

    /// Requests have arrived.
    pub fn deliver(&self, delivery: Delivery) {
        self.shared.dispatcher.deliver(delivery);
    }

    /// Replies of the channel with session `from` have arrived. Late and repeated ones are counted and ignored.
    pub fn reply(&self, from: SessionId, replies: impl IntoIterator<Item = Reply>) {
        for reply in replies {
            self.shared.reply(from, reply);
        }
    }

    /// A notification will be handled: its sender need not wait any longer.
    pub fn accepted(&self, sequence: u64) {
        let nothing = Payload::empty();
        self.shared.in_flight.end(sequence, |_| Ok(Outcome::Returned(nothing)));
    }

    /// A request will not be answered.
    pub fn failed(&self, sequence: u64, target: Target, failure: SendFailure) {
        self.shared.in_flight.end(sequence, |method| {
            Err(match (failure, target) {
                (SendFailure::SessionGone, Target::Session(session)) => CallError::SessionGone { method, session },
                (SendFailure::SessionGone, Target::Stream) => CallError::Indeterminate {
                    method,
                    reason: "the stream is gone".to_owned(),
                },
                (SendFailure::Overloaded(reason), _) => CallError::Overloaded { method, reason },
                (SendFailure::Indeterminate(reason), _) => CallError::Indeterminate { method, reason },
                (SendFailure::NotSent(source), _) => CallError::Io { method, source },
            })
        });
    }

    /// The acknowledgement of an entry is confirmed.
    pub fn confirmed(&self, entry: EntryId) {
        self.shared.dispatcher.settlements().confirmed(entry);
    }

    /// Whether the channel holds an entry of its group that is not confirmed.
    #[must_use]
    pub fn holds(&self, entry: EntryId) -> bool {
        self.shared.dispatcher.settlements().holds(entry)
    }

    /// The entries of its group that the channel holds.
    #[must_use]
    pub fn held(&self) -> HashSet<EntryId> {
        self.shared.dispatcher.settlements().held()
    }

    /// Whether somebody still waits for what becomes of a request of this channel. One that nobody waits for need not be
    /// sent: it was given up, or has ended as lost.
    #[must_use]
    pub fn is_waiting(&self, sequence: u64) -> bool {
        self.shared.in_flight.contains(sequence)
    }

    /// Replies may have been lost: every call up to `last_sent` ends as indeterminate.
    pub fn replies_lost(&self, last_sent: u64, reason: &str) {
        self.shared.in_flight.end_all(
            |sequence, kind| sequence <= last_sent && kind == Kind::Call,
            |method| CallError::Indeterminate {
                method,
                reason: reason.to_owned(),
            },
        );
    }

    /// How many calls wait for a reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.len()
    }

    /// This many requests were gone before they could be read.
    pub fn missed(&self, requests: u64) {
        self.shared.counters.missed.add(requests);
    }

    /// An entry could not be read as a message.
    pub fn malformed(&self) {
        self.shared.counters.malformed.add(1);
    }

    /// A peer has signalled the channels of the stream to close; this one does if it is configured to obey.
    pub fn close_requested(&self) {
        if self.shared.settings.obey_close_signal {
            self.shared.begin_close();
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}
