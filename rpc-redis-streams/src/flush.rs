//! One flush: what is written in one go. No IO in here.

mod answers;

use std::collections::HashMap;
use std::time::Duration;

use rpc_core::io::Outgoing;
use rpc_core::message::{Kind, Request, Target};
use tokio::time::Instant;

use crate::commands::Commands;
use crate::destination::{Destination, add_entry, begin_entry};
use crate::outbox::{Message, Question, request_of};
use crate::packing::Packing;
use crate::pieces::Pieces;
use crate::settle::{Settling, is_settlement};
use crate::transaction;
use crate::wire;

/// How many entries the control stream keeps, about.
const MAX_CONTROL: u64 = 10_000;

/// How many requests are added in one transaction at the most. Few go through Redis and worker in one go, which takes the least of
/// everybody's time; of many, Redis is to add some while a worker runs others.
const TOGETHER: usize = 256;

/// How many bytes an XADD has in front of its value, but for a long name.
const BEGINNING_SIZE: usize = 128;

/// How much work they are at the most: the worker whose read they end gets all of them, while its neighbours wait.
const WORK_TOGETHER: Duration = Duration::from_millis(1);

/// Of how many messages the answers may be left lying at the most. With more than a few calls under way, whoever is woken for
/// them finds something to do. Nor could it be told by their size, which is not quite known, whether an entry that was read has come
/// behind those to many.
const MAX_IDLE: usize = 16;

/// How to write a flush.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// What requests cut the stream to.
    pub(crate) max_len: Option<u64>,
    /// How many requests share an entry at the most.
    pub(crate) max_pack: usize,
    /// Whether the length of the stream is to be known after requests were added to it.
    pub(crate) asks_length: bool,
    /// Whether each request and each settlement is written by itself: then one that Redis refuses does not take others along.
    pub(crate) divided: bool,
}

/// Messages whose commands are written.
///
/// All that settles deliveries is one transaction: with Redis out of memory, a mere pipeline would lose the replies and keep the
/// acknowledgements. Requests of fast methods are transactions for another reason: the first one that is added ends the blocking read
/// of a worker, which is to bring all of them. Others are not: each is to end the read of another worker.
pub(crate) struct Flush {
    /// In the order of their commands.
    packing: Packing,
    /// How many signals to close follow them.
    signals: usize,
    cancels: Cancels,
    /// The questions of others, and who wants the answers.
    questions: Vec<Question>,
    settlings: Vec<Settling>,
    /// How many entries of requests each of their transactions adds.
    together: Vec<usize>,
    /// Whether the length of the stream is asked for, between requests and settlements.
    asks_length: bool,
    /// The last request's sequence number.
    pub(crate) last_sequence: u64,
}

impl Flush {
    /// Adds the commands of `messages` to `commands`.
    pub(crate) fn new(
        messages: Vec<Message>,
        to: &Destination,
        options: Options,
        now: Instant,
        commands: &mut Commands,
    ) -> Self {
        let requests = messages.iter().filter(|message| request_of(message).is_some()).count();
        let mut flush = Self {
            packing: Packing::new(options.max_pack, options.max_len.is_some(), requests),
            signals: 0,
            cancels: Cancels::new(),
            questions: Vec::new(),
            settlings: Vec::new(),
            together: Vec::new(),
            asks_length: false,
            last_sequence: 0,
        };
        let settlements: Vec<Message> = if messages.iter().all(is_settlement) {
            messages
        } else {
            let others = messages.into_iter();
            others.filter_map(|message| flush.take(message, options, now)).collect()
        };
        flush.together = divide(&flush.packing, if options.divided { 1 } else { TOGETHER });
        flush.add_requests(to, options.max_len, now, commands);
        flush.add_cancels(to, now, commands);
        flush.add_questions(commands);
        if flush.asks_length {
            commands.command("XLEN", 1).arg(&to.keys.requests);
        }
        if options.divided {
            let each = settlements.into_iter().map(|settlement| vec![settlement]);
            flush.settlings = each.map(|one| Settling::add(one, to, commands)).collect();
        } else if !settlements.is_empty() {
            flush.settlings = vec![Settling::add(settlements, to, commands)];
        }
        flush
    }

