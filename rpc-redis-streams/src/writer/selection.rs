//! What of a flush is written as it is: nothing that nobody waits for, and large payloads only in parts.

use std::collections::HashSet;
use std::sync::Arc;

use rpc_core::IoError;
use rpc_core::io::{Outgoing, SendFailure};
use rpc_core::message::{Fault, FaultKind, Outcome, Request, Target};
use tokio::time::Instant;

use super::Writer;
use crate::backlog::Backlog;
use crate::lifeline;
use crate::outbox::{Message, size_of};
use crate::parts;
use crate::wire::Parts;

/// What Redis could be thought to refuse for its size.
const LARGE: usize = 256 << 10;

impl Writer {
    /// Drops what is not to be written: requests that nobody waits for any more, with their cancellation, and all requests
    /// when the stream is not what it was taken for, or too long.
    pub(super) fn drop_unwanted(&self, messages: &mut Vec<Message>) {
        let mut unsent = HashSet::new();
        messages.retain(|message| match message {
            Message::Outgoing(Outgoing::Request { target, request }) => {
                if let Some(why) = &self.refused {
                    let failure = SendFailure::NotSent(why.clone());
                    self.fail(request.sequence, *target, failure);
                    self.remove_unwritten(request);
                    return false;
                }
                let wanted = self.endpoint.is_waiting(request.sequence);
                // Then it may have been taken, and be running.
                let doubtful = self.doubtful.contains(&request.sequence);
                let too_long = self.backlog.as_ref().and_then(Backlog::refusal);
                match too_long.filter(|_| is_to_stream(message) && wanted && !doubtful) {
                    Some(why) => {
                        let failure = SendFailure::Overloaded(why.to_owned());
                        self.endpoint.failed(request.sequence, *target, failure);
                        self.remove_unwritten(request);
                        false
                    }
                    None => {
                        if !wanted && !doubtful {
                            unsent.insert(request.sequence);
                            self.remove_unwritten(request);
                        }
                        wanted
                    }
                }
            }
            Message::Outgoing(Outgoing::Cancel { sequence, .. }) => !unsent.contains(sequence),
            _ => true,
        });
    }

    /// Removes what was stored of a request that is not written, unless it may have been.
    pub(super) fn remove_unwritten(&self, request: &Request) {
        if let Some(parts) = Parts::of(&request.arguments)
            && !self.doubtful.contains(&request.sequence)
        {
            self.io.remove(parts);
        }
    }

    /// Takes out the messages whose payloads are to lie elsewhere first, and has them stored: they come back. Returns how many they are.
    pub(super) fn store_large(&self, messages: &mut Vec<Message>) -> usize {
        let (before, mode) = (messages.len(), self.io.config.mode());
        for message in messages.extract_if(.., |message| self.io.lane.is_for(message, mode)) {
            let store = parts::store(Arc::clone(&self.io), Arc::clone(&self.endpoint), message);
            lifeline::spawn(&self.io, store);
        }
        before - messages.len()
    }

    /// Gives up on a large message that has broken every connection it was written to: a server may have bounds of its
    /// own on the size of what it takes.
    pub(super) fn shrink(&self, message: &mut Message) {
        let size = size_of(message);
        if size < LARGE {
            return;
        }
        let why = format!("redis hangs up on {size} bytes; send less, or raise its limits (proto-max-bulk-len)");
        match message {
            Message::Outgoing(Outgoing::Settle {
                reply: Some(reply),
                record,
                ..
            }) => {
                tracing::error!(size, "redis hangs up on a reply of this size; an error is sent instead");
                reply.outcome = Outcome::Fault(Fault::new(FaultKind::BadResult, why));
                // Nor does it take the result under an idempotency key.
                if let Some(record) = record {
                    record.result = None;
                }
            }
            Message::Outgoing(Outgoing::Request { target, request }) => {
                let failure = SendFailure::NotSent(IoError::new(why));
                // Not `fail`: what Redis hangs up on it has not taken at the first time either.
                self.endpoint.failed(request.sequence, *target, failure);
                // What nobody waits for is not sent: it has expired now.
                request.deadline = Some(Instant::now());
            }
            _ => {}
        }
    }
}

pub(super) fn is_to_stream(message: &Message) -> bool {
    let target = match message {
        Message::Outgoing(Outgoing::Request { target, .. }) => Some(*target),
        _ => None,
    };
    target == Some(Target::Stream)
}
