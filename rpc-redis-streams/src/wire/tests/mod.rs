//! The golden examples, which are also those of `docs/wire.md`, and what is refused.

use std::time::Duration;

use bytes::Bytes;
use rpc_core::message::{Fault, FaultKind, Kind, Outcome, Reply, Request};
use rpc_core::{Codec, Headers, Payload, SessionId};
use tokio::time::Instant;

use super::*;
use crate::pieces::Pieces;

mod properties;
mod refusals;

const CALL: &str = "\
call 01930000-0000-7000-8000-0000000000aa json
1 calc.add 30000 1 0 5
[2,3]
";

const PACKED_CALLS: &str = "\
call 01930000-0000-7000-8000-0000000000aa json
2 calc.add - 1 0 5
[2,3]
3 calc.divide 1500 2 23 5
{\"traceparent\":\"00-ab\"}[1,0]
";

/// The arguments are the three bytes of an array of 2 and 3.
const MESSAGEPACK_CALL: &[u8] = b"\
call 01930000-0000-7000-8000-0000000000aa msgpack
1 calc.add 30000 1 0 3
\x92\x02\x03
";

const NOTIFICATION: &str = "\
notify 01930000-0000-7000-8000-0000000000aa json
4 log.write - 1 0 9
[\"hello\"]
";

const REPLIES: &str = "\
reply 01930000-0000-7000-8000-0000000000bb json
1 ok 120 1
5
3 error 80 14
\"DivideByZero\"
7 overloaded 0 32
the server's queue of 1 was full
";

const LARGE_CALL: &str = "\
call 01930000-0000-7000-8000-0000000000aa json-parts
8 text.count 30000 1 0 46
01930000-0000-7000-8000-0000000000cc 9 1048580
";

const LARGE_REPLY: &str = "\
reply 01930000-0000-7000-8000-0000000000bb json-parts
8 ok 950 45
01930000-0000-7000-8000-0000000000dd 7 917504
";

const CANCEL: &str = "\
cancel 01930000-0000-7000-8000-0000000000aa -
1 27500
2 -
";

const HELLO: &str = "hello 01930000-0000-7000-8000-0000000000aa -\n";

const CLOSE: &str = "close 01930000-0000-7000-8000-0000000000bb -\n";

fn caller() -> SessionId {
    "01930000-0000-7000-8000-0000000000aa".parse().unwrap()
}

fn server() -> SessionId {
    "01930000-0000-7000-8000-0000000000bb".parse().unwrap()
}

fn request(sequence: u64, kind: Kind, method: &'static str, arguments: &'static str) -> Request {
    Request {
        sequence,
        kind,
        method: method.into(),
        deadline: None,
        attempt: 1,
        at_most_once: false,
        packable: None,
        headers: Headers::new(),
        arguments: json(arguments),
    }
}

fn json(text: &'static str) -> Payload {
    Payload::new(Codec::Json, Bytes::from_static(text.as_bytes()))
}

fn reply(sequence: u64, outcome: Outcome, micros: u64) -> Reply {
    Reply {
        sequence,
        outcome,
        handler_time: Duration::from_micros(micros),
    }
}

fn decode_value(value: impl Into<Bytes>) -> Result<Decoded, Malformed> {
    decode([(FIELD, value.into())], Written::now())
}

fn refusal(value: impl Into<Bytes>) -> Malformed {
    decode_value(value).unwrap_err()
}

impl From<Pieces> for Bytes {
    fn from(pieces: Pieces) -> Self {
        Vec::from(pieces).into()
    }
}

fn text(bytes: impl Into<Vec<u8>>) -> String {
    String::from_utf8(bytes.into()).unwrap()
}

/// All that a request holds, in a form that can be compared.
type Plain = (u64, Kind, String, Option<Instant>, u32, Vec<(String, String)>, Bytes);

fn plain(request: &Request) -> Plain {
    let headers = request.headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned()));
    let (method, arguments) = (request.method.to_string(), request.arguments.bytes.clone());
    let Request {
        sequence,
        kind,
        attempt,
        deadline,
        ..
    } = *request;
    (sequence, kind, method, deadline, attempt, headers.collect(), arguments)
}

