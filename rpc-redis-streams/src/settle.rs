//! Settling deliveries: transactions of replies, acknowledgements and dead letters. No IO in here.
//!
//! Redis refuses a transaction as a whole when it refuses one of its commands (out of memory, an ACL). So that one refused
//! command does not hold up all settlements for ever, those of a refused transaction are written again one by one.

use std::collections::BTreeMap;

use redis::Cmd;
use rpc_core::io::{Outgoing, Record};
use rpc_core::message::Reply;
use rpc_core::{EntryId, SessionId};

use crate::commands::Commands;
use crate::dedupe;
use crate::destination::{Destination, add_entry};
use crate::entry;
use crate::outbox::Message;
use crate::pieces::Pieces;
use crate::report::{Fate, Report, is_passing};
use crate::resp::Value;
use crate::transaction::{self, Run};
use crate::wire::{self, Form, Parts};

/// How many entries the dead-letter stream keeps, about.
const MAX_DEAD: u64 = 10_000;

/// Settlements that take effect together or not at all.
pub(crate) struct Settling {
    settlements: Vec<Message>,
    /// How many commands it has: first those of the dead letters, then those of the records, each
    /// in their order.
    commands: usize,
    /// How many of them are entries of replies.
    replies: usize,
    /// Results that lie elsewhere, and the commands that tell their callers where.
    stored: Vec<(usize, Parts)>,
}

