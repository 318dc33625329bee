//! Reading Redis's answers: stream entries, ids, and nested lists of names and values.

use std::collections::HashMap;

use bytes::Bytes;
use redis::Value;
use rpc_core::EntryId;

/// One entry of a stream, as Redis hands it out.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// Empty if the entry was deleted while it was pending.
    pub(crate) fields: Vec<(Bytes, Bytes)>,
}

/// The entries of an answer to XRANGE: a list of `[id, [field, value, ...]]`.
///
/// What is not of this shape is left out: Redis sends nothing else.
pub(crate) fn entries(answer: Value) -> Vec<Entry> {
    list(answer).into_iter().filter_map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let mut parts = list(value).into_iter();
    let id = id(&parts.next()?)?;
    let fields = pairs(parts.next().unwrap_or_default());
    Some(Entry { id, fields })
}

/// The answer to XREAD and XREADGROUP: for each stream that has something, its key and its entries.
pub(crate) fn streams(answer: Value) -> Vec<(Bytes, Vec<Entry>)> {
    let streams = match answer {
        Value::Map(streams) => streams,
        other => list(other)
            .into_iter()
            .filter_map(|stream| {
                let mut parts = list(stream).into_iter();
                Some((parts.next()?, parts.next()?))
            })
            .collect(),
    };
    streams
        .into_iter()
        .filter_map(|(key, list)| Some((bytes(key)?, entries(list))))
        .collect()
}

/// The elements of a list; none if it is something else (nil, say).
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) | Value::Set(values) => values,
        _ => Vec::new(),
    }
}

/// A flat list of names and values.
pub(crate) fn pairs(value: Value) -> Vec<(Bytes, Bytes)> {
    let mut values = list(value).into_iter().filter_map(bytes);
    std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
}

/// A flat list of names and values, or a map, by name: the answers to XINFO and HGETALL.
pub(crate) fn by_name(value: Value) -> HashMap<String, Value> {
    let pairs: Vec<(Value, Value)> = match value {
        Value::Map(pairs) => pairs,
        other => {
            let mut values = list(other).into_iter();
            std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
        }
    };
    pairs
        .into_iter()
        .filter_map(|(name, value)| Some((text(&name)?, value)))
        .collect()
}

pub(crate) fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
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
    text(value)?.parse().ok()
}

/// The error that Redis gave as an answer: its code and its text.
pub(crate) fn error(value: &Value) -> Option<(&str, String)> {
    match value {
        Value::ServerError(error) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            Some((error.code(), text))
        }
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
        Value::BulkString(text.into())
    }

    #[test]
    fn deleted_entries_have_no_fields_and_nil_is_nothing() {
        let answer = Value::Array(vec![
            Value::Array(vec![bulk("5-1"), Value::Nil]),
            Value::Array(vec![bulk("5-2"), Value::Array(vec![bulk("a"), bulk("b")])]),
        ]);
        let entries = entries(answer);
        assert!(entries[0].fields.is_empty());
        assert_eq!(entries[1].fields, vec![(Bytes::from("a"), Bytes::from("b"))]);
        assert!(streams(Value::Nil).is_empty());
    }

    #[test]
    fn both_protocol_versions_of_xread_are_read() {
        let entry = || Value::Array(vec![Value::Array(vec![bulk("5-1"), Value::Array(vec![])])]);
        let resp2 = Value::Array(vec![Value::Array(vec![bulk("calc"), entry()])]);
        let resp3 = Value::Map(vec![(bulk("calc"), entry())]);
        for answer in [resp2, resp3] {
            let streams = streams(answer);
            assert_eq!(streams[0].0, "calc");
            assert_eq!(streams[0].1[0].id, EntryId { ms: 5, seq: 1 });
        }
    }
}
