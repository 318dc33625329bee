//! What waits to be written.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rpc_core::EntryId;
use rpc_core::io::Outgoing;
use rpc_core::message::{Outcome, Reply, Request};
use tokio::sync::{Notify, oneshot};

use crate::commands::Commands;
use crate::resp::Value;

/// How much goes into one flush: enough to share its cost, and little enough to be answered soon. Of large messages it takes
/// few: the next ones are made while these are written and read, and a small one does not wait long.
pub(crate) const MAX_FLUSH_MESSAGES: usize = 1024;
const MAX_FLUSH_BYTES: usize = 256 << 10;

/// How much may wait before no more requests of a group are taken: their replies would pile up while Redis refuses them.
const MAX_WAITING_MESSAGES: usize = 16 << 10;
const MAX_WAITING_BYTES: usize = 64 << 20;

/// Something for the writer to write.
#[derive(Debug)]
pub(crate) enum Message {
    Outgoing(Outgoing),
    Ask(Question),
    /// An entry of the group that carries nothing the channel could be told about: it goes to the dead letters.
    Malformed {
        entry: EntryId,
        reason: String,
    },
}

/// What somebody else asks, and whom to pass the answers on to.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) commands: Commands,
    /// `None` where nobody was ever to wait for them.
    pub(crate) answer: Option<oneshot::Sender<Vec<Value>>>,
}

impl Question {
    /// Whether it is still to be asked. Whoever gives up asking takes the other end of the channel along.
    pub(crate) fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| !answer.is_closed())
    }
}

/// The queue between everybody who sends and the one task that writes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    idle: Notify,
    /// Signalled when there is room again for what is read.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    /// The size of what waits.
    bytes: usize,
    /// How much was appended, but for questions.
    appended: u64,
    /// Taken by the writer and not yet settled.
    in_hand: usize,
    /// How much is being made ready to be written, and its size.
    held: usize,
    held_bytes: usize,
}

impl State {
    fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING_MESSAGES && self.bytes + self.held_bytes < MAX_WAITING_BYTES
    }

    fn is_idle(&self) -> bool {
        self.in_hand == 0 && self.held == 0 && self.waiting.is_empty()
    }
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for what has come true.
    fn notify(&self, state: &State) {
        if state.has_room() {
            self.room.notify_waiters();
        }
        if state.is_idle() {
            self.idle.notify_waiters();
        }
    }

    /// Appends a message; returns how many wait then.
    pub(crate) fn push(&self, message: Message) -> usize {
        let mut state = self.state();
        state.bytes += size_of(&message);
        state.appended += u64::from(!matches!(message, Message::Ask(_)));
        state.waiting.push_back(message);
        let waiting = state.waiting.len();
        drop(state);
        if waiting == 1 {
            self.filled.notify_one();
        }
        waiting
    }

    /// How many messages were ever appended, but for questions.
    pub(crate) fn appended(&self) -> u64 {
        self.state().appended
    }

    /// Drops the requests that are not `wanted`, and questions that nobody waits for.
    pub(crate) fn forget_unless(&self, wanted: impl Fn(&Request) -> bool) {
        let mut state = self.state();
        state.waiting.retain(|message| match message {
            // The writer removes arguments that lie elsewhere.
            Message::Outgoing(Outgoing::Request { request, .. }) => {
                wanted(request) || request.arguments.elsewhere.is_some()
            }
            Message::Ask(question) => question.is_wanted(),
            _ => true,
        });
        state.bytes = state.waiting.iter().map(size_of).sum();
        self.notify(&state);
    }

    /// Waits until there is something to take. Cancel safe.
    pub(crate) async fn filled(&self) {
        loop {
            let filled = self.filled.notified();
            if !self.state().waiting.is_empty() {
                return;
            }
            filled.await;
        }
    }

    /// Takes the messages of one flush, oldest first: at most `most`, at least one if there is any.
    pub(crate) fn take(&self, most: usize) -> Vec<Message> {
        let mut state = self.state();
        let mut bytes = 0;
        let mut count = 0;
        for message in state.waiting.iter().take(most) {
            let size = size_of(message);
            if count > 0 && bytes + size > MAX_FLUSH_BYTES {
                break;
            }
            bytes += size;
            count += 1;
        }
        state.in_hand += count;
        state.bytes -= bytes;
        state.waiting.drain(..count).collect()
    }

    /// Says that `count` of the messages in hand are done, and puts `again` back in front.
    pub(crate) fn settle(&self, count: usize, again: Vec<Message>) {
        let mut state = self.state();
        state.in_hand -= count + again.len();
        for message in again.into_iter().rev() {
            state.bytes += size_of(&message);
            state.waiting.push_front(message);
        }
        self.notify(&state);
    }

    /// A message in hand, or what has become of it, is to be written after all; `None` if it is not.
    pub(crate) fn hand_back(&self, message: Option<Message>) {
        // First, so that the outbox does not look idle in between.
        if let Some(message) = message {
            self.push(message);
        }
        self.settle(1, Vec::new());
    }

    /// Something of so many bytes is being made ready to be written.
    pub(crate) fn hold(&self, bytes: usize) {
        let mut state = self.state();
        state.held += 1;
        state.held_bytes += bytes;
    }

    /// It is waiting to be written, or need not be any more.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.held -= 1;
        state.held_bytes -= bytes;
        self.notify(&state);
    }

    /// Waits until so little waits to be written that more may be read. Cancel safe.
    pub(crate) async fn has_room(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.state().has_room() {
                return;
            }
            room.await;
        }
    }

    /// Waits until everything is written and confirmed.
    pub(crate) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.state().is_idle() {
                return;
            }
            idle.await;
        }
    }
}

