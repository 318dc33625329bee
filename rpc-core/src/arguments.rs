//! Positional arguments: a sequence on the wire, a list of typed values in the handler.
//!
//! The macro writes a method's arguments as a nested list, `(a, (b, ()))`, because such a list can be walked with two
//! `impl`s and has no greatest length, unlike tuples.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize};

use crate::codec::{Codec, CodecError, Payload, ROOM};
use crate::json;

/// Arguments that can be written: `(&a, (&b, ()))`.
pub trait EncodeArguments {
    /// Writes them in order.
    ///
    /// # Errors
    /// What the serializer says.
    fn write<S: SerializeSeq>(&self, seq: &mut S) -> Result<(), S::Error>;
}

impl EncodeArguments for () {
    fn write<S: SerializeSeq>(&self, _: &mut S) -> Result<(), S::Error> {
        Ok(())
    }
}

impl<T: Serialize, Rest: EncodeArguments> EncodeArguments for (&T, Rest) {
    fn write<S: SerializeSeq>(&self, seq: &mut S) -> Result<(), S::Error> {
        seq.serialize_element(self.0)?;
        self.1.write(seq)
    }
}

/// Writes the arguments of a call.
///
/// # Errors
/// When one of them has no form in `codec`.
pub fn encode<A: EncodeArguments>(codec: Codec, arguments: &A) -> Result<Payload, CodecError> {
    let mut bytes = Vec::with_capacity(ROOM);
    match codec {
        Codec::Json => {
            let mut list = json::Sequence::begin(&mut bytes);
            let written = arguments.write(&mut list);
            written.and_then(|()| list.end()).map_err(CodecError::new)?;
        }
    }
    Ok(Payload {
        codec,
        bytes: bytes.into(),
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

impl<'de, L: DecodeArguments> Visitor<'de> for ListVisitor<'_, L> {
    type Value = L;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of the arguments ({})", self.names.join(", "))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<L, A::Error> {
        L::read(&mut seq, self.names, 0)
    }
}

/// Reads the arguments of a call; `names` are theirs, for the error message.
///
/// # Errors
/// When one is missing, undecodable or too many.
pub fn decode<L: DecodeArguments>(payload: &Payload, names: &[&str]) -> Result<L, CodecError> {
    let visitor = ListVisitor {
        names,
        list: PhantomData,
    };
    match payload.codec {
        Codec::Json => {
            let mut json = serde_json::Deserializer::from_slice(&payload.bytes);
            json.deserialize_seq(visitor)
                .and_then(|list| json.end().map(|()| list))
                .map_err(CodecError::new)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &'static str) -> Payload {
        Payload {
            codec: Codec::Json,
            bytes: text.into(),
        }
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
}