    /// Takes a message that settles nothing; gives back one that does.
    fn take(&mut self, message: Message, options: Options, now: Instant) -> Option<Message> {
        match message {
            Message::Ask(question) => self.questions.push(question),
            // Nobody waits for it any more.
            Message::Outgoing(Outgoing::Request { request, .. }) if request.is_expired(now) => {}
            Message::Outgoing(Outgoing::Request { target, request }) => {
                self.asks_length |= options.asks_length && target == Target::Stream;
                self.last_sequence = self.last_sequence.max(request.sequence);
                self.packing.add(target, request);
            }
            Message::Outgoing(Outgoing::SignalClose) => self.signals += 1,
            Message::Outgoing(Outgoing::Cancel {
                target,
                sequence,
                deadline,
            }) => {
                // What has expired is not run anyway.
                if deadline.is_none_or(|deadline| deadline > now) {
                    self.cancels.entry(target).or_default().push((sequence, deadline));
                }
            }
            settlement => return Some(settlement),
        }
        None
    }

    fn add_requests(&self, to: &Destination, max_len: Option<u64>, now: Instant, commands: &mut Commands) {
        let mut packs = self.packing.iter();
        // What is the same for all that goes to the stream. Most flushes of a worker have nothing that does.
        let mut beginning = Commands::default();
        if !self.together.is_empty() {
            beginning = Commands::with_capacity(BEGINNING_SIZE);
            begin_entry(&mut beginning, &to.keys.requests, max_len, false);
        }
        for count in &self.together {
            transaction::add(commands, *count, |commands| {
                for (target, requests) in packs.by_ref().take(*count) {
                    let message = |out: &mut Pieces| wire::requests(out, to.session, requests, now);
                    match target {
                        Target::Stream => {
                            commands.append(&beginning);
                            commands.value(message);
                        }
                        Target::Session(session) => add_entry(commands, &to.keys.inbox(session), None, true, message),
                    }
                }
            });
        }
        for _ in 0..self.signals {
            let message = |out: &mut Pieces| wire::close(out, to.session);
            add_entry(commands, &to.keys.control, Some(MAX_CONTROL), false, message);
        }
    }

    /// Behind the requests, for which they may be meant.
    fn add_cancels(&self, to: &Destination, now: Instant, commands: &mut Commands) {
        for (target, calls) in &self.cancels {
            let message = |out: &mut Pieces| wire::cancel(out, to.session, calls.iter().copied(), now);
            match target {
                Target::Stream => add_entry(commands, &to.keys.control, Some(MAX_CONTROL), false, message),
                Target::Session(session) => add_entry(commands, &to.keys.inbox(*session), None, true, message),
            }
        }
    }

    fn add_questions(&self, commands: &mut Commands) {
        for question in &self.questions {
            commands.append(&question.commands);
        }
    }

    /// How many entries of requests and signals it carries.
    pub(crate) fn requests(&self) -> usize {
        self.packing.len() + self.signals
    }

    /// How many commands and settlements it carries; zero if nothing was worth sending.
    pub(crate) fn len(&self) -> usize {
        let settlements: usize = self.settlings.iter().map(Settling::len).sum();
        self.packing.len() + self.signals + self.cancels.len() + self.questions.len() + settlements
    }

