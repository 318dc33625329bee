//! Reading.

use std::iter;

use serde::de::value::{Error, SeqDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{has_escaped, is_escaped};

/// From how many bytes on a text is long.
const LONG: usize = 1 << 10;

/// Has `seed` read a value.
///
/// # Errors
/// What `serde_json` says.
pub(crate) fn read<'de, S: DeserializeSeed<'de> + Copy>(json: &'de [u8], seed: S) -> serde_json::Result<S::Value> {
    if json.len() >= LONG
        && let Some(value) = read_text(json, seed)
    {
        return Ok(value);
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let value = seed.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// Reads what is one text, or a list of one, written in the shortest way; `None` if it is not, or not what is wanted: why, is for
/// `serde_json` to say.
fn read_text<'de, S: DeserializeSeed<'de>>(json: &'de [u8], seed: S) -> Option<S::Value> {
    match json.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
        Some(element) => seed.deserialize(List(Text(plain(element)?))),
        None => seed.deserialize(Text(plain(json)?)),
    }
    .ok()
}

/// The text between quotes, if nothing in it is escaped.
fn plain(json: &[u8]) -> Option<&str> {
    let text = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let (blocks, rest) = text.as_chunks();
    if blocks.iter().any(has_escaped) || rest.iter().copied().any(is_escaped) {
        return None;
    }
    str::from_utf8(text).ok()
}

/// A text, for whoever wants one: of all others `serde_json` knows what it makes of them.
#[derive(Clone, Copy)]
struct Text<'de>(&'de str);

/// A list of one text, likewise.
struct List<'de>(Text<'de>);

macro_rules! refuse {
    ($($method:ident($($argument:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $(_: $argument,)* _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not wanted"))
        })*
    };
}

/// What is neither a text nor a list, whoever is asked for it.
macro_rules! refuse_scalars {
    () => {
        refuse! {
            deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
            deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128() deserialize_f32()
            deserialize_f64() deserialize_unit() deserialize_unit_struct(&'static str) deserialize_map()
            deserialize_struct(&'static str, &'static [&'static str]) deserialize_enum(&'static str, &'static [&'static str])
        }
    };
}

impl<'de> Deserializer<'de> for Text<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! { char str string identifier ignored_any }
    refuse_scalars!();
    refuse! {
        deserialize_bytes() deserialize_byte_buf() deserialize_seq() deserialize_tuple(usize)
        deserialize_tuple_struct(&'static str, usize)
    }
}

impl<'de> Deserializer<'de> for List<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        SeqDeserializer::new(iter::once(self.0)).deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! { seq tuple tuple_struct ignored_any }
    refuse_scalars!();
    refuse! {
        deserialize_char() deserialize_str() deserialize_string() deserialize_bytes() deserialize_byte_buf()
        deserialize_identifier()
    }
}

impl<'de> IntoDeserializer<'de, Error> for Text<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{self, Debug};
    use std::marker::PhantomData;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess};
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct New<T>(T);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Named {
        name: String,
    }

    /// What its visitor is given when it asks for bytes, or for a list.
    #[derive(Debug, PartialEq)]
    enum Given<const BYTES: bool> {
        Text,
        Bytes,
        List,
    }

    impl<'de, const BYTES: bool> Deserialize<'de> for Given<BYTES> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match BYTES {
                true => deserializer.deserialize_bytes(Given::Text),
                false => deserializer.deserialize_seq(Given::Text),
            }
        }
    }

    impl<'de, const BYTES: bool> Visitor<'de> for Given<BYTES> {
        type Value = Self;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("anything")
        }

        fn visit_str<E>(self, _: &str) -> Result<Self, E> {
            Ok(Self::Text)
        }

        fn visit_bytes<E>(self, _: &[u8]) -> Result<Self, E> {
            Ok(Self::Bytes)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::List)
        }
    }

    /// Fails if `serde_json` reads it otherwise, or refuses it for another reason.
    #[track_caller]
    fn check<T: DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
        let expected = serde_json::from_slice::<T>(json).map_err(|error| error.to_string());
        assert_eq!(
            read(json, PhantomData::<T>).map_err(|error| error.to_string()),
            expected
        );
    }

    #[track_caller]
    fn check_all(json: &[u8]) {
        check::<Value>(json);
        check::<String>(json);
        check::<New<String>>(json);
        check::<New<Value>>(json);
        check::<New<OneOrMany>>(json);
        check::<Option<New<String>>>(json);
        check::<Option<New<Vec<New<String>>>>>(json);
        check::<(Option<String>,)>(json);
        check::<Vec<New<OneOrMany>>>(json);
        check::<Named>(json);
        check::<Vec<Named>>(json);
        check::<Given<true>>(json);
        check::<Given<false>>(json);
        check::<Vec<Given<true>>>(json);
        check::<Vec<Given<false>>>(json);
        check::<(String, u8)>(json);
        check::<Vec<u8>>(json);
        check::<u64>(json);
        check::<char>(json);
    }

    fn long(middle: &str) -> String {
        format!("{}{middle}{}", "x".repeat(LONG), "é".repeat(LONG))
    }

    #[test]
    fn long_texts_are_read_as_serde_json_does() {
        for middle in ["", "\\n", "\\", "\n", "\"", "\",\"", "\\u00e9", "\"]"] {
            let text = format!("\"{}\"", long(middle));
            for json in [
                format!("[{text}]"),
                format!("[{text}] "),
                format!("[{text},{text}]"),
                format!("[[{text}]]"),
                format!("[{text}"),
                text,
            ] {
                check_all(json.as_bytes());
            }
        }
        check_all(&[b"\"".as_slice(), &[b'x'; LONG], b"\xff\""].concat());
    }

    #[test]
    fn a_long_text_is_read_here() {
        let text = long("");
        let json = format!("[\"{text}\"]");
        let borrowed = read(json.as_bytes(), PhantomData::<(&str,)>).unwrap();
        assert_eq!(borrowed, (text.as_str(),));
        assert!(read_text(json.as_bytes(), PhantomData::<(String,)>).is_some());
        assert!(read_text(json.as_bytes(), PhantomData::<New<Vec<String>>>).is_some());
        assert!(read_text(&json.as_bytes()[1..json.len() - 1], PhantomData::<Option<New<String>>>).is_some());
    }

    proptest! {
        #[test]
        fn any_long_text_is_read_as_serde_json_does(text in "([a-zé]{0,70}|\\PC{0,9}|[\u{0}-\u{7f}]{0,9}){0,9}") {
            let text = long(&text);
            check_all(format!("\"{text}\"").as_bytes());
            check_all(serde_json::to_string(&[&text]).unwrap().as_bytes());
        }
    }
}
