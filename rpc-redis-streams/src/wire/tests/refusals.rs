//! What is refused, why, and what is not.

use bytes::Bytes;
use rpc_core::delivery::MAX_PACK;
use rpc_core::message::{Fault, FaultKind, Kind, Outcome};
use tokio::time::Instant;

use super::*;

#[test]
fn an_entry_of_another_dialect_is_foreign() {
    let refusal = |fields: &[(&str, &Bytes)]| {
        let fields = fields.iter().map(|(name, value)| (*name, Bytes::clone(value)));
        decode(fields, Written::now()).unwrap_err()
    };
    let (value, hello) = (Bytes::from("{}"), Bytes::from(HELLO));
    assert_eq!(refusal(&[("data", &value)]), Malformed::Foreign);
    assert_eq!(refusal(&[("rpc2", &value)]), Malformed::Foreign);
    assert_eq!(refusal(&[]), Malformed::Foreign);
    assert_eq!(refusal(&[(FIELD, &hello), ("x", &value)]), Malformed::MoreFields(1));
    assert_eq!(refusal(&[("x", &value), (FIELD, &hello)]), Malformed::MoreFields(1));
    assert_eq!(refusal(&[(FIELD, &hello), (FIELD, &hello)]), Malformed::MoreFields(1));
}

#[test]
fn one_to_sixty_four_requests_make_an_entry() {
    let call = request(1, Kind::Call, "a.b", "[]");
    let of = |count| requests(caller(), std::iter::repeat_n(&call, count), Instant::now());
    assert_eq!(decoded_requests(of(MAX_PACK), Instant::now()).1.len(), MAX_PACK);
    assert_eq!(refusal(of(MAX_PACK + 1)), Malformed::TooManyRequests(64));
    let head = CALL.lines().next().unwrap();
    assert_eq!(refusal(format!("{head}\n")), Malformed::Empty("call"));
    assert_eq!(
        refusal(NOTIFICATION.lines().next().unwrap().to_owned() + "\n"),
        Malformed::Empty("notify")
    );
    assert_eq!(
        refusal(REPLIES.lines().next().unwrap().to_owned() + "\n"),
        Malformed::Empty("reply")
    );
}

/// The call of the golden example with one part replaced.
fn call_with(part: &str, by: &str) -> Malformed {
    assert!(CALL.contains(part));
    refusal(CALL.replacen(part, by, 1))
}

#[test]
fn heads_are_checked() {
    assert_eq!(refusal(""), Malformed::Truncated("the head"));
    assert_eq!(call_with("call", "shout"), Malformed::UnknownKind("shout".into()));
    assert!(matches!(call_with("call", ""), Malformed::UnknownKind(_)));
    assert!(matches!(call_with("call ", "call  "), Malformed::Words { .. }));
    assert!(matches!(call_with(" json", ""), Malformed::Words { .. }));
    assert!(matches!(call_with("json", "json "), Malformed::Words { .. }));
    let bare = caller().as_uuid().simple().to_string();
    for session in ["", "me", &bare] {
        assert_eq!(
            call_with("01930000-0000-7000-8000-0000000000aa", session),
            Malformed::Session(session.to_owned())
        );
    }
    assert_eq!(
        refusal(HELLO.replace('-', "x")),
        Malformed::Session("01930000x0000x7000x8000x0000000000aa".into())
    );
    assert_eq!(
        refusal(HELLO.replace(" -", " json")),
        Malformed::NeedlessCodec {
            kind: "hello",
            codec: "json".into()
        }
    );
    assert_eq!(
        refusal(format!("{CLOSE}\n")),
        Malformed::Trailing {
            kind: "close",
            bytes: 1
        }
    );
}

