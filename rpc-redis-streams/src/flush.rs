//! One flush: what is written in one go, and what its answers mean. No IO in here.

use std::collections::{BTreeMap, HashMap};

use redis::{Cmd, Pipeline, Value};
use rpc_core::io::{Outgoing, SendFailure};
use rpc_core::message::{Kind, Reply, Request, Target};
use rpc_core::{Codec, EntryId, IoError, SessionId};
use tokio::time::Instant;

use crate::dedupe;
use crate::destination::Destination;
use crate::entry;
use crate::outbox::Message;
use crate::wire;

/// How many entries the control stream and the dead-letter stream keep, about.
const MAX_CONTROL: u64 = 10_000;
const MAX_DEAD: u64 = 10_000;

/// How to write a flush.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// What requests cut the stream to.
    pub(crate) max_len: Option<u64>,
    /// Whether the length of the stream is to be known after requests were added to it.
    pub(crate) asks_length: bool,
}

/// Messages and the commands that carry them.
///
/// Requests are commands of their own, so that each succeeds or fails alone. All that settles deliveries is one
/// transaction: with Redis out of memory, a mere pipeline would lose the replies and keep the acknowledgements.
pub(crate) struct Flush {
    pub(crate) pipeline: Pipeline,
    /// In the order of their commands.
    singles: Vec<Outgoing>,
    cancels: Cancels,
    settlements: Vec<Message>,
    /// How many commands the transaction has, without MULTI and EXEC.
    transaction: usize,
    /// Whether the length of the stream is asked for, between requests and settlements.
    asks_length: bool,
    /// The last request's sequence number.
    pub(crate) last_sequence: u64,
}

/// What became of a message.
#[derive(Debug)]
pub(crate) enum Fate {
    Accepted(u64),
    Failed(u64, Target, SendFailure),
    Confirmed(EntryId),
}

/// What the answers to a flush mean.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) fates: Vec<Fate>,
    /// To be written again: Redis has not taken it.
    pub(crate) again: Vec<Message>,
    /// Why.
    pub(crate) trouble: Option<String>,
    /// How many entries the stream had, if that was asked for.
    pub(crate) length: Option<u64>,
    /// The server has become a replica: another one is to be found behind the address.
    pub(crate) demoted: bool,
}

impl Flush {
    pub(crate) fn new(messages: Vec<Message>, to: &Destination, options: Options, now: Instant) -> Self {
        let mut flush = Self {
            pipeline: Pipeline::with_capacity(messages.len() + 2),
            singles: Vec::new(),
            cancels: Cancels::new(),
            settlements: Vec::new(),
            transaction: 0,
            asks_length: false,
            last_sequence: 0,
        };
        for message in messages {
            match message {
                // Nobody waits for it any more.
                Message::Outgoing(Outgoing::Request { request, .. }) if request.is_expired(now) => {}
                Message::Outgoing(Outgoing::Request { target, request }) => {
                    flush
                        .pipeline
                        .add_command(add_request(to, options.max_len, target, &request, now));
                    flush.asks_length |= options.asks_length && target == Target::Stream;
                    flush.last_sequence = flush.last_sequence.max(request.sequence);
                    flush.singles.push(Outgoing::Request { target, request });
                }
                Message::Outgoing(Outgoing::SignalClose) => {
                    let control = xadd(&to.keys.control, Some(MAX_CONTROL), false);
                    flush
                        .pipeline
                        .add_command(with_message(control, wire::close(to.session)));
                    flush.singles.push(Outgoing::SignalClose);
                }
                // What has expired is not run anyway.
                Message::Outgoing(Outgoing::Cancel {
                    target,
                    sequence,
                    deadline,
                }) => {
                    if deadline.is_none_or(|deadline| deadline > now) {
                        let calls = flush.cancels.entry(target).or_default();
                        calls.push((sequence, deadline));
                    }
                }
                settlement => flush.settlements.push(settlement),
            }
        }
        flush.add_cancels(to, now);
        if flush.asks_length {
            flush.pipeline.cmd("XLEN").arg(&to.keys.requests);
        }
        flush.add_settlements(to);
        flush
    }

    /// Behind the requests, for which they may be meant.
    fn add_cancels(&mut self, to: &Destination, now: Instant) {
        for (target, calls) in &self.cancels {
            let command = match target {
                Target::Stream => xadd(&to.keys.control, Some(MAX_CONTROL), false),
                Target::Session(session) => xadd(&to.keys.inbox(*session), None, true),
            };
            let message = wire::cancel(to.session, calls.iter().copied(), now);
            self.pipeline.add_command(with_message(command, message));
        }
    }