impl Settling {
    /// Adds the commands of `settlements` to `commands`.
    pub(crate) fn add(settlements: Vec<Message>, to: &Destination, commands: &mut Commands) -> Self {
        let mut replies = Replies::new();
        let mut acknowledged = Vec::new();
        let (mut letters, mut records) = (Vec::new(), Vec::new());
        for settlement in &settlements {
            match settlement {
                Message::Outgoing(Outgoing::Settle {
                    caller,
                    reply,
                    acknowledge,
                    record,
                }) => {
                    records.extend(record.as_ref().map(|record| dedupe::record(to, record)));
                    pack(&mut replies, *caller, reply.as_ref());
                    acknowledged.extend(*acknowledge);
                }
                Message::Outgoing(Outgoing::DeadLetter {
                    caller,
                    reply,
                    entry,
                    index,
                    acknowledge,
                    reason,
                    attempts,
                }) => {
                    let part = Part {
                        index: Some(*index),
                        acknowledge: *acknowledge,
                    };
                    letters.push(add_dead_letter(to, *entry, part, reason, *attempts));
                    pack(&mut replies, *caller, reply.as_ref());
                }
                Message::Malformed { entry, reason } => {
                    let whole = Part {
                        index: None,
                        acknowledge: true,
                    };
                    letters.push(add_dead_letter(to, *entry, whole, reason, 1));
                }
                Message::Outgoing(_) | Message::Ask(_) => {}
            }
        }
        let entries = replies.len();
        let others = letters.len() + records.len();
        let stored = replies.values().enumerate().flat_map(|(number, (_, pack))| {
            let places = pack
                .iter()
                .filter_map(|reply| reply.outcome.payload().and_then(Parts::of));
            places.map(move |parts| (others + number, parts))
        });
        let stored = stored.collect();
        let count = others + entries + usize::from(!acknowledged.is_empty());
        transaction::add(commands, count, |commands| {
            for command in letters.iter().chain(&records) {
                commands.add(command);
            }
            for ((caller, ..), (form, pack)) in replies {
                // NOMKSTREAM: a caller that is gone must not get its inbox back.
                let message = |out: &mut Pieces| wire::replies(out, to.session, form, pack);
                add_entry(commands, &to.keys.inbox(caller), None, true, message);
            }
            if !acknowledged.is_empty() {
                commands.command("XACK", 2 + acknowledged.len());
                commands.arg(&to.keys.requests).arg(&to.group);
                for entry in acknowledged {
                    commands.id(entry);
                }
            }
        });
        Self {
            settlements,
            commands: count,
            replies: entries,
            stored,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.settlements.len()
    }

    /// How many bytes its answers have at the most, if nobody waits for them: those to a reply and to an acknowledgement tell
    /// something only where Redis refuses them, or where the caller is gone. Not with more than one caller: their inboxes may all
    /// be gone, and the answers that say so are much shorter than others.
    pub(crate) fn size_of_idle_answers(&self) -> Option<usize> {
        let is_idle = |settlement| letter_of(settlement).is_none() && record_of(settlement).is_none();
        let is_few = self.replies <= 1 && self.settlements.iter().all(is_idle);
        is_few.then(|| transaction::size_of_answers(self.replies, self.commands - self.replies))
    }

    pub(crate) fn into_settlements(self) -> Vec<Message> {
        self.settlements
    }

    /// Reads the answers to its commands.
    pub(crate) fn read(self, answers: &mut impl Iterator<Item = Value>, report: &mut Report) {
        match transaction::read(answers, self.commands) {
            Run::Together(results) => self.executed(&results, report),
            Run::Apart { answers, why } => {
                self.executed(&answers, report);
                report.trouble = Some(format!("replies and acknowledgements are not written together: {why}"));
            }
            Run::Refused { answers, why } => {
                let error = answers.iter().find_map(entry::error);
                let (code, why) = error.unwrap_or_else(|| (entry::code_of(&why), why.clone()));
                self.refused(code, why, report);
            }
        }
    }

    fn executed(self, results: &[Value], report: &mut Report) {
        report.fates.reserve(self.settlements.len());
        // NOMKSTREAM found no inbox.
        let gone = self
            .stored
            .iter()
            .filter(|(command, _)| results.get(*command) == Some(&Value::Nil));
        report.unwanted.extend(gone.map(|(_, parts)| *parts));
        let Some((_, why)) = results.iter().find_map(entry::error) else {
            let confirmed = self.settlements.iter().filter_map(acknowledged);
            report.fates.extend(confirmed.map(Fate::Confirmed));
            return;
        };
        report.trouble = Some(why);
        let letters = self.settlements.iter().filter(|s| letter_of(s).is_some()).count();
        let (mut letters, mut records) = (results.iter(), results.iter().skip(letters));
        for settlement in self.settlements {
            let letter = letter_of(&settlement).and_then(|_| letters.next());
            let record = record_of(&settlement).and_then(|_| records.next());
            // A letter that could not be copied has not been acknowledged either; all else has happened.
            match letter.and_then(entry::error) {
                Some((code, _)) if is_passing(code) => {
                    report.again.push(settlement);
                    continue;
                }
                Some((_, why)) => {
                    report.again.push(without_letter(settlement, &why));
                    continue;
                }
                None => report.fates.extend(acknowledged(&settlement).map(Fate::Confirmed)),
            }
            if record.and_then(entry::error).is_some_and(|(code, _)| is_passing(code)) {
                report.again.extend(only_record(settlement));
            }
        }
    }

    fn refused(mut self, code: &str, why: String, report: &mut Report) {
        report.demoted |= code == "READONLY";
        match self.settlements.pop() {
            // The one that is refused for good: not again at once, and never in the way of others.
            Some(only) if self.settlements.is_empty() && !is_passing(code) => match letter_of(&only) {
                Some(_) => report.again.push(without_letter(only, &why)),
                None => report.later.push(only),
            },
            last => {
                report.divide |= !self.settlements.is_empty();
                report.again.extend(self.settlements);
                report.again.extend(last);
            }
        }
        report.trouble = Some(why);
    }
}

/// Whether a message settles a delivery.
pub(crate) fn is_settlement(message: &Message) -> bool {
    match message {
        Message::Outgoing(message) => matches!(message, Outgoing::Settle { .. } | Outgoing::DeadLetter { .. }),
        Message::Malformed { .. } => true,
        Message::Ask(_) => false,
    }
}

/// The entry that a settlement copies to the dead letters.
fn letter_of(settlement: &Message) -> Option<EntryId> {
    match settlement {
        Message::Outgoing(Outgoing::DeadLetter { entry, .. }) | Message::Malformed { entry, .. } => Some(*entry),
        Message::Outgoing(_) | Message::Ask(_) => None,
    }
}

/// What a settlement stores under an idempotency key.
fn record_of(settlement: &Message) -> Option<&Record> {
    match settlement {
        Message::Outgoing(Outgoing::Settle { record, .. }) => record.as_deref(),
        _ => None,
    }
}

/// What is left of a settlement that has happened but for its record.
fn only_record(settlement: Message) -> Option<Message> {
    let Message::Outgoing(Outgoing::Settle { caller, record, .. }) = settlement else {
        return None;
    };
    Some(Message::Outgoing(Outgoing::Settle {
        caller,
        reply: None,
        acknowledge: None,
        record,
    }))
}

/// What is left of a settlement whose copy to the dead letters Redis refuses: an answer and an acknowledgement. Better
/// than an entry that is handed out again and again, or never.
fn without_letter(settlement: Message, why: &str) -> Message {
    let (caller, reply, entry, acknowledge, reason) = match settlement {
        Message::Outgoing(Outgoing::DeadLetter {
            caller,
            reply,
            entry,
            acknowledge,
            reason,
            ..
        }) => (caller, reply, entry, acknowledge, reason),
        // Nobody waits for an answer.
        Message::Malformed { entry, reason } => (SessionId::generate(), None, entry, true, reason),
        other => return other,
    };
    tracing::error!(%entry, reason, why, "a dead letter is lost: redis refuses to keep it; mend its permissions or keys");
    Message::Outgoing(Outgoing::Settle {
        caller,
        reply,
        acknowledge: acknowledge.then_some(entry),
        record: None,
    })
}

/// The replies of a transaction: those of one session and one form share an entry.
type Replies<'a> = BTreeMap<(SessionId, &'static str, bool), (Form, Vec<&'a Reply>)>;

fn pack<'a>(replies: &mut Replies<'a>, caller: SessionId, reply: Option<&'a Reply>) {
    if let Some(reply) = reply {
        let form = wire::form_of(reply);
        let whose = (caller, form.codec.name(), form.in_parts);
        let packed = replies.entry(whose).or_insert((form, Vec::new()));
        packed.1.push(reply);
    }
}