#[test]
fn requests_are_checked() {
    for (part, bad) in [
        ("1 calc", "x calc"),
        ("1 calc", " calc"),
        ("1 calc", "+1 calc"),
        ("1 calc", "18446744073709551616 calc"),
        (" 30000", " -1"),
        (" 30000", " 1.5"),
        (" 1 0 5", " 0 0 5"),
        (" 1 0 5", " 4294967296 0 5"),
        (" 1 0 5", " 1 - 5"),
        (" 1 0 5", " 1 0 0x5"),
    ] {
        let refused = call_with(part, bad);
        assert!(
            matches!(refused, Malformed::Number { .. } | Malformed::Words { .. }),
            "{bad}: {refused}"
        );
    }
    assert_eq!(call_with("calc.add", ""), Malformed::Method(String::new()));
    assert_eq!(
        call_with("calc.add", "calc\tadd"),
        Malformed::Method("calc\tadd".into())
    );
    assert!(matches!(call_with("calc.add", "calc add"), Malformed::Words { .. }));
    assert!(matches!(call_with("calc.add", &"m".repeat(1025)), Malformed::Method(_)));
    assert!(decode_value(CALL.replacen("calc.add", &"m".repeat(1024), 1)).is_ok());
    let mut bytes = CALL.as_bytes().to_vec();
    bytes[CALL.find("calc").unwrap()] = 0xff;
    assert_eq!(refusal(bytes), Malformed::MethodNotText);
}

#[test]
fn where_parts_lie_is_checked() {
    let refused = |place: &str| {
        let head = "call 01930000-0000-7000-8000-0000000000aa json-parts\n8 text.count 30000 1 0";
        refusal(format!("{head} {}\n{place}\n", place.len()))
    };
    let name = "01930000-0000-7000-8000-0000000000cc";
    for bad in [
        String::new(),
        "[2,3]".to_owned(),
        format!("{name} 9"),
        format!("{name} 9 1048576 1"),
        format!("{} 9 1048576", name.replace('-', "")),
        format!("{name} x 1048576"),
        format!("{name} 9 -1"),
        format!("{name} 0 0"),
        // More parts than their size bears out.
        format!("{name} 65 1048576"),
        format!("{name} 18446744073709551615 1048576"),
        format!("{name} 16385 18446744073709551615"),
    ] {
        let refused = refused(&bad);
        assert!(matches!(&refused, Malformed::Parts(_)), "{bad}: {refused}");
    }
    let reply = decoded_replies(LARGE_REPLY.replacen(" 7 917504", " 7 917 04", 1));
    assert!(matches!(&reply[0].outcome, Outcome::Fault(fault) if fault.kind == FaultKind::BadResult));
}

#[test]
fn lengths_are_checked_against_the_bytes() {
    assert_eq!(call_with("0 5", "0 4"), Malformed::NoLineBreak("a request"));
    assert_eq!(call_with("0 5", "0 6"), Malformed::Truncated("a request"));
    assert_eq!(call_with("0 5", "0 7"), Malformed::Truncated("the arguments"));
    for huge in [u64::MAX, u64::MAX / 2, 1 << 40] {
        assert_eq!(
            call_with("0 5", &format!("0 {huge}")),
            Malformed::Truncated("the arguments")
        );
        assert_eq!(
            call_with("0 5", &format!("{huge} 5")),
            Malformed::Truncated("the headers")
        );
        assert_eq!(
            refusal(REPLIES.replace("120 1", &format!("120 {huge}"))),
            Malformed::Truncated("the payload")
        );
    }
    for end in 0..CALL.len() {
        assert!(decode_value(&CALL.as_bytes()[..end]).is_err(), "{end}");
    }
    assert!(matches!(refusal(format!("{CALL}\n")), Malformed::Words { .. }));
    assert!(matches!(refusal(format!("{CALL}x")), Malformed::Truncated(_)));
}