    /// How many bytes its answers have at the most, if they are few and nobody waits for them: those to a call and to a reply
    /// tell something only where Redis refuses them, and errors are longer (but for that of a transaction of many that Redis refuses
    /// only when it is to be executed).
    pub(crate) fn size_of_idle_answers(&self) -> Option<usize> {
        let others = self.signals + self.cancels.len() + self.questions.len() + usize::from(self.asks_length);
        let settlements: usize = self.settlings.iter().map(Settling::len).sum();
        let is_idle = |(target, pack): (Target, &[Request])| target == Target::Stream && pack[0].kind == Kind::Call;
        let is_one = self.together.len() <= 1 && self.settlings.len() <= 1;
        if others > 0
            || !is_one
            || self.packing.requests() + settlements > MAX_IDLE
            || !self.packing.iter().all(is_idle)
        {
            return None;
        }
        let requests = transaction::size_of_answers(self.packing.len(), 0);
        match self.settlings.first() {
            Some(settling) => Some(requests + settling.size_of_idle_answers()?),
            None => Some(requests),
        }
    }
}

/// How many entries go together, in their order, so that each lot has at most `most` requests, known to be little work, or is a
/// single entry.
fn divide(packing: &Packing, most: usize) -> Vec<usize> {
    let mut lots = Vec::new();
    // For how many requests and how much work the last lot has room.
    let mut room = None;
    for (_, pack) in packing.iter() {
        let work: Option<Duration> = pack.iter().map(|request| request.packable).sum();
        let left =
            |(requests, time): (usize, Duration)| Some((requests.checked_sub(pack.len())?, time.checked_sub(work?)?));
        room = match (lots.last_mut(), room.and_then(left)) {
            (Some(lot), left @ Some(_)) => {
                *lot += 1;
                left
            }
            _ => {
                lots.push(1);
                left((most, WORK_TOGETHER))
            }
        };
    }
    lots
}

/// The calls of a flush that were given up, by where they went: those of one target share an entry.
type Cancels = HashMap<Target, Vec<(u64, Option<Instant>)>>;

#[cfg(test)]
mod tests {
    use rpc_core::SessionId;

    use super::*;
    use crate::keys::Keys;
    use crate::packing::tests::request;

    pub(super) fn to_stream(request: Request) -> Message {
        let target = Target::Stream;
        Message::Outgoing(Outgoing::Request { target, request })
    }

    pub(super) fn calls(count: u64) -> Vec<Message> {
        calls_of(Some(Duration::from_micros(1)), count)
    }

    fn calls_of(work: Option<Duration>, count: u64) -> Vec<Message> {
        let call = |sequence| Request {
            sequence,
            ..request(work, 2)
        };
        (0..count).map(|sequence| to_stream(call(sequence))).collect()
    }

    pub(super) fn written(messages: Vec<Message>, divided: bool) -> (Flush, Commands) {
        let to = Destination {
            keys: Keys::new("calc"),
            session: SessionId::generate(),
            group: "workers".to_owned(),
            consumer: "one".to_owned(),
        };
        let options = Options {
            max_len: None,
            max_pack: 1,
            asks_length: false,
            divided,
        };
        let mut commands = Commands::default();
        let flush = Flush::new(messages, &to, options, Instant::now(), &mut commands);
        (flush, commands)
    }

    #[test]
    fn requests_are_added_together_but_not_too_many() {
        let most = TOGETHER as u64;
        let extra = |count, divided| written(calls(count), divided).1.len() as u64 - count;
        assert_eq!(extra(1, false), 0);
        assert_eq!(extra(most, false), 2);
        assert_eq!(extra(2 * most, false), 4);
        assert_eq!(extra(most + 1, false), 2, "the last by itself");
        assert_eq!(extra(most, true), 0);
    }

    #[test]
    fn what_takes_long_or_may_is_not_added_together() {
        let extra = |work, count| written(calls_of(work, count), false).1.len() as u64 - count;
        assert_eq!(extra(None, 8), 0, "not known");
        assert_eq!(extra(Some(WORK_TOGETHER * 2), 8), 0);
        assert_eq!(extra(Some(WORK_TOGETHER / 2), 8), 4 * 2);
        assert_eq!(extra(Some(WORK_TOGETHER / 8), 8), 2);
    }
}