fn acknowledged(settlement: &Message) -> Option<EntryId> {
    match settlement {
        Message::Outgoing(Outgoing::Settle { acknowledge, .. }) => *acknowledge,
        Message::Outgoing(Outgoing::DeadLetter { entry, acknowledge, .. }) => acknowledge.then_some(*entry),
        Message::Malformed { entry, .. } => Some(*entry),
        Message::Outgoing(_) | Message::Ask(_) => None,
    }
}

/// What of an entry becomes a dead letter.
struct Part {
    /// The request; all of it if it is no entry of requests.
    index: Option<usize>,
    /// Whether nothing else of the entry is open.
    acknowledge: bool,
}

/// Copies an entry, as it stands in the stream, to the dead letters, or the one request of it that is to go there: with all
/// its fields (as many as Lua can pass on), behind those that say why; then acknowledges it, and only then. Arguments that lie in
/// parts, which go away, are put into it. A script, because only Redis has the fields at hand; it runs rarely.
///
/// An entry that is none of requests may be found again before this has happened, and is not copied when it is not pending any more.
/// (In a group that was destroyed meanwhile it is not known, and copied.)
const ADD_DEAD_LETTER: &str = "\
    local pending = not ARGV[9] and redis.pcall('XPENDING', KEYS[1], ARGV[6], ARGV[1], ARGV[1], 1) \
    if pending and not pending.err and not pending[1] then return 0 end \
    local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) \
    local fields = found[1] and found[1][2] or {} \
    if ARGV[9] and fields[2] then fields = {fields[1], whole(part(fields[2], tonumber(ARGV[9])), ARGV[8])} end \
    local letter = {'reason', ARGV[3], 'entry', ARGV[1], 'consumer', ARGV[4], 'attempts', ARGV[5]} \
    for i, field in ipairs(fields) do \
        if i <= 1000 then letter[#letter + 1] = field end \
    end \
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(letter)) \
    if ARGV[7] == '1' then redis.call('XACK', KEYS[1], ARGV[6], ARGV[1]) end \
    return 1";

fn add_dead_letter(to: &Destination, entry: EntryId, part: Part, reason: &str, attempts: u32) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command
        .arg(format!("{}{}{ADD_DEAD_LETTER}", wire::PART_IN_LUA, wire::WHOLE_IN_LUA))
        .arg(2)
        .arg(&to.keys.requests)
        .arg(&to.keys.dead);
    command
        .arg(entry.to_string())
        .arg(MAX_DEAD)
        .arg(reason)
        .arg(&to.consumer)
        .arg(attempts)
        .arg(&to.group)
        .arg(u8::from(part.acknowledge))
        .arg(to.keys.parts())
        .arg(part.index);
    command
}

#[cfg(all(test, feature = "messagepack"))]
mod tests {
    use std::time::Duration;

    use rpc_core::{Codec, Outcome};

    use super::*;

    #[test]
    fn the_replies_of_an_entry_are_of_one_codec() {
        let reply = |sequence, codec: Codec| Reply {
            sequence,
            outcome: Outcome::from_value(codec, &sequence),
            handler_time: Duration::ZERO,
        };
        let sent = [
            reply(1, Codec::Json),
            reply(2, Codec::MessagePack),
            reply(3, Codec::Json),
        ];
        let mut replies = Replies::new();
        let caller = SessionId::generate();
        for reply in &sent {
            pack(&mut replies, caller, Some(reply));
        }
        let packed = replies.values().map(|(form, pack)| {
            let sequences: Vec<_> = pack.iter().map(|reply| reply.sequence).collect();
            (form.codec, sequences)
        });
        assert_eq!(
            packed.collect::<Vec<_>>(),
            [(Codec::Json, vec![1, 3]), (Codec::MessagePack, vec![2])]
        );
    }
}