#[test]
fn headers_are_a_json_object_of_strings() {
    let with = |json: &str| {
        let value = CALL.replace("0 5", &format!("{} 5", json.len()));
        decode_value(value.replace("[2,3]", &format!("{json}[2,3]")))
    };
    assert!(with("{}").is_ok());
    for bad in ["[]", "{", "{\"a\":1}", "{\"a\":\"b\"} x", "null", "{\"a\":{}}"] {
        assert!(matches!(with(bad), Err(Malformed::Headers(_))), "{bad}");
    }
    let many = |count: usize| {
        let pairs: Vec<_> = (0..count).map(|n| format!("\"{n}\":\"\"")).collect();
        with(&format!("{{{}}}", pairs.join(",")))
    };
    assert!(many(MAX_HEADERS).is_ok());
    assert!(matches!(many(MAX_HEADERS + 1), Err(Malformed::Headers(_))));
}

#[test]
fn calls_in_an_unknown_codec_can_be_answered() {
    let unknown = refusal(PACKED_CALLS.replace("json", "pigeon"));
    assert_eq!(
        unknown,
        Malformed::UnknownCodec {
            codec: "pigeon".into(),
            caller: caller(),
            calls: vec![2, 3]
        }
    );
    let known = Codec::ALL
        .iter()
        .map(|codec| codec.name())
        .collect::<Vec<_>>()
        .join(", ");
    assert_eq!(
        unknown.to_string(),
        format!("codec \"pigeon\" is unknown here; known: {known}; write one of these, or update this side")
    );
    assert!(matches!(
        refusal(NOTIFICATION.replace("json", "pigeon")),
        Malformed::UnknownCodec { calls, .. } if calls.is_empty()
    ));
}

/// In a build without the feature, calls in its codec are refused like any that are unknown, and the feature is named.
#[test]
fn messagepack_without_its_feature_is_refused_by_its_name() {
    match decode_value(MESSAGEPACK_CALL) {
        Ok(_) => assert!(Codec::from_name("msgpack").is_some()),
        Err(refused) => assert_eq!(
            refused.to_string(),
            "codec \"msgpack\" is unknown here; known: json; build this side with the feature `messagepack` of \
             rpc-redis-streams, or write json"
        ),
    }
}

#[test]
fn replies_in_an_unknown_codec_end_their_calls() {
    let found = decoded_replies(REPLIES.replace("json", "pigeon"));
    let kinds: Vec<_> = found
        .iter()
        .map(|reply| match &reply.outcome {
            Outcome::Fault(fault) => fault.kind,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [FaultKind::BadResult, FaultKind::BadResult, FaultKind::Overloaded]
    );
}

#[test]
fn faults_of_newer_servers_keep_their_name() {
    let found = decoded_replies(REPLIES.replace("overloaded", "too-expensive"));
    assert_eq!(
        found[2].outcome,
        Outcome::Fault(Fault::new(
            FaultKind::Other,
            "too-expensive: the server's queue of 1 was full"
        ))
    );
    for bad in ["", "Overloaded", "over\tloaded", &"x".repeat(65)] {
        assert!(
            matches!(refusal(REPLIES.replace("overloaded", bad)), Malformed::Status(_)),
            "{bad}"
        );
    }
}

#[test]
fn a_fault_that_is_not_utf_8_still_ends_its_call() {
    let fault = Outcome::Fault(Fault::new(FaultKind::Panicked, "??"));
    let mut value = Vec::from(replies(server(), Form::default(), [&reply(1, fault, 0)]));
    let len = value.len();
    value[len - 3] = 0xff;
    match &decoded_replies(value)[0].outcome {
        Outcome::Fault(fault) => assert_eq!(fault.message, "\u{fffd}?"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_short_whatever_was_found() {
    let long = "é".repeat(10_000);
    for refused in [
        refusal(format!("{long} a b\n")),
        call_with("01930000-0000-7000-8000-0000000000aa", &long),
        call_with(" 30000", &format!(" {long}")),
        call_with("calc.add", &format!("{long}\t")),
        call_with("json", &long),
    ] {
        assert!(refused.to_string().len() < 250, "{refused}");
    }
}
