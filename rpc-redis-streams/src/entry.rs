//! Reading Redis's answers: stream entries, ids, and nested lists of names and values.

use std::collections::HashMap;

use bytes::Bytes;
use memchr::memchr;
use rpc_core::EntryId;

use crate::decimal::decimal;
use crate::resp::Value;

/// How many bytes an id has as the answer to XADD: those of a length, 13 digits (until the year 2286), a hyphen, and up to three
/// digits. Mostly it is one digit.
pub(crate) const ID_ANSWER_SIZE: usize = "$17\r\n1700000000000-123\r\n".len();

/// One entry of a stream, as Redis hands it out.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// Empty if the entry was deleted while it was pending.
    pub(crate) fields: Fields,
}

/// The names and values of an entry, in the list in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<Value>);

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Value> for Fields {
    fn from(value: Value) -> Self {
        Self(list(value))
    }
}

#[cfg(test)]
impl FromIterator<(Bytes, Bytes)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Bytes, Bytes)>>(pairs: I) -> Self {
        let values = pairs
            .into_iter()
            .flat_map(|(name, value)| [Value::Bulk(name), Value::Bulk(value)]);
        Self(values.collect())
    }
}

impl IntoIterator for Fields {
    type Item = (Bytes, Bytes);
    type IntoIter = Pairs;

    fn into_iter(self) -> Pairs {
        Pairs(self.0.into_iter())
    }
}

/// Names and values, one after the other.
pub(crate) struct Pairs(std::vec::IntoIter<Value>);

impl Iterator for Pairs {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        Some((bytes(self.0.next()?)?, bytes(self.0.next()?)?))
    }
}

/// The entries of an answer to XRANGE: a list of `[id, [field, value, ...]]`.
///
/// What is not of this shape is left out: Redis sends nothing else.
pub(crate) fn entries(answer: Value) -> Vec<Entry> {
    let answers = list(answer);
    let mut entries = Vec::with_capacity(answers.len());
    entries.extend(answers.into_iter().filter_map(entry));
    entries
}

fn entry(value: Value) -> Option<Entry> {
    let mut parts = list(value).into_iter();
    let id = id(&parts.next()?)?;
    let fields = parts.next().unwrap_or_default().into();
    Some(Entry { id, fields })
}

/// The answer to XREAD and XREADGROUP: for each stream that has something, its key and its entries.
pub(crate) fn streams(answer: Value) -> Vec<(Bytes, Vec<Entry>)> {
    list(answer)
        .into_iter()
        .filter_map(|stream| {
            let mut parts = list(stream).into_iter();
            Some((bytes(parts.next()?)?, entries(parts.next()?)))
        })
        .collect()
}

/// How many bytes their fields have.
pub(crate) fn size(entries: &[Entry]) -> usize {
    let fields = entries.iter().flat_map(|entry| &entry.fields.0);
    fields
        .map(|field| if let Value::Bulk(bytes) = field { bytes.len() } else { 0 })
        .sum()
}

/// The elements of a list; none if it is something else (nil, say).
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    }
}

/// A flat list of names and values, by name: the answers to XINFO and HGETALL.
pub(crate) fn by_name(value: Value) -> HashMap<String, Value> {
    let mut values = list(value).into_iter();
    let pairs = std::iter::from_fn(|| Some((values.next()?, values.next()?)));
    pairs.filter_map(|(name, value)| Some((text(&name)?, value))).collect()
}

pub(crate) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::Bulk(bytes) | Value::Status(bytes) => Some(bytes),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bulk(bytes) | Value::Status(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        other => text(other)?.parse().ok(),
    }
}

pub(crate) fn id(value: &Value) -> Option<EntryId> {
    match value {
        Value::Bulk(bytes) | Value::Status(bytes) => {
            // The first of a millisecond may be written without its number.
            let (ms, seq) = match memchr(b'-', bytes) {
                Some(at) => (&bytes[..at], &bytes[at + 1..]),
                None => (&bytes[..], &b"0"[..]),
            };
            Some(EntryId {
                ms: decimal(ms)?,
                seq: decimal(seq)?,
            })
        }
        _ => None,
    }
}

/// The error that Redis gave as an answer: its code and its text.
pub(crate) fn error(value: &Value) -> Option<(&str, String)> {
    match value {
        Value::Error(text) => Some((text.split(' ').next().unwrap_or_default(), text.clone())),
        _ => None,
    }
}

/// The answer to TIME, in milliseconds since 1970.
pub(crate) fn time_ms(value: Value) -> Option<u64> {
    let parts = list(value);
    let (seconds, micros) = (number(parts.first()?)?, number(parts.get(1)?)?);
    Some(seconds * 1000 + micros / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.to_owned().into())
    }

    #[test]
    fn an_id_is_told_from_an_id_and_nothing_by_its_size() {
        for seq in [0, 9, 10, 999] {
            let id = format!("1795279488616-{seq}");
            let answer = format!("${}\r\n{id}\r\n", id.len());
            assert!(answer.len() <= ID_ANSWER_SIZE, "{answer:?}");
            let read_in_vain = answer + "*-1\r\n";
            assert!(read_in_vain.len() > ID_ANSWER_SIZE, "{read_in_vain:?}");
        }
    }

    #[test]
    fn ids_are_read_with_and_without_their_second_number() {
        let (whole, first) = (id(&bulk("5-12")), id(&bulk("5")));
        assert_eq!(whole, Some(EntryId { ms: 5, seq: 12 }));
        assert_eq!(first, Some(EntryId { ms: 5, seq: 0 }));
        for text in ["", "-", "5-", "-5", "5-1-2", "x-1"] {
            assert_eq!(id(&bulk(text)), None, "{text:?}");
        }
    }

    #[test]
    fn deleted_entries_have_no_fields_and_nil_is_nothing() {
        let answer = Value::Array(vec![
            Value::Array(vec![bulk("5-1"), Value::Nil]),
            Value::Array(vec![bulk("5-2"), Value::Array(vec![bulk("a"), bulk("b")])]),
        ]);
        let entries = entries(answer);
        assert!(entries[0].fields.is_empty());
        let fields: Vec<_> = entries[1].fields.clone().into_iter().collect();
        assert_eq!(fields, [(Bytes::from("a"), Bytes::from("b"))]);
        assert!(streams(Value::Nil).is_empty());
    }
}
