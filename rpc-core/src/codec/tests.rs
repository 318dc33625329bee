use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    note: Option<String>,
    paid: Option<bool>,
    state: State,
    lines: Vec<(i8, f64, char)>,
    after: Duration,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Open,
    Held(i32),
    Moved(u8, Option<String>),
    Sent { by: Option<u32>, to: Vec<State> },
}

/// What serde reads by way of a buffer of its own, which knows readable forms only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Origin {
    address: IpAddr,
    channel: Channel,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Channel {
    Web { from: Option<IpAddr>, cookie: Vec<u8> },
    Desk,
}

fn order() -> Order {
    Order {
        id: u64::MAX,
        note: Some("süß".to_owned()),
        paid: None,
        state: State::Sent {
            by: None,
            to: vec![State::Open, State::Held(-7), State::Moved(1, None)],
        },
        lines: vec![(-128, 0.1, '🦀'), (127, -0.0, '\0')],
        after: Duration::new(1, 999),
        origin: Origin {
            address: "2001:db8::1".parse().unwrap(),
            channel: Channel::Web {
                from: Some("127.0.0.1".parse().unwrap()),
                cookie: vec![0, 127, 128, 255],
            },
        },
    }
}

/// `value` after a journey in `codec`.
fn back<T: Serialize + DeserializeOwned>(codec: Codec, value: &T) -> Result<T, CodecError> {
    codec.encode(value)?.decode()
}

#[test]
fn names_lead_back_to_their_codecs() {
    for &codec in Codec::ALL {
        assert_eq!(Codec::from_name(codec.name()), Some(codec));
    }
    assert_eq!(Codec::from_name("pigeon"), None);
    assert_eq!(Codec::from_name("msgpack").is_some(), cfg!(feature = "messagepack"));
}

#[test]
fn values_read_back() {
    for &codec in Codec::ALL {
        assert_eq!(back(codec, &order()), Ok(order()), "{codec:?}");
        let mut plain = order();
        (plain.note, plain.origin.channel) = (None, Channel::Desk);
        assert_eq!(back(codec, &plain), Ok(plain), "{codec:?}");
        for number in [i128::MIN, -1, 0, i128::MAX] {
            assert_eq!(back(codec, &number), Ok(number), "{codec:?}");
        }
        assert_eq!(back(codec, &u128::MAX), Ok(u128::MAX), "{codec:?}");
        assert_eq!(back(codec, &()), Ok(()), "{codec:?}");
        assert_eq!(back(codec, &c"bytes".to_owned()), Ok(c"bytes".to_owned()), "{codec:?}");
    }
}

#[test]
fn structs_may_grow_and_shrink() {
    #[derive(Serialize, Deserialize)]
    struct Small {
        b: u8,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Large {
        a: Option<String>,
        b: u8,
        #[serde(default)]
        c: Vec<u32>,
    }
    for &codec in Codec::ALL {
        let large = Large {
            a: None,
            b: 2,
            c: Vec::new(),
        };
        assert_eq!(codec.encode(&large).unwrap().decode::<Small>().unwrap().b, 2);
        assert_eq!(codec.encode(&Small { b: 2 }).unwrap().decode(), Ok(large));
    }
}

#[test]
fn what_has_no_form_is_an_error() {
    let before_time = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    for &codec in Codec::ALL {
        let error = codec.encode(&before_time).unwrap_err();
        assert!(error.to_string().contains("UNIX_EPOCH"), "{codec:?}: {error}");
    }
    assert!(Codec::Json.encode(&BTreeMap::from([((1, 2), 3)])).is_err());
}

#[test]
fn what_is_not_the_value_is_an_error() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Nest(Vec<Nest>);

    for &codec in Codec::ALL {
        let payload = codec.encode(&order()).unwrap();
        let altered = |bytes: &[u8]| Payload::new(codec, Bytes::copy_from_slice(bytes));
        assert!(payload.decode::<State>().is_err());
        for end in 0..payload.bytes.len() {
            assert!(altered(&payload.bytes[..end]).decode::<Order>().is_err(), "{end}");
        }
        for more in [&b"\x91"[..], b"\xc0", b"\xc1", b"\xd9", b"0"] {
            let longer = altered(&[&payload.bytes, more].concat());
            assert!(longer.decode::<Order>().is_err(), "{codec:?}: {more:?}");
        }
        let nested = |depth| {
            let nest = (1..depth).fold(Nest(Vec::new()), |inner, _| Nest(vec![inner]));
            codec.encode(&nest).unwrap().decode::<Nest>()
        };
        assert!(nested(100).is_ok());
        assert!(nested(200).is_err());
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..100)) {
        for &codec in Codec::ALL {
            let payload = Payload::new(codec, bytes.clone().into());
            let _ = payload.decode::<Order>();
            let _ = payload.decode::<State>();
            let _ = payload.decode::<Vec<String>>();
            let _ = payload.decode::<BTreeMap<u8, Option<i128>>>();
        }
    }
}

