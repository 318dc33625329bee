//! Pending entries: those of dead workers, and those that this consumer has been handed and does not hold.

use std::sync::atomic::Ordering;

use rpc_core::EntryId;
use tokio::time::Instant;

use super::GroupReader;
use crate::appetite::READ_COUNT;
use crate::claim::{ALONE_FOR, Claimed, ClaimedEntry, claim};
use crate::creation::ask_boundary;
use crate::entry::{self, Entry};
use crate::error::RedisStreamsError;
use crate::outbox::Message;
use crate::packs::Pack;
use crate::resp::Value;
use crate::takeover::Estate;

/// How many pending entries are looked at in one go.
const PENDING_PAGE: usize = 256;

/// The length of the first field of an entry.
const SIZE: &str = "\
    local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) \
    return found[1] and #(found[1][2][2] or '') or 0";

/// What Redis could be thought to hang up on for its size.
const LARGE: u64 = 256 << 10;

/// After so many lost connections in a row, an entry is looked at more closely before it is fetched again.
const SUSPICIOUS: u32 = 3;

/// The entry that was being fetched when connections were lost, one after the other.
#[derive(Debug, Default)]
pub(super) struct Unfetched {
    entry: EntryId,
    losses: u32,
    given_up: bool,
}

impl Unfetched {
    fn lost(&mut self, entry: EntryId) {
        if self.entry != entry {
            *self = Self {
                entry,
                ..Self::default()
            };
        }
        self.losses += 1;
    }

    fn is_suspicious(&self, entry: EntryId) -> bool {
        self.entry == entry && self.losses >= SUSPICIOUS
    }

    /// True the first time: it is pending until the writer has settled it.
    fn give_up(&mut self, entry: EntryId) -> bool {
        self.entry == entry && !std::mem::replace(&mut self.given_up, true)
    }
}

