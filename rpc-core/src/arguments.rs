//! Positional arguments: a sequence on the wire, a list of typed values in the handler.
//!
//! The macro writes a method's arguments as a nested list, `(a, (b, ()))`, because such a list can be walked with two
//! `impl`s and has no greatest length, unlike tuples.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize};

use crate::codec::{Codec, CodecError, Payload};
use crate::json;

/// Arguments that can be written: `(&a, (&b, ()))`.
pub trait EncodeArguments {
    /// How many there are.
    const COUNT: usize;

    /// Writes them in order.
    ///
    /// # Errors
    /// What the serializer says.
    fn write<S: SerializeSeq>(&self, seq: &mut S) -> Result<(), S::Error>;
}

impl EncodeArguments for () {
    const COUNT: usize = 0;

    fn write<S: SerializeSeq>(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<T: Serialize, Rest: EncodeArguments> EncodeArguments for (&T, Rest) {
    const COUNT: usize = 1 + Rest::COUNT;

    fn write<S: SerializeSeq>(&self, seq: &mut S) -> Result<(), S::Error> {
        seq.serialize_element(self.0)?;
        self.1.write(seq)
    }
}

#[cfg(feature = "messagepack")]
struct AsSequence<'a, A>(&'a A);

#[cfg(feature = "messagepack")]
impl<A: EncodeArguments> Serialize for AsSequence<'_, A> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(A::COUNT))?;
        self.0.write(&mut seq)?;
        seq.end()
    }
}

/// Writes the arguments of a call.
///
/// # Errors
/// When one of them has no form in `codec`.
pub fn encode<A: EncodeArguments>(codec: Codec, arguments: &A) -> Result<Payload, CodecError> {
    codec.payload(|out| match codec {
        Codec::Json => {
            let mut list = json::Sequence::begin(out);
            let written = arguments.write(&mut list);
            written.and_then(|()| list.end()).map_err(CodecError::new)
        }
        #[cfg(feature = "messagepack")]
        Codec::MessagePack => codec.write(out, &AsSequence(arguments)),
    })
}

/// An argument that must be there.
#[derive(Debug)]
pub struct Required<T>(pub T);

/// An argument that callers of an older version may leave out: then it is `T::default()`.
#[derive(Debug)]
pub struct Optional<T>(pub T);

/// One argument of a list.
pub trait DecodeArgument: Sized {
    /// Reads it, as number `index` of `names`.
    ///
    /// # Errors
    /// When it is missing or not of its type.
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, names: &[&str], index: usize) -> Result<Self, A::Error>;
}

impl<T: DeserializeOwned> DecodeArgument for Required<T> {
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, names: &[&str], index: usize) -> Result<Self, A::Error> {
        match element(seq, names, index)? {
            Some(value) => Ok(Self(value)),
            None => Err(A::Error::custom(format_args!(
                "argument `{}` (number {}) is missing",
                names[index],
                index + 1
            ))),
        }
    }
}

impl<T: DeserializeOwned + Default> DecodeArgument for Optional<T> {
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, names: &[&str], index: usize) -> Result<Self, A::Error> {
        Ok(Self(element(seq, names, index)?.unwrap_or_default()))
    }
}

fn element<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    seq: &mut A,
    names: &[&str],
    index: usize,
) -> Result<Option<T>, A::Error> {
    seq.next_element()
        .map_err(|error| A::Error::custom(format_args!("argument `{}`: {error}", names[index])))
}

/// A list of arguments: `(Required<A>, (Optional<B>, ()))`.
pub trait DecodeArguments: Sized {
    /// Reads them in order.
    ///
    /// # Errors
    /// When one is missing or not of its type, or when there is one too many.
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, names: &[&str], index: usize) -> Result<Self, A::Error>;
}

impl DecodeArguments for () {
    /// Nulls past the end are arguments that a newer caller left unset; a value there would be silently ignored, so
    /// it is refused.
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, _: &[&str], index: usize) -> Result<Self, A::Error> {
        while let Some(surplus) = seq.next_element::<Option<IgnoredAny>>()? {
            if surplus.is_some() {
                return Err(A::Error::custom(format_args!(
                    "takes {index} arguments, got more: is the caller newer than this server?"
                )));
            }
        }
        Ok(())
    }
}

impl<Head: DecodeArgument, Rest: DecodeArguments> DecodeArguments for (Head, Rest) {
    fn read<'de, A: SeqAccess<'de>>(seq: &mut A, names: &[&str], index: usize) -> Result<Self, A::Error> {
        let head = Head::read(seq, names, index)?;
        Ok((head, Rest::read(seq, names, index + 1)?))
    }
}

struct ListVisitor<'a, L> {
    names: &'a [&'a str],
    list: PhantomData<L>,
}

impl<L> Clone for ListVisitor<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for ListVisitor<'_, L> {}

