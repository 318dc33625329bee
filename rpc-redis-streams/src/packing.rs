//! Which requests share an entry. No IO in here.

use std::time::Duration;

use rpc_core::delivery::MAX_PACK;
use rpc_core::message::{Request, Target};

use crate::wire::Form;

/// How much work a pack holds at the most: it goes to one worker, whose neighbours may be idle.
const MAX_WORK: Duration = Duration::from_micros(200);

/// How many bytes of arguments a pack holds at the most: from there on the bytes cost Redis more than the entry.
const MAX_BYTES: usize = 64 << 10;

/// Of a stream that keeps a number of entries rather than what is not settled: its memory is not to be a multiple of what it would be
/// with calls that stand alone.
const MAX_BYTES_KEPT: usize = 4 << 10;

/// Requests in their order, put together as they come.
#[derive(Debug)]
pub(crate) struct Packing {
    /// How many requests share an entry at the most, and how many bytes of arguments.
    most: usize,
    most_bytes: usize,
    requests: Vec<Request>,
    /// Where each pack goes, and how many of the requests it has: all of one kind and codec.
    packs: Vec<(Target, usize)>,
    /// The work and the bytes in the last pack; `None` if nothing may join it.
    open: Option<(Duration, usize)>,
}

impl Packing {
    /// For about so many requests, to a stream that `keeps` a number of entries, or none that is settled.
    pub(crate) fn new(most: usize, keeps: bool, requests: usize) -> Self {
        Self {
            most: most.min(MAX_PACK),
            most_bytes: if keeps { MAX_BYTES_KEPT } else { MAX_BYTES },
            requests: Vec::with_capacity(requests),
            packs: Vec::new(),
            open: None,
        }
    }

    /// Adds a request to the last pack, or begins another.
    pub(crate) fn add(&mut self, target: Target, request: Request) {
        let bytes = request.arguments.size();
        let work = request.packable.filter(|_| target == Target::Stream && self.most > 1);
        match (&mut self.open, work, self.packs.last_mut(), self.requests.last()) {
            (Some((open_work, open_bytes)), Some(work), Some((_, requests)), Some(last))
                if *requests < self.most
                    && *open_work + work <= MAX_WORK
                    && *open_bytes + bytes <= self.most_bytes
                    && last.kind == request.kind
                    && Form::of(&last.arguments) == Form::of(&request.arguments) =>
            {
                *open_work += work;
                *open_bytes += bytes;
                *requests += 1;
            }
            _ => {
                self.open = work.map(|work| (work, bytes));
                self.packs.push((target, 1));
            }
        }
        self.requests.push(request);
    }

    /// How many packs there are.
    pub(crate) fn len(&self) -> usize {
        self.packs.len()
    }

    /// How many requests they have.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// The packs, and where each goes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Target, &[Request])> {
        let mut rest = self.requests.as_slice();
        self.packs.iter().map(move |(target, requests)| {
            let (pack, others) = rest.split_at(*requests);
            rest = others;
            (*target, pack)
        })
    }

    /// The requests one by one, each with the number of its pack.
    pub(crate) fn into_requests(self) -> impl Iterator<Item = (usize, Target, Request)> {
        let packs = self.packs.into_iter().enumerate();
        let whose = packs.flat_map(|(pack, (target, requests))| std::iter::repeat_n((pack, target), requests));
        whose
            .zip(self.requests)
            .map(|((pack, target), request)| (pack, target, request))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::Bytes;
    use rpc_core::message::Kind;
    use rpc_core::{Codec, Headers, Payload, SessionId};

    use super::*;

    pub(crate) fn request(packable: Option<Duration>, bytes: usize) -> Request {
        Request {
            sequence: 1,
            kind: Kind::Call,
            method: "a.b".into(),
            deadline: None,
            attempt: 1,
            headers: Headers::new(),
            arguments: Payload::new(Codec::Json, Bytes::from(vec![b' '; bytes])),
            at_most_once: false,
            packable,
        }
    }

    fn sizes(most: usize, requests: impl IntoIterator<Item = (Target, Request)>) -> Vec<usize> {
        sizes_kept(most, false, requests)
    }

    fn sizes_kept(most: usize, keeps: bool, requests: impl IntoIterator<Item = (Target, Request)>) -> Vec<usize> {
        let mut packing = Packing::new(most, keeps, 0);
        for (target, request) in requests {
            packing.add(target, request);
        }
        packing.iter().map(|(_, pack)| pack.len()).collect()
    }

    fn calls(n: usize, work: Duration, bytes: usize) -> impl Iterator<Item = (Target, Request)> {
        (0..n).map(move |_| (Target::Stream, request(Some(work), bytes)))
    }

    const FAST: Duration = Duration::from_micros(2);

    #[test]
    fn fast_calls_share_entries_of_bounded_size() {
        assert_eq!(sizes(16, calls(40, FAST, 10)), [16, 16, 8]);
        assert_eq!(sizes(1, calls(3, FAST, 10)), [1, 1, 1]);
        assert_eq!(sizes(1000, calls(100, Duration::ZERO, 10)), [64, 36]);
    }

    #[test]
    fn a_pack_holds_little_work_and_few_bytes() {
        assert_eq!(sizes(16, calls(5, Duration::from_micros(90), 10)), [2, 2, 1]);
        assert_eq!(sizes(16, calls(3, Duration::from_millis(1), 10)), [1, 1, 1]);
        assert_eq!(sizes(16, calls(5, FAST, 32 << 10)), [2, 2, 1]);
        assert_eq!(sizes(16, calls(2, FAST, 1 << 20)), [1, 1]);
        assert_eq!(sizes_kept(16, true, calls(5, FAST, 2 << 10)), [2, 2, 1]);
    }

    #[cfg(feature = "messagepack")]
    #[test]
    fn an_entry_has_one_codec() {
        let mut requests: Vec<_> = calls(5, FAST, 10).collect();
        for (_, request) in &mut requests[2..4] {
            request.arguments.codec = Codec::MessagePack;
        }
        assert_eq!(sizes(16, requests), [2, 2, 1]);
    }

    #[test]
    fn what_may_not_be_packed_stands_alone_and_order_is_kept() {
        let session = Target::Session(SessionId::generate());
        let mut requests: Vec<_> = calls(2, FAST, 10).collect();
        requests.push((Target::Stream, request(None, 10)));
        requests.extend(calls(2, FAST, 10));
        requests.push((session, request(Some(FAST), 10)));
        requests.extend(calls(1, FAST, 10));
        assert_eq!(sizes(16, requests), [2, 1, 2, 1, 1]);
    }
}