    fn add_settlements(&mut self, to: &Destination) {
        let mut replies = Replies::new();
        let mut acknowledged = Vec::new();
        let mut commands = Vec::new();
        for settlement in &self.settlements {
            match settlement {
                Message::Outgoing(Outgoing::Settle {
                    caller,
                    reply,
                    acknowledge,
                    record,
                }) => {
                    commands.extend(record.as_ref().map(|record| dedupe::record(to, record)));
                    pack(&mut replies, *caller, reply.as_ref());
                    acknowledged.extend(*acknowledge);
                }
                Message::Outgoing(Outgoing::DeadLetter {
                    caller,
                    reply,
                    entry,
                    acknowledge,
                    reason,
                    attempts,
                }) => {
                    commands.push(add_dead_letter(to, *entry, *acknowledge, reason, *attempts));
                    pack(&mut replies, *caller, reply.as_ref());
                }
                Message::Malformed { entry, reason } => {
                    commands.push(add_dead_letter(to, *entry, true, reason, 1));
                }
                Message::Outgoing(_) => {}
            }
        }
        for ((caller, _), (codec, pack)) in replies {
            // NOMKSTREAM: a caller that is gone must not get its inbox back.
            let inbox = xadd(&to.keys.inbox(caller), None, true);
            commands.push(with_message(inbox, wire::replies(to.session, codec, pack)));
        }
        if !acknowledged.is_empty() {
            let mut ack = redis::cmd("XACK");
            ack.arg(&to.keys.requests).arg(&to.group);
            for entry in acknowledged {
                ack.arg(entry.to_string());
            }
            commands.push(ack);
        }
        if commands.is_empty() {
            return;
        }
        self.transaction = commands.len();
        self.pipeline.cmd("MULTI");
        for command in commands {
            self.pipeline.add_command(command);
        }
        self.pipeline.cmd("EXEC");
    }

    /// How many requests and signals it carries.
    pub(crate) fn requests(&self) -> usize {
        self.singles.len()
    }

    /// How many commands and settlements it carries; zero if nothing was worth sending.
    pub(crate) fn len(&self) -> usize {
        self.singles.len() + self.cancels.len() + self.settlements.len()
    }

    /// Reads the answers, one for each command.
    pub(crate) fn read(self, answers: Vec<Value>) -> Report {
        let mut report = Report::default();
        let mut answers = answers.into_iter();
        for single in self.singles {
            let answer = answers.next().unwrap_or_default();
            if let Outgoing::Request { target, request } = single {
                match judge(&answer, target) {
                    Ok(()) if request.kind == Kind::Notification => report.fates.push(Fate::Accepted(request.sequence)),
                    Ok(()) => {}
                    Err(Refusal::Final(failure)) => {
                        report.fates.push(Fate::Failed(request.sequence, target, failure));
                    }
                    Err(Refusal::NotYet(why)) => {
                        report.demoted |= why.starts_with("READONLY");
                        report.trouble = Some(why);
                        report
                            .again
                            .push(Message::Outgoing(Outgoing::Request { target, request }));
                    }
                }
            }
        }
        // A cancel that Redis does not take is no loss: the call runs to its end.
        answers.by_ref().take(self.cancels.len()).for_each(drop);
        if self.asks_length {
            report.length = answers.next().as_ref().and_then(entry::number);
        }
        if self.transaction == 0 {
            return report;
        }
        // MULTI and the commands it queues; an error among these makes EXEC fail, and says why.
        let queued: Vec<Value> = answers.by_ref().take(1 + self.transaction).collect();
        match answers.next() {
            Some(Value::Array(results)) => {
                report.trouble = results.iter().find_map(entry::error).map(|(_, text)| text);
                let acknowledged = self.settlements.iter().filter_map(acknowledged);
                report.fates.extend(acknowledged.map(Fate::Confirmed));
            }
            refused => {
                let why = queued
                    .iter()
                    .chain(&refused)
                    .find_map(entry::error)
                    .map(|(_, text)| text);
                report.demoted |= why.as_deref().is_some_and(|why| why.starts_with("READONLY"));
                report.trouble = Some(why.unwrap_or_else(|| "EXEC was not executed".to_owned()));
                report.again.extend(self.settlements);
            }
        }
        report
    }

