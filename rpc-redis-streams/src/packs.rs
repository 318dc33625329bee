//! Packs that are handed out again. Each of their requests becomes an entry of its own, with its own count of attempts: one
//! that takes its workers along does not take its neighbours with it.

use redis::Pipeline;
use rpc_core::SessionId;
use rpc_core::message::{Kind, MAX_HEADERS, Request};
use tokio::time::Instant;

use crate::clock::Moment;
use crate::destination::Destination;
use crate::entry::Entry;
use crate::inbound::History;
use crate::pieces::Pieces;
use crate::wire::{self, Decoded};

/// The header that names the only group an entry is for. Every group of a stream reads what one of them splits, and the
/// others have had the pack.
pub(crate) const GROUP_HEADER: &str = "rpc-group";

/// Writes the entries of a pack's requests and acknowledges the pack, if it is still pending for this very consumer: asked
/// again after its answer was lost, or by a worker that has been taken for dead since, it does nothing.
const SPLIT: &str = "\
    local own = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) \
    if not own[1] then return 0 end \
    for i = 5, #ARGV do redis.call('XADD', KEYS[1], '*', ARGV[4], ARGV[i]) end \
    return redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])";

/// An entry of several requests that has been delivered before.
#[derive(Debug)]
pub(crate) struct Pack {
    /// As it came, for when it cannot be split.
    pub(crate) entry: Entry,
    pub(crate) history: History,
    caller: SessionId,
    /// With their deadlines, and the attempts that they are at now.
    requests: Vec<Request>,
    /// How many of its calls have expired: they are not written again.
    pub(crate) expired: u64,
}

impl Pack {
    /// The pack in an entry; gives the entry back if it is none, or if it is delivered for the first time: then it runs as it
    /// is.
    pub(crate) fn open(entry: Entry, history: History, moment: Moment) -> Result<Self, Entry> {
        if history.deliveries < 2 {
            return Err(entry);
        }
        // Payloads are slices, not copies.
        match wire::decode(entry.fields.clone(), moment.written(entry.id)) {
            Ok(Decoded::Requests { caller, mut requests }) if requests.len() > 1 => {
                // Not what may have been before the group was created anew: it would count as the death of a worker in the entries
                // that are written here, which are new.
                let seen = History {
                    forgotten: false,
                    ..history
                };
                seen.apply(&mut requests);
                let all = requests.len();
                let now = Instant::now();
                // An expired notification becomes a dead letter, when it is read.
                requests.retain(|request| request.kind == Kind::Notification || !request.is_expired(now));
                let expired = (all - requests.len()) as u64;
                Ok(Self {
                    entry,
                    history,
                    caller,
                    requests,
                    expired,
                })
            }
            _ => Err(entry),
        }
    }

    /// The command that splits it: an EVAL of XPENDING, an XADD for each request, and XACK.
    pub(crate) fn split(&mut self, to: &Destination) -> Pipeline {
        let mut split = redis::pipe();
        split.cmd("EVAL").arg(SPLIT).arg(1).arg(&to.keys.requests);
        split.arg(&to.group).arg(&to.consumer).arg(self.entry.id.to_string());
        split.arg(wire::FIELD);
        // The time to live starts anew with the id of the new entry: what is written is what is left.
        let now = Instant::now();
        for request in &mut self.requests {
            if request.headers.iter().len() < MAX_HEADERS {
                request.headers.insert(GROUP_HEADER, &to.group);
            }
            let entry = Pieces::written(|out| wire::requests(out, self.caller, [&*request], now));
            split.arg(Vec::from(entry));
        }
        split
    }
}

/// Whether an entry was written for another group only.
pub(crate) fn is_for_others(requests: &[Request], group: &str) -> bool {
    let whose = requests.first().and_then(|request| request.headers.get(GROUP_HEADER));
    whose.is_some_and(|whose| whose != group)
}

