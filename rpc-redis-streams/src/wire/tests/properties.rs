//! What holds for every entry, and for every change to one.

use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use rpc_core::message::{Fault, FaultKind, Kind, Outcome, Reply, Request};
use rpc_core::{Codec, Headers, Payload};
use tokio::time::Instant;

use super::*;

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn any_request() -> impl Strategy<Value = (Request, Option<Duration>)> {
    let headers = vec((".{0,8}", ".{0,8}"), 0..4).prop_map(|headers| headers.into_iter().collect::<Headers>());
    let ttl = proptest::option::of((0..u64::MAX / 4096).prop_map(Duration::from_millis));
    let method = "[a-zé_]{1,8}\\.[a-z0-9_]{1,8}";
    (any::<u64>(), method, ttl, 1..=u32::MAX, headers, any_bytes()).prop_map(
        |(sequence, method, ttl, attempt, headers, bytes)| {
            let arguments = Payload::new(Codec::Json, bytes);
            let request = Request {
                sequence,
                kind: Kind::Call,
                method: method.into(),
                deadline: None,
                attempt,
                at_most_once: false,
                packable: None,
                headers,
                arguments,
            };
            (request, ttl)
        },
    )
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let payload = any_bytes().prop_map(|bytes| Payload::new(Codec::Json, bytes));
    let payload = payload.boxed();
    let kinds = [
        FaultKind::MethodNotFound,
        FaultKind::BadArguments,
        FaultKind::TooLarge,
        FaultKind::Indeterminate,
        FaultKind::Overloaded,
        FaultKind::Panicked,
        FaultKind::BadResult,
        FaultKind::Other,
    ];
    let fault = (proptest::sample::select(kinds.to_vec()), ".{0,20}");
    let outcome = prop_oneof![
        payload.clone().prop_map(Outcome::Returned),
        payload.prop_map(Outcome::Failed),
        fault.prop_map(|(kind, message)| Outcome::Fault(Fault::new(kind, message))),
    ];
    (any::<u64>(), outcome, any::<u64>()).prop_map(|(sequence, outcome, micros)| reply(sequence, outcome, micros))
}

/// One change to a valid entry.
fn mutate(value: &mut Vec<u8>, at: usize, byte: u8, how: u8) {
    let at = at % (value.len() + 1);
    match how % 5 {
        0 => value.insert(at, byte),
        1 => value.truncate(at),
        2 if at < value.len() => value[at] = byte,
        3 if at < value.len() => drop(value.remove(at)),
        _ => {
            // A number that is too long, wherever there is a digit.
            if let Some(digit) = value[at..].iter().position(u8::is_ascii_digit) {
                value.splice(at + digit..=at + digit, *b"99999999999999999999");
            }
        }
    }
}

proptest! {
    #[test]
    fn requests_read_back(mut sent in vec(any_request(), 1..=8), notify: bool) {
        let now = Instant::now();
        let kind = if notify { Kind::Notification } else { Kind::Call };
        for (request, ttl) in &mut sent {
            request.kind = kind;
            // An instant may not reach as far as a ttl can.
            request.deadline = ttl.and_then(|ttl| now.checked_add(ttl));
        }
        let value = requests(caller(), sent.iter().map(|(request, _)| request), now);
        let (from, found) = decoded_requests(value, now);
        prop_assert_eq!(from, caller());
        let found: Vec<_> = found.iter().map(plain).collect();
        let sent: Vec<_> = sent.iter().map(|(request, _)| plain(request)).collect();
        prop_assert_eq!(found, sent);
    }

    #[test]
    fn replies_read_back(sent in vec(any_reply(), 1..=8)) {
        let found = decoded_replies(replies(server(), Form::default(), &sent));
        prop_assert_eq!(found.len(), sent.len());
        for (found, sent) in found.iter().zip(&sent) {
            prop_assert_eq!(found.sequence, sent.sequence);
            prop_assert_eq!(&found.outcome, &sent.outcome);
            prop_assert_eq!(found.handler_time, sent.handler_time);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(value in vec(any::<u8>(), 0..300)) {
        let _ = decode_value(value.clone());
        for golden in [CALL, NOTIFICATION, REPLIES, LARGE_CALL, LARGE_REPLY, CANCEL, HELLO] {
            let head = golden.lines().next().unwrap();
            let _ = decode_value([head.as_bytes(), b"\n", &value].concat());
        }
    }

    #[test]
    fn no_change_to_an_entry_makes_the_reader_panic(
        golden in proptest::sample::select(vec![
            CALL, PACKED_CALLS, NOTIFICATION, REPLIES, LARGE_CALL, LARGE_REPLY, HELLO, CLOSE
        ]),
        changes in vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let mut value = golden.as_bytes().to_vec();
        for (at, byte, how) in changes {
            mutate(&mut value, at, byte, how);
        }
        if let Err(refused) = decode_value(value) {
            prop_assert!(refused.to_string().len() < 400, "{}", refused);
        }
    }
}