/// The request in a message, if it is one.
pub(crate) fn request_of(message: &Message) -> Option<&Request> {
    match message {
        Message::Outgoing(Outgoing::Request { request, .. }) => Some(request),
        _ => None,
    }
}

pub(crate) fn size_of(message: &Message) -> usize {
    let payload = match message {
        Message::Outgoing(Outgoing::Request { request, .. }) => request.arguments.bytes.len(),
        Message::Outgoing(Outgoing::Settle {
            reply: Some(Reply { outcome, .. }),
            ..
        }) => match outcome {
            Outcome::Returned(payload) | Outcome::Failed(payload) => payload.bytes.len(),
            Outcome::Fault(fault) => fault.message.len(),
        },
        Message::Ask(question) => question.commands.pieces().len(),
        Message::Outgoing(_) => 0,
        Message::Malformed { reason, .. } => reason.len(),
    };
    payload + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(size: usize) -> Message {
        Message::Malformed {
            entry: EntryId::ZERO,
            reason: "x".repeat(size),
        }
    }

    #[test]
    fn a_flush_is_bounded_in_bytes_but_never_empty() {
        let outbox = Outbox::default();
        for size in [
            MAX_FLUSH_BYTES * 2,
            MAX_FLUSH_BYTES / 2,
            MAX_FLUSH_BYTES / 4,
            MAX_FLUSH_BYTES,
        ] {
            outbox.push(letter(size));
        }
        let flushes: Vec<usize> = std::iter::repeat_with(|| outbox.take(9).len()).take(4).collect();
        assert_eq!(flushes, [1, 2, 1, 0]);
    }

    #[test]
    fn what_is_made_ready_counts_as_waiting_whatever_is_forgotten_meanwhile() {
        let outbox = Outbox::default();
        outbox.push(letter(1));
        outbox.hold(MAX_WAITING_BYTES);
        assert!(!outbox.state().has_room());
        outbox.forget_unless(|_| true);
        assert!(!outbox.state().has_room());
        outbox.settle(outbox.take(9).len(), Vec::new());
        assert!(!outbox.state().is_idle());
        outbox.release(MAX_WAITING_BYTES);
        assert!(outbox.state().is_idle() && outbox.state().has_room());
    }

    #[test]
    fn what_was_not_confirmed_comes_first() {
        let outbox = Outbox::default();
        outbox.push(letter(1));
        outbox.push(letter(2));
        let taken = outbox.take(9);
        outbox.push(letter(3));
        outbox.settle(0, taken);
        let sizes: Vec<usize> = outbox.take(9).iter().map(|m| size_of(m) - 128).collect();
        assert_eq!(sizes, [1, 2, 3]);
        outbox.settle(3, Vec::new());
        assert!(outbox.state().waiting.is_empty());
        assert_eq!(outbox.state().bytes, 0);
    }
}