#[cfg(feature = "messagepack")]
mod messagepack {
    use super::*;

    #[test]
    fn keys_may_be_of_any_type() {
        let map = BTreeMap::from([((1, -2), "x".to_owned()), ((3, 4), String::new())]);
        assert_eq!(back(Codec::MessagePack, &map), Ok(map));
    }

    #[test]
    fn numbers_need_not_be_finite() {
        assert_eq!(back(Codec::MessagePack, &f64::INFINITY), Ok(f64::INFINITY));
        assert!(back(Codec::MessagePack, &f64::NAN).unwrap().is_nan());
        assert!(back(Codec::Json, &f64::NAN).is_err());
    }

    #[test]
    fn what_is_written_is_what_the_documentation_says() {
        let bytes = |payload: Result<Payload, CodecError>| payload.unwrap().bytes;
        let state = State::Sent {
            by: None,
            to: vec![State::Open, State::Held(1)],
        };
        assert_eq!(
            &bytes(Codec::MessagePack.encode(&state))[..],
            b"\x81\xa4Sent\x82\xa2by\xc0\xa2to\x92\xa4Open\x81\xa4Held\x01"
        );
        assert_eq!(
            &bytes(Codec::MessagePack.encode(&order().origin.address))[..],
            b"\xab2001:db8::1"
        );
        assert_eq!(&bytes(Codec::MessagePack.encode(c"ab"))[..], b"\xc4\x02ab");
        assert_eq!(&bytes(Codec::MessagePack.encode(&[1_u8, 200]))[..], b"\x92\x01\xcc\xc8");
        assert_eq!(&bytes(Codec::MessagePack.encode(&()))[..], b"\xc0");
        assert_eq!(bytes(Codec::MessagePack.encode(&1_i128)).len(), 18);
    }
}

#[test]
fn the_memory_of_a_large_value_is_used_again_when_nobody_holds_it() {
    let text = "x".repeat(2 * COPIED);
    let write = || Codec::Json.encode(&text).unwrap();
    let first = write();
    let second = write();
    assert_ne!(first.bytes.as_ptr(), second.bytes.as_ptr(), "the first is held");
    let memory = second.bytes.as_ptr();
    drop((first, second));
    let small = Codec::Json.encode(&1).unwrap();
    let third = write();
    assert_eq!(third.bytes.as_ptr(), memory);
    assert_eq!((third.decode(), small.decode()), (Ok(text), Ok(1)));
}

#[test]
fn a_value_does_not_hold_the_memory_of_a_much_larger_one() {
    let encode = |length: usize| Codec::Json.encode(&"x".repeat(length)).unwrap();
    let large = encode(100 * COPIED);
    let memory = large.bytes.as_ptr();
    drop(large);
    let held = encode(2 * COPIED);
    assert_ne!(held.bytes.as_ptr(), memory);
    assert_eq!(encode(100 * COPIED).bytes.as_ptr(), memory);
}

#[test]
fn small_values_that_share_memory_do_not_share_bytes() {
    let texts: Vec<String> = (0..1000).map(|n| n.to_string().repeat(n % 90 + 1)).collect();
    let written: Vec<_> = texts.iter().map(|text| Codec::Json.encode(text).unwrap()).collect();
    for (payload, text) in written.iter().zip(&texts) {
        assert_eq!(payload.decode::<String>().as_ref(), Ok(text));
    }
}