    /// What to do after the connection broke before the answers came.
    ///
    /// Settlements are repeated: a second reply is ignored by its receiver and a second XACK does nothing. Requests are
    /// repeated as well, because by default a call may run twice (a subscriber recognises the repeat); those that may not
    /// end here.
    pub(crate) fn into_report(self) -> Report {
        let mut report = Report::default();
        for single in self.singles {
            match single {
                Outgoing::Request { target, request } if request.at_most_once => {
                    let lost = "the connection broke while the call was sent".to_owned();
                    let fate = Fate::Failed(request.sequence, target, SendFailure::Indeterminate(lost));
                    report.fates.push(fate);
                }
                single => report.again.push(Message::Outgoing(single)),
            }
        }
        for (target, calls) in self.cancels {
            report.again.extend(calls.into_iter().map(|(sequence, deadline)| {
                Message::Outgoing(Outgoing::Cancel {
                    target,
                    sequence,
                    deadline,
                })
            }));
        }
        report.again.extend(self.settlements);
        report
    }
}

/// The calls of a flush that were given up, by where they went: those of one target share an entry.
type Cancels = HashMap<Target, Vec<(u64, Option<Instant>)>>;

/// The replies of a flush: those of one session and one codec share an entry.
type Replies<'a> = BTreeMap<(SessionId, &'static str), (Codec, Vec<&'a Reply>)>;

fn pack<'a>(replies: &mut Replies<'a>, caller: SessionId, reply: Option<&'a Reply>) {
    if let Some(reply) = reply {
        let codec = wire::codec_of(reply);
        let packed = replies.entry((caller, codec.name())).or_insert((codec, Vec::new()));
        packed.1.push(reply);
    }
}

fn acknowledged(settlement: &Message) -> Option<EntryId> {
    match settlement {
        Message::Outgoing(Outgoing::Settle { acknowledge, .. }) => *acknowledge,
        Message::Outgoing(Outgoing::DeadLetter { entry, acknowledge, .. }) => acknowledge.then_some(*entry),
        Message::Malformed { entry, .. } => Some(*entry),
        Message::Outgoing(_) => None,
    }
}

/// Why Redis did not take a request.
enum Refusal {
    Final(SendFailure),
    /// It will, in a moment.
    NotYet(String),
}

fn judge(answer: &Value, target: Target) -> Result<(), Refusal> {
    let Some((code, text)) = entry::error(answer) else {
        return match (answer, target) {
            // NOMKSTREAM found no inbox.
            (Value::Nil, Target::Session(_)) => Err(Refusal::Final(SendFailure::SessionGone)),
            _ => Ok(()),
        };
    };
    Err(match code {
        "LOADING" | "BUSY" | "READONLY" | "TRYAGAIN" | "MASTERDOWN" | "CLUSTERDOWN" => Refusal::NotYet(text),
        "OOM" => Refusal::Final(SendFailure::Overloaded("redis is out of memory".to_owned())),
        _ => Refusal::Final(SendFailure::NotSent(IoError::new(text))),
    })
}

fn add_request(to: &Destination, max_len: Option<u64>, target: Target, request: &Request, now: Instant) -> Cmd {
    let command = match target {
        Target::Stream => xadd(&to.keys.requests, max_len, false),
        Target::Session(session) => xadd(&to.keys.inbox(session), None, true),
    };
    with_message(command, wire::requests(to.session, [request], now))
}

/// Copies an entry, as it stands in the stream, to the dead letters: with all its fields (as many as Lua can pass on),
/// behind those that say why; then acknowledges it, and only then. A script, because only Redis has the fields at hand; it
/// runs rarely.
const ADD_DEAD_LETTER: &str = "\
    local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) \
    local letter = {'reason', ARGV[3], 'entry', ARGV[1], 'consumer', ARGV[4], 'attempts', ARGV[5]} \
    for i, field in ipairs(found[1] and found[1][2] or {}) do \
        if i <= 1000 then letter[#letter + 1] = field end \
    end \
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(letter)) \
    if ARGV[7] == '1' then redis.call('XACK', KEYS[1], ARGV[6], ARGV[1]) end \
    return 1";

fn add_dead_letter(to: &Destination, entry: EntryId, acknowledge: bool, reason: &str, attempts: u32) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command
        .arg(ADD_DEAD_LETTER)
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
        .arg(u8::from(acknowledge));
    command
}

/// XADD as far as its options, which stand before the id: behind it they would be fields.
fn xadd(key: &str, max_len: Option<u64>, only_existing: bool) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(key);
    if only_existing {
        command.arg("NOMKSTREAM");
    }
    if let Some(max_len) = max_len {
        command.arg("MAXLEN").arg("~").arg(max_len);
    }
    command
}

fn with_message(mut command: Cmd, message: Vec<u8>) -> Cmd {
    command.arg("*").arg(wire::FIELD).arg(message);
    command
}