impl GroupReader {
    /// Takes over what dead workers have left, as far as there is room; returns how many entries that were.
    ///
    /// By a script that asks again whether the owner is dead. Never by XAUTOCLAIM, which would take hours-long calls from
    /// live workers.
    pub(super) async fn take_over(&mut self, room: usize) -> Result<usize, RedisStreamsError> {
        let mut taken = 0;
        self.held_up = false;
        for estate in self.io.estates.open() {
            let room = (room - taken).min(READ_COUNT);
            if room == 0 {
                break;
            }
            match self.claim(&estate, room).await {
                Ok(claimed) => taken += claimed,
                // The reader's own read finds that out, too, and creates the group anew.
                Err(RedisStreamsError::CommandRefused { answer, .. }) if answer.contains("NOGROUP") => return Ok(0),
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    async fn claim(&mut self, estate: &Estate, most: usize) -> Result<usize, RedisStreamsError> {
        let max_deliveries = self.io.config.settings().max_deliveries;
        let claim = claim(
            &self.io.destination,
            estate,
            most,
            max_deliveries,
            self.is_nobody_alone(),
        );
        let answer = self
            .io
            .connector
            .ask(&mut self.connection, "EVAL of the take-over", &claim)
            .await?
            .pop();
        let claimed = Claimed::read(answer.unwrap_or_default());
        self.held_up |= claimed.held_up;
        self.learn_boundary(claimed.boundary);
        let mut taken = 0;
        let mut packs = Vec::new();
        for ClaimedEntry {
            entry,
            deliveries,
            alone,
        } in claimed.entries
        {
            if entry.fields.is_empty() {
                // Deleted while it was pending: there is nothing left to run.
                self.endpoint.missed(1);
                continue;
            }
            let closed = estate.is_handed_back();
            tracing::info!(entry = %entry.id, from = estate.consumer, closed, "took over the entry of a worker that is gone");
            taken += 1;
            if alone {
                self.alone = Some((entry.id, Instant::now()));
            }
            match self.open_pack(entry, deliveries) {
                Ok(pack) => packs.push(pack),
                Err(entry) => self.deliver(entry, deliveries),
            }
        }
        // Last, because the connection may break here: what is not split by then is found by the next look.
        for pack in packs {
            self.split(pack).await?;
        }
        Ok(taken)
    }

    /// Whether no entry of those that are run for the last time is in hand, or it has been for long enough.
    fn is_nobody_alone(&self) -> bool {
        self.alone
            .is_none_or(|(entry, since)| !self.endpoint.holds(entry) || since.elapsed() >= ALONE_FOR)
    }

    /// The pack in an entry that was delivered before, unless it is none, or this worker still has it in hand: it has come back
    /// to one that was taken for dead.
    fn open_pack(&self, entry: Entry, deliveries: u32) -> Result<Pack, Entry> {
        if self.endpoint.holds(entry.id) {
            return Err(entry);
        }
        let history = self.history(entry.id, deliveries);
        Pack::open(entry, history, self.io.clock.moment())
    }

    async fn split(&mut self, mut pack: Pack) -> Result<(), RedisStreamsError> {
        let split = pack.split(&self.io.destination);
        match self
            .io
            .connector
            .ask(&mut self.connection, "EVAL that splits a pack", &split)
            .await
        {
            Ok(_) => {
                self.endpoint.expired(pack.expired);
                Ok(())
            }
            // Out of memory, say. Better run as it is than not at all.
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                self.io.warn_rarely("redis refuses to split an entry", &answer);
                self.deliver(pack.entry, pack.history.deliveries);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// By XPENDING and XRANGE, because a re-read by XREADGROUP would raise Redis's count of deliveries.
    pub(super) async fn take_up_pending(&mut self) -> Result<(), RedisStreamsError> {
        let mut from = EntryId::ZERO;
        loop {
            // Taken before the question: what is settled and forgotten between the two is listed as pending, and is not
            // held any more. Only this reader adds to what is held.
            let held = self.endpoint.held();
            let to = &self.io.destination;
            let mut pending = redis::pipe();
            pending
                .cmd("XPENDING")
                .arg(&to.keys.requests)
                .arg(&to.group)
                .arg(from.to_string())
                .arg("+");
            pending.arg(PENDING_PAGE).arg(&to.consumer);
            let answer = self
                .io
                .connector
                .ask(&mut self.connection, "XPENDING", &pending)
                .await?
                .pop();
            let page: Vec<(EntryId, u32)> = entry::list(answer.unwrap_or_default())
                .into_iter()
                .filter_map(pending_entry)
                .collect();
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = last.next();
            for (id, deliveries) in page {
                if self.io.draining.is_cancelled() {
                    return Ok(());
                }
                if !held.contains(&id) && !self.endpoint.holds(id) {
                    self.take_up(id, deliveries).await?;
                }
            }
        }
    }

    async fn take_up(&mut self, id: EntryId, deliveries: u32) -> Result<(), RedisStreamsError> {
        const READ_PENDING: &str = "read a pending entry";
        if self.is_hopeless(id).await? {
            return Ok(());
        }
        let (to, id_text) = (&self.io.destination, id.to_string());
        let mut question = redis::pipe();
        let deliveries = if self.io.inherited.load(Ordering::Acquire) {
            question
                .cmd("XRANGE")
                .arg(&to.keys.requests)
                .arg(&id_text)
                .arg(&id_text);
            deliveries
        } else {
            // Left by a process of this name that has died, which is a take-over: it counts as one more delivery.
            question
                .cmd("XCLAIM")
                .arg(&to.keys.requests)
                .arg(&to.group)
                .arg(&to.consumer);
            question.arg(0).arg(&id_text);
            deliveries.saturating_add(1)
        };
        question.add_command(ask_boundary(to));
        let answers = self
            .io
            .connector
            .ask_raw(&mut self.connection, READ_PENDING, &question)
            .await;
        if let Err(RedisStreamsError::Command { .. }) = answers {
            self.unfetched.lost(id);
        }
        let mut answers = answers?.into_iter();
        let answer = answers.next().unwrap_or_default();
        if let Some((_, answer)) = entry::error(&answer) {
            let command = READ_PENDING;
            return Err(RedisStreamsError::CommandRefused { command, answer });
        }
        self.learn_boundary(answers.next().as_ref().and_then(entry::id));
        match entry::entries(answer).pop() {
            Some(entry) => match self.open_pack(entry, deliveries) {
                Ok(pack) => self.split(pack).await?,
                Err(entry) => self.deliver(entry, deliveries),
            },
            None => {
                // Trimmed or deleted by somebody: nothing is left to run, but it is not to be pending for ever.
                self.endpoint.missed(1);
                self.io.outbox.push(Message::Malformed {
                    entry: id,
                    reason: "the entry was deleted while it was pending".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether an entry is not to be fetched: Redis hangs up on each who does, because it is larger than an answer may be.
    /// Then it goes to the dead letters as it is, or all that is behind it would wait for ever.
    async fn is_hopeless(&mut self, id: EntryId) -> Result<bool, RedisStreamsError> {
        if !self.unfetched.is_suspicious(id) {
            return Ok(false);
        }
        let mut question = redis::pipe();
        question.cmd("EVAL").arg(SIZE).arg(1);
        question.arg(&self.io.destination.keys.requests).arg(id.to_string());
        let answer = self
            .io
            .connector
            .ask(&mut self.connection, "EVAL of the size of an entry", &question)
            .await?
            .pop();
        let size = answer.as_ref().and_then(entry::number).unwrap_or(0);
        // A small one is not the reason.
        if size < LARGE {
            return Ok(false);
        }
        if self.unfetched.give_up(id) {
            let reason = format!("redis hangs up on its {size} bytes; see its client-output-buffer-limit");
            tracing::error!(entry = %id, reason, "a dead letter");
            self.endpoint.malformed();
            self.io.outbox.push(Message::Malformed { entry: id, reason });
        }
        Ok(true)
    }
}

/// A row of XPENDING: `[id, consumer, idle, deliveries]`.
fn pending_entry(row: Value) -> Option<(EntryId, u32)> {
    let row = entry::list(row);
    let deliveries = row.get(3).and_then(entry::number).unwrap_or(1);
    Some((entry::id(row.first()?)?, u32::try_from(deliveries).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_suspicious_after_three_losses_in_a_row_and_given_up_once() {
        let (one, two) = (EntryId { ms: 1, seq: 0 }, EntryId { ms: 2, seq: 0 });
        let mut unfetched = Unfetched::default();
        unfetched.lost(one);
        unfetched.lost(one);
        unfetched.lost(two);
        unfetched.lost(two);
        assert!(!unfetched.is_suspicious(two) && !unfetched.is_suspicious(one));
        unfetched.lost(two);
        assert!(unfetched.is_suspicious(two));
        assert!(unfetched.give_up(two));
        assert!(!unfetched.give_up(two) && unfetched.is_suspicious(two));
    }
}
