//! Reading Redis's answers: stream entries, ids, and nested lists of names and values.

use std::collections::HashMap;

use bytes::Bytes;
use rpc_core::EntryId;

use crate::decimal::entry_id;
use crate::error::RedisStreamsError;
use crate::resp::Value;
use crate::wire;

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

/// The names and values of an entry.
#[derive(Clone, Debug)]
pub(crate) enum Fields {
    /// The value of the only one, which has our name.
    Ours(Bytes),
    /// In the list in which they came.
    All(Vec<Value>),
}

impl Fields {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::All(values) if values.is_empty())
    }

    /// How many bytes they have.
    fn size(&self) -> usize {
        let size = |value: &Value| if let Value::Bulk(bytes) = value { bytes.len() } else { 0 };
        match self {
            Self::Ours(value) => wire::FIELD.len() + value.len(),
            Self::All(values) => values.iter().map(size).sum(),
        }
    }
}

impl From<Value> for Fields {
    fn from(value: Value) -> Self {
        Self::All(list(value))
    }
}

#[cfg(test)]
impl FromIterator<(Bytes, Bytes)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Bytes, Bytes)>>(pairs: I) -> Self {
        let values = pairs
            .into_iter()
            .flat_map(|(name, value)| [Value::Bulk(name), Value::Bulk(value)]);
        Self::All(values.collect())
    }
}

impl IntoIterator for Fields {
    type Item = (Bytes, Bytes);
    type IntoIter = Pairs;

    fn into_iter(self) -> Pairs {
        let (ours, all) = match self {
            Self::Ours(value) => (Some(value), Vec::new()),
            Self::All(values) => (None, values),
        };
        let all = all.into_iter();
        Pairs { ours, all }
    }
}

/// Names and values, one after the other.
pub(crate) struct Pairs {
    ours: Option<Bytes>,
    all: std::vec::IntoIter<Value>,
}

impl Iterator for Pairs {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(value) = self.ours.take() {
            return Some((Bytes::from_static(wire::FIELD.as_bytes()), value));
        }
        Some((bytes(self.all.next()?)?, bytes(self.all.next()?)?))
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
    if let Value::Entry { id, value } = value {
        let fields = Fields::Ours(value);
        return Some(Entry { id, fields });
    }
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
    entries.iter().map(|entry| entry.fields.size()).sum()
}

/// The elements of a list; none if it is something else (nil, say).
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        Value::Entry { id, value } => {
            let name = Bytes::from_static(wire::FIELD.as_bytes());
            let fields = Value::Array(vec![Value::Bulk(name), Value::Bulk(value)]);
            vec![Value::Bulk(id.to_string().into()), fields]
        }
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
        Value::Bulk(bytes) | Value::Status(bytes) => entry_id(bytes),
        _ => None,
    }
}

/// The error that Redis gave as an answer: its code and its text.
pub(crate) fn error(value: &Value) -> Option<(&str, String)> {
    match value {
        Value::Error(text) => Some((code_of(text), text.clone())),
        _ => None,
    }
}

/// The code with which an error of Redis's starts. Before Redis 7 the error of a command within a script is quoted, behind a code that
/// says no more than that.
pub(crate) fn code_of(answer: &str) -> &str {
    let first = |text: &str| text.find(' ').unwrap_or(text.len());
    if answer.starts_with("ERR Error running script")
        && let Some((_, quoted)) = answer.rsplit_once(": -")
    {
        return &quoted[..first(quoted)];
    }
    &answer[..first(answer)]
}

/// The answers to `command`, unless one of them is an error.
pub(crate) fn accepted(command: &'static str, answers: Vec<Value>) -> Result<Vec<Value>, RedisStreamsError> {
    match answers.iter().find_map(error) {
        Some((_, answer)) => Err(RedisStreamsError::CommandRefused { command, answer }),
        None => Ok(answers),
    }
}

/// The answer to TIME, in milliseconds since 1970.
pub(crate) fn time_ms(value: Value) -> Option<u64> {
    let parts = list(value);
    let (seconds, micros) = (number(parts.first()?)?, number(parts.get(1)?)?);
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::Bulk(text.to_owned().into())
    }

    #[test]
    fn the_code_of_an_error_within_a_script_is_that_of_its_command() {
        assert_eq!(code_of("OOM command not allowed"), "OOM");
        assert_eq!(code_of("ERR"), "ERR");
        let old = "ERR Error running script (call to f_7a): @user_script:1: @user_script: 1: -READONLY You can't write";
        assert_eq!(code_of(old), "READONLY");
        assert_eq!(code_of("ERR Error running script: no more is said"), "ERR");
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

    #[test]
    fn an_entry_of_ours_is_what_its_list_would_be() {
        let id = EntryId { ms: 5, seq: 2 };
        let ours = Value::Entry { id, value: "b".into() };
        let spelt = Value::Array(vec![bulk("5-2"), Value::Array(vec![bulk(wire::FIELD), bulk("b")])]);
        assert_eq!(Value::Array(list(ours.clone())), spelt);
        for entry in entries(Value::Array(vec![ours, spelt])) {
            assert_eq!((entry.id, entry.fields.size(), entry.fields.is_empty()), (id, 5, false));
            let fields: Vec<_> = entry.fields.into_iter().collect();
            assert_eq!(fields, [(Bytes::from(wire::FIELD), Bytes::from("b"))]);
        }
    }
}
