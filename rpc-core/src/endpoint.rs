//! What an IO tells its channel.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::codec::Payload;
use crate::error::CallError;
use crate::id::{CallId, EntryId, SessionId};
use crate::io::{Endpoint, SendFailure};
use crate::message::{Delivery, Kind, Outcome, Reply, Target};
use crate::shared::Shared;

#[async_trait]
impl Endpoint for Shared {
    async fn room(&self) -> usize {
        self.dispatcher.room().await
    }

    fn deliver(&self, deliveries: Vec<Delivery>) {
        self.dispatcher.deliver(deliveries);
    }

    fn reply(&self, from: SessionId, replies: Vec<Reply>) {
        for reply in replies {
            self.take_reply(from, reply);
        }
    }

    fn accepted(&self, sequence: u64) {
        let nothing = Payload::empty();
        self.in_flight.end(sequence, |_| Ok(Outcome::Returned(nothing)));
    }

    fn failed(&self, sequence: u64, target: Target, failure: SendFailure) {
        self.in_flight.end(sequence, |method| {
            Err(match (failure, target) {
                (SendFailure::SessionGone, Target::Session(session)) => CallError::SessionGone { method, session },
                (SendFailure::SessionGone, Target::Stream) => CallError::Indeterminate {
                    method,
                    reason: "the stream is gone".to_owned(),
                },
                (SendFailure::Overloaded(reason), _) => CallError::Overloaded { method, reason },
                (SendFailure::Indeterminate(reason), _) => CallError::Indeterminate { method, reason },
                (SendFailure::NotSent(error), _) => CallError::Io { method, error },
            })
        });
    }

    fn confirmed(&self, entry: EntryId) {
        self.dispatcher.settlements().confirmed(entry);
    }

    fn holds(&self, entry: EntryId) -> bool {
        self.dispatcher.settlements().holds(entry)
    }

    fn held(&self) -> HashSet<EntryId> {
        self.dispatcher.settlements().held()
    }

    fn hand_back(&self) -> HashSet<EntryId> {
        self.dispatcher.settlements().hand_back()
    }

    fn is_waiting(&self, sequence: u64) -> bool {
        self.in_flight.contains(sequence)
    }

    fn replies_lost(&self, last_sent: u64, reason: &str) {
        self.in_flight.end_all(
            |sequence, kind, _| sequence <= last_sent && kind == Kind::Call,
            |method| CallError::Indeterminate {
                method,
                reason: reason.to_owned(),
            },
        );
    }

    fn requests_lost(&self, last_sent: u64, reason: &str) {
        self.in_flight.end_all(
            |sequence, kind, target| sequence <= last_sent && kind == Kind::Call && target == Target::Stream,
            |method| CallError::Indeterminate {
                method,
                reason: reason.to_owned(),
            },
        );
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn expired(&self, calls: u64) {
        self.counters.expired.add(calls);
    }

    fn missed(&self, requests: u64) {
        self.counters.missed.add(requests);
    }

    fn malformed(&self) {
        self.counters.malformed.add(1);
    }

    fn cancelled(&self, call: CallId, deadline: Option<Instant>) {
        self.dispatcher.cancel(call, deadline);
    }

    fn broken(&self) {
        self.abort();
    }

    fn close_requested(self: Arc<Self>) {
        if self.settings.obey_close_signal {
            self.begin_close();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("io", &self.io).finish_non_exhaustive()
    }
}
