//! Reading.

use std::iter;

use serde::de::value::{Error, SeqDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{BLOCK, has_escaped};

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
    let element = json.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    let text = Text(plain(element.unwrap_or(json))?);
    match element {
        Some(_) => seed.deserialize(SeqDeserializer::new(iter::once(text))),
        None => seed.deserialize(text),
    }
    .ok()
}

/// The text between quotes, if nothing in it is escaped.
fn plain(json: &[u8]) -> Option<&str> {
    let text = json.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if text.chunks(BLOCK).any(has_escaped) {
        return None;
    }
    str::from_utf8(text).ok()
}

/// A text, for whoever wants one.
#[derive(Clone, Copy)]
struct Text<'de>(&'de str);

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

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
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
    use std::fmt::Debug;
    use std::marker::PhantomData;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct New(String);

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
        check::<Option<New>>(json);
        check::<(Option<String>,)>(json);
        check::<Vec<New>>(json);
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
        assert!(read_text(&json.as_bytes()[1..json.len() - 1], PhantomData::<Option<New>>).is_some());
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