/// Written at `now`.
fn requests<'a>(session: SessionId, requests: impl IntoIterator<Item = &'a Request>, now: Instant) -> Pieces {
    Pieces::written(|out| super::requests(out, session, requests, now))
}

fn replies<'a>(session: SessionId, form: Form, replies: impl IntoIterator<Item = &'a Reply>) -> Pieces {
    Pieces::written(|out| super::replies(out, session, form, replies))
}

fn decoded_requests(value: impl Into<Bytes>, now: Instant) -> (SessionId, Vec<Request>) {
    match decode([(FIELD, value.into())], Written::before(now, Duration::ZERO)).unwrap() {
        Decoded::Requests { caller, requests } => (caller, requests),
        other => panic!("{other:?}"),
    }
}

fn decoded_replies(value: impl Into<Bytes>) -> Vec<Reply> {
    match decode_value(value).unwrap() {
        Decoded::Replies { replies, .. } => replies,
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_call() {
    let now = Instant::now();
    let mut call = request(1, Kind::Call, "calc.add", "[2,3]");
    call.deadline = Some(now + Duration::from_secs(30));
    assert_eq!(text(requests(caller(), [&call], now)), CALL);

    let (from, found) = decoded_requests(CALL, now);
    assert_eq!((from, found.len()), (caller(), 1));
    assert_eq!(plain(&found[0]), plain(&call));
}

/// In a build with the feature `messagepack`, as that of the whole workspace.
#[test]
fn golden_messagepack_call() {
    let Some(codec) = Codec::from_name("msgpack") else {
        return;
    };
    let now = Instant::now();
    let mut call = request(1, Kind::Call, "calc.add", "");
    call.arguments = codec.encode(&(2, 3)).unwrap();
    call.deadline = Some(now + Duration::from_secs(30));
    assert_eq!(Vec::from(requests(caller(), [&call], now)), MESSAGEPACK_CALL);

    let (_, found) = decoded_requests(MESSAGEPACK_CALL, now);
    assert_eq!(found[0].arguments, call.arguments);

    let sent = reply(1, Outcome::Returned(codec.encode(&5).unwrap()), 120);
    let value = b"reply 01930000-0000-7000-8000-0000000000bb msgpack\n1 ok 120 1\n\x05\n";
    assert_eq!(Vec::from(replies(server(), form_of(&sent), [&sent])), value);
    assert_eq!(decoded_replies(&value[..])[0].outcome, sent.outcome);
}

#[test]
fn golden_packed_calls() {
    let now = Instant::now();
    let endless = request(2, Kind::Call, "calc.add", "[2,3]");
    let mut retried = request(3, Kind::Call, "calc.divide", "[1,0]");
    retried.attempt = 2;
    retried.deadline = Some(now + Duration::from_millis(1500));
    retried.headers.insert("traceparent", "00-ab");
    assert_eq!(text(requests(caller(), [&endless, &retried], now)), PACKED_CALLS);

    let (_, found) = decoded_requests(PACKED_CALLS, now);
    assert_eq!(plain(&found[0]), plain(&endless));
    assert_eq!(plain(&found[1]), plain(&retried));
}

#[test]
fn golden_notification() {
    let notification = request(4, Kind::Notification, "log.write", "[\"hello\"]");
    let now = Instant::now();
    assert_eq!(text(requests(caller(), [&notification], now)), NOTIFICATION);
    let (_, found) = decoded_requests(NOTIFICATION, now);
    assert_eq!(plain(&found[0]), plain(&notification));
}

#[test]
fn golden_replies() {
    let sent = [
        reply(1, Outcome::Returned(json("5")), 120),
        reply(3, Outcome::Failed(json("\"DivideByZero\"")), 80),
        reply(
            7,
            Outcome::Fault(Fault::new(FaultKind::Overloaded, "the server's queue of 1 was full")),
            0,
        ),
    ];
    assert_eq!(text(replies(server(), Form::default(), &sent)), REPLIES);
    match decode_value(REPLIES).unwrap() {
        Decoded::Replies { from, replies } => {
            assert_eq!(from, server());
            assert_eq!(format!("{replies:?}"), format!("{sent:?}"));
            assert_eq!(replies[1].outcome, sent[1].outcome);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_large_payloads() {
    let place = |name: &str, count, size| Parts {
        name: name.parse().unwrap(),
        count,
        size,
    };
    let now = Instant::now();
    let arguments = place("01930000-0000-7000-8000-0000000000cc", 9, 1_048_580);
    let mut call = request(8, Kind::Call, "text.count", "");
    call.deadline = Some(now + Duration::from_secs(30));
    call.arguments = arguments.payload(Codec::Json);
    assert_eq!(text(requests(caller(), [&call], now)), LARGE_CALL);
    let (_, found) = decoded_requests(LARGE_CALL, now);
    assert_eq!(plain(&found[0]), plain(&call));
    assert_eq!(found[0].arguments.size(), 1_048_580);
    assert_eq!(Parts::of(&found[0].arguments), Some(arguments));

    let result = place("01930000-0000-7000-8000-0000000000dd", 7, 917_504).payload(Codec::Json);
    let sent = reply(8, Outcome::Returned(result), 950);
    assert_eq!(text(replies(server(), form_of(&sent), [&sent])), LARGE_REPLY);
    assert_eq!(decoded_replies(LARGE_REPLY)[0].outcome, sent.outcome);
}

#[test]
fn golden_cancel() {
    let now = Instant::now();
    let calls = [(1, Some(now + Duration::from_millis(27_500))), (2, None)];
    assert_eq!(text(Pieces::written(|out| cancel(out, caller(), calls, now))), CANCEL);
    let written = Written::before(now, Duration::ZERO);
    let Decoded::Cancel {
        caller: from,
        calls: found,
    } = decode([(FIELD, CANCEL.into())], written).unwrap()
    else {
        panic!("not a cancel entry");
    };
    assert_eq!(from, caller());
    assert_eq!(found, calls);
}

#[test]
fn golden_hello_and_close() {
    assert_eq!(text(Pieces::written(|out| hello(out, caller()))), HELLO);
    assert_eq!(text(Pieces::written(|out| close(out, server()))), CLOSE);
    assert!(matches!(decode_value(HELLO).unwrap(), Decoded::Hello));
    assert!(matches!(decode_value(CLOSE).unwrap(), Decoded::Close { from } if from == server()));
}

#[test]
fn the_golden_examples_are_those_of_the_documentation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/wire.md");
    let page = std::fs::read_to_string(path).unwrap();
    for golden in [
        CALL,
        PACKED_CALLS,
        NOTIFICATION,
        REPLIES,
        LARGE_CALL,
        LARGE_REPLY,
        CANCEL,
        HELLO,
        CLOSE,
    ] {
        let block = format!("```text\n{golden}```\n");
        assert!(page.contains(&block), "docs/wire.md lacks this example:\n{block}");
    }
    // With its bytes as they are written in text.
    let block = format!("```text\n{}```\n", MESSAGEPACK_CALL.escape_ascii()).replace("\\n", "\n");
    assert!(page.contains(&block), "docs/wire.md lacks this example:\n{block}");
}

#[test]
fn payloads_are_not_copied() {
    let value = Bytes::from_static(CALL.as_bytes());
    let (_, found) = decoded_requests(value.clone(), Instant::now());
    let inside = value.as_ptr_range();
    assert!(inside.contains(&found[0].arguments.bytes.as_ptr()));
}

#[test]
fn time_left_is_rounded_up_and_never_below_zero() {
    let now = Instant::now();
    let left_of = |deadline: Instant| {
        let mut call = request(1, Kind::Call, "a.b", "[]");
        call.deadline = Some(deadline);
        let found = &decoded_requests(requests(caller(), [&call], now), now).1[0];
        found.deadline.map(|deadline| deadline - now)
    };
    assert_eq!(left_of(now + Duration::from_nanos(1)), Some(Duration::from_millis(1)));
    assert_eq!(left_of(now + Duration::from_millis(7)), Some(Duration::from_millis(7)));
    assert_eq!(left_of(now), Some(Duration::ZERO));
    let past = requests(caller(), [&request(1, Kind::Call, "a.b", "[]")], now);
    assert!(text(past).contains(" - 1 "));
    let later = now + Duration::from_secs(9);
    let mut late = request(1, Kind::Call, "a.b", "[]");
    late.deadline = Some(now);
    assert!(text(requests(caller(), [&late], later)).contains("\n1 a.b 0 1 0 2\n"));
}
