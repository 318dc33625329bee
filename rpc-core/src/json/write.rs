//! Writing.

use std::fmt;

use serde::Serialize;
use serde::ser::{Impossible, SerializeSeq, Serializer};

use super::{BLOCK, has_escaped, is_escaped};

/// Appends `value`.
///
/// # Errors
/// When it has no form in JSON.
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> serde_json::Result<()> {
    let before = out.len();
    match value.serialize(Text(out)) {
        Ok(()) => Ok(()),
        Err(NoText) => {
            out.truncate(before);
            serde_json::to_writer(out, value)
        }
    }
}

/// A list that is being written, element by element.
pub(crate) struct Sequence<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Sequence<'a> {
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'[');
        Self { out, is_empty: true }
    }
}

impl SerializeSeq for Sequence<'_> {
    type Ok = ();
    type Error = serde_json::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> serde_json::Result<()> {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        write(self.out, value)
    }

    fn end(self) -> serde_json::Result<()> {
        self.out.push(b']');
        Ok(())
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    // With a little more, for what follows: a large buffer is not to grow for one byte.
    out.reserve(bytes.len() + BLOCK);
    out.push(b'"');
    let mut written = 0;
    let mut escape_in = |out: &mut Vec<u8>, begin: usize, block: &[u8]| {
        for (at, byte) in (begin..).zip(block).filter(|(_, byte)| is_escaped(**byte)) {
            out.extend_from_slice(&bytes[written..at]);
            escape(out, *byte);
            written = at + 1;
        }
    };
    let (blocks, rest) = bytes.as_chunks();
    for (number, block) in blocks.iter().enumerate().filter(|(_, block)| has_escaped(block)) {
        escape_in(out, number * BLOCK, block);
    }
    escape_in(out, bytes.len() - rest.len(), rest);
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            return out.extend_from_slice(&digits);
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
}

/// Writes a value that is a text, and refuses all others.
struct Text<'a>(&'a mut Vec<u8>);

/// The value is no text.
#[derive(Debug)]
struct NoText;

impl fmt::Display for NoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no text")
    }
}

impl std::error::Error for NoText {}

impl serde::ser::Error for NoText {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

macro_rules! refuse {
    ($($method:ident($($argument:ty),*) -> $ok:ty;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<$ok, NoText> {
            Err(NoText)
        })*
    };
}

type Refused = Impossible<(), NoText>;

impl Serializer for Text<'_> {
    type Ok = ();
    type Error = NoText;
    type SerializeSeq = Refused;
    type SerializeTuple = Refused;
    type SerializeTupleStruct = Refused;
    type SerializeTupleVariant = Refused;
    type SerializeMap = Refused;
    type SerializeStruct = Refused;
    type SerializeStructVariant = Refused;

    fn serialize_str(self, text: &str) -> Result<(), NoText> {
        write_text(self.0, text);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NoText> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), NoText> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoText> {
        Err(NoText)
    }

    // Formats nothing, so that nothing is formatted twice.
    fn collect_str<T: fmt::Display + ?Sized>(self, _: &T) -> Result<(), NoText> {
        Err(NoText)
    }

    refuse! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_i128(i128) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_u128(u128) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_seq(Option<usize>) -> Refused;
        serialize_tuple(usize) -> Refused;
        serialize_tuple_struct(&'static str, usize) -> Refused;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Refused;
        serialize_map(Option<usize>) -> Refused;
        serialize_struct(&'static str, usize) -> Refused;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Refused;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// As it is written here; fails if `serde_json` writes it otherwise.
    #[track_caller]
    fn written<T: Serialize + ?Sized>(value: &T) -> String {
        let mut out = b"before".to_vec();
        write(&mut out, value).unwrap();
        let written = String::from_utf8(out).unwrap();
        let expected = serde_json::to_string(value).unwrap();
        assert_eq!(written.strip_prefix("before"), Some(expected.as_str()));
        expected
    }

    #[test]
    fn everything_is_written_as_serde_json_does() {
        #[derive(Serialize)]
        struct New(String);
        #[derive(Serialize)]
        enum Choice {
            Unit,
            New(String),
        }
        let all: String = ('\0'..='\u{17f}').collect();
        written(all.as_str());
        written(&Some("a\nb"));
        written(&None::<String>);
        written(&New("\u{7f}é".to_owned()));
        written(&(Choice::Unit, Choice::New("x".to_owned())));
        written(&Choice::New("x".to_owned()));
        written(&Ipv4Addr::LOCALHOST);
        written(&BTreeMap::from([(1, "a"), (2, "b\"")]));
        written(&json!({"a": [1, 2.5, null, "\\"]}));
        assert_eq!(written(&'"'), "\"\\\"\"");
    }

    #[test]
    fn what_has_no_form_is_an_error() {
        let keys_are_lists = BTreeMap::from([(vec![1], 1)]);
        assert!(write(&mut Vec::new(), &keys_are_lists).is_err());
    }

    proptest! {
        #[test]
        fn texts_are_escaped_as_serde_json_does(text in "([a-zé]{0,70}|\\PC{0,9}|[\u{0}-\u{7f}]{0,9}){0,9}") {
            written(&text);
        }
    }
}