/// Takes away what names the group: a handler that passes its headers on is not to have its own calls skipped elsewhere.
pub(crate) fn hide_group(requests: &mut [Request]) {
    for request in requests {
        request.headers.remove(GROUP_HEADER);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant as StdInstant};

    use bytes::Bytes;
    use rpc_core::EntryId;

    use super::*;
    use crate::clock::Clock;
    use crate::keys::Keys;

    const PACK: &str = "\
call 01930000-0000-7000-8000-0000000000aa json
2 calc.add - 1 0 5
[2,3]
3 calc.divide 1500 2 23 5
{\"traceparent\":\"00-ab\"}[1,0]
4 calc.add 900 1 0 5
[2,3]
";

    const AGAIN: History = History {
        deliveries: 2,
        forgotten: false,
    };

    fn entry(value: &'static str) -> Entry {
        Entry {
            id: EntryId { ms: 10_000, seq: 0 },
            fields: [(Bytes::from(wire::FIELD), Bytes::from(value))].into_iter().collect(),
        }
    }

    /// A second after the entry was written.
    fn later() -> Moment {
        let clock = Clock::new();
        clock.set(11_000, StdInstant::now());
        clock.moment()
    }

    #[test]
    fn what_is_split_is_delivered_again_and_carries_several() {
        let single = "call 01930000-0000-7000-8000-0000000000aa json\n2 calc.add - 1 0 5\n[2,3]\n";
        assert!(Pack::open(entry(single), AGAIN, later()).is_err());
        assert!(Pack::open(entry("garbage"), AGAIN, later()).is_err());
        assert!(Pack::open(entry(PACK), History::NONE, later()).is_err());
        assert!(Pack::open(entry(PACK), AGAIN, later()).is_ok());
    }

    #[test]
    fn each_request_keeps_its_caller_its_deadline_and_its_attempts() {
        let mut pack = Pack::open(entry(PACK), AGAIN, later()).unwrap();
        assert_eq!(pack.expired, 1);
        let to = Destination {
            keys: Keys::new("calc"),
            session: SessionId::generate(),
            group: "workers".to_owned(),
            consumer: "w".to_owned(),
        };
        let command = String::from_utf8(pack.split(&to).get_packed_pipeline()).unwrap();
        let head = "call 01930000-0000-7000-8000-0000000000aa json\n";
        assert_eq!(command.matches(head).count(), 2);
        assert!(
            command.contains("2 calc.add - 2 23 5\n{\"rpc-group\":\"workers\"}[2,3]\n"),
            "{command}"
        );
        // The second was at its second attempt, and has about half a second left.
        let second = command.split("3 calc.divide ").nth(1).unwrap();
        let mut words = second.split(' ');
        let left: u64 = words.next().unwrap().parse().unwrap();
        assert!((400..=500).contains(&left), "{left}");
        assert_eq!(words.next(), Some("3"));
        assert!(command.contains("{\"traceparent\":\"00-ab\",\"rpc-group\":\"workers\"}[1,0]\n"));
    }

    #[test]
    fn whose_an_entry_is_is_not_shown_to_handlers() {
        let own = "call 01930000-0000-7000-8000-0000000000aa json\n2 calc.add - 2 31 5\n{\"rpc-group\":\"workers\",\"a\":\"b\"}[2,3]\n";
        let Ok(Decoded::Requests { mut requests, .. }) =
            wire::decode(entry(own).fields, later().written(EntryId::ZERO))
        else {
            panic!("{own}");
        };
        assert!(is_for_others(&requests, "others") && !is_for_others(&requests, "workers"));
        hide_group(&mut requests);
        let headers: Vec<_> = requests[0].headers.iter().collect();
        assert_eq!(headers, [("a", "b")]);
    }

    #[test]
    fn an_expired_notification_is_kept() {
        let notes = "notify 01930000-0000-7000-8000-0000000000aa json\n1 a.b 5 1 0 2\n[]\n2 a.b - 1 0 2\n[]\n";
        let pack = Pack::open(entry(notes), AGAIN, later()).unwrap();
        assert_eq!((pack.requests.len(), pack.expired), (2, 0));
        assert!(pack.requests[0].is_expired(Instant::now() + Duration::from_millis(1)));
    }
}