impl<'de, L: DecodeArguments> Visitor<'de> for ListVisitor<'_, L> {
    type Value = L;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of the arguments ({})", self.names.join(", "))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<L, A::Error> {
        L::read(&mut seq, self.names, 0)
    }
}

impl<'de, L: DecodeArguments> DeserializeSeed<'de> for ListVisitor<'_, L> {
    type Value = L;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<L, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

/// Reads the arguments of a call; `names` are theirs, for the error message.
///
/// # Errors
/// When one is missing, undecodable or too many.
pub fn decode<L: DecodeArguments>(payload: &Payload, names: &[&str]) -> Result<L, CodecError> {
    payload.decode_by(ListVisitor {
        names,
        list: PhantomData,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn json(text: &'static str) -> Payload {
        Payload::new(Codec::Json, text.into())
    }

    type AddOptional = (Required<i64>, (Optional<Option<i64>>, ()));

    fn read(text: &'static str) -> Result<(i64, Option<i64>), String> {
        decode::<AddOptional>(&json(text), &["a", "b"])
            .map(|(a, (b, ()))| (a.0, b.0))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn arguments_are_a_sequence() {
        assert_eq!(&encode(Codec::Json, &()).unwrap().bytes[..], b"[]");
        assert_eq!(&encode(Codec::Json, &(&1, (&"x", ()))).unwrap().bytes[..], b"[1,\"x\"]");
    }

    #[test]
    fn missing_trailing_optionals_default() {
        assert_eq!(read("[1,2]"), Ok((1, Some(2))));
        assert_eq!(read("[1]"), Ok((1, None)));
        assert_eq!(read("[1,null,null]"), Ok((1, None)));
    }

    #[test]
    fn errors_name_the_argument() {
        assert!(read("[]").unwrap_err().contains("argument `a` (number 1) is missing"));
        assert!(read("[\"x\"]").unwrap_err().contains("argument `a`: invalid type"));
        assert!(read("[1,2,3]").unwrap_err().contains("takes 2 arguments"));
        assert!(read("{}").unwrap_err().contains("a sequence of the arguments (a, b)"));
        assert!(read("[1,2] x").is_err());
        assert!(read("").is_err());
    }

    /// What a method of `a` and an optional `b` reads, when `arguments` are sent in each codec.
    fn received<A: EncodeArguments>(arguments: &A) -> Vec<Result<(i64, Option<i64>), String>> {
        let read = |&codec: &Codec| {
            let payload = encode(codec, arguments).unwrap();
            decode::<AddOptional>(&payload, &["a", "b"])
                .map(|(a, (b, ()))| (a.0, b.0))
                .map_err(|error| error.to_string())
        };
        Codec::ALL.iter().map(read).collect()
    }

    #[test]
    fn every_codec_lets_arguments_be_left_out_and_names_those_that_are_wrong() {
        let unset = &None::<i64>;
        for read in [
            received(&(&1, ())),
            received(&(&1, (unset, ()))),
            received(&(&1, (unset, (unset, ())))),
        ] {
            assert!(read.iter().all(|read| *read == Ok((1, None))), "{read:?}");
        }
        for (read, part) in [
            (received(&()), "argument `a` (number 1) is missing"),
            (received(&(&"x", ())), "argument `a`: "),
            (received(&(&1, (&"x", ()))), "argument `b`: "),
            (received(&(&1, (&2, (&3, ())))), "takes 2 arguments, got more"),
        ] {
            for read in read {
                let error = read.unwrap_err();
                assert!(error.contains(part), "{error}");
            }
        }
        for &codec in Codec::ALL {
            let table = codec.encode(&std::collections::BTreeMap::from([("a", 1)])).unwrap();
            let error = decode::<AddOptional>(&table, &["a", "b"]).unwrap_err().to_string();
            assert!(error.contains("a sequence of the arguments (a, b)"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn arguments_read_back_in_every_codec(
            a: i64,
            b: Option<u64>,
            c in ".{0,8}",
            d in vec((any::<u8>(), any::<bool>()), 0..8),
        ) {
            type All = (
                Required<i64>,
                (Optional<Option<u64>>, (Required<String>, (Required<Vec<(u8, bool)>>, ()))),
            );
            for &codec in Codec::ALL {
                let sent = encode(codec, &(&a, (&b, (&c, (&d, ()))))).unwrap();
                let (found_a, (found_b, (found_c, (found_d, ())))) =
                    decode::<All>(&sent, &["a", "b", "c", "d"]).unwrap();
                prop_assert_eq!((found_a.0, found_b.0, &found_c.0, &found_d.0), (a, b, &c, &d));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..40)) {
            for &codec in Codec::ALL {
                let payload = Payload::new(codec, bytes.clone().into());
                let _ = decode::<AddOptional>(&payload, &["a", "b"]);
            }
        }
    }
}
