//! Answers in the Redis protocol (RESP2), as far as it is needed: bytes to values. Commands are in `commands.rs`.
//!
//! Written here and not taken from the redis crate, because its pipelines hand over answers only when the last one is in,
//! and the last command of a fused write blocks; and because its values copy every payload.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr;
use rpc_core::EntryId;

use crate::decimal::{decimal, entry_id};
use crate::lent::Lent;
use crate::wire;

/// An answer that is nested deeper than this is none of Redis's.
const MAX_DEPTH: usize = 16;

/// The longest line: of a status, an error or a length.
const MAX_LINE: usize = 64 << 10;

/// Most lengths have no more digits than these.
const FEW_DIGITS: usize = 6;

/// How much room there is for what is received next: at first, and after so much has come of one answer that it is a long
/// one.
const READ_SIZE: usize = 16 << 10;
const MAX_READ_SIZE: usize = 64 << 10;

/// From this size on, a bulk string is received into memory of its own.
const LARGE: usize = 16 << 10;

/// How much memory a length is believed that nothing bears out yet.
const CREDIT: usize = 1 << 20;

/// The answer that comes by the thousand.
const QUEUED: &[u8] = b"+QUEUED\r\n";

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum Value {
    #[default]
    Nil,
    Int(i64),
    /// `OK`, `QUEUED`.
    Status(Bytes),
    /// A slice of what was received.
    Bulk(Bytes),
    Array(Vec<Value>),
    /// An entry of a stream that has one field, which has our name. Those come by the thousand, and as lists within lists each
    /// would take five allocations.
    Entry {
        id: EntryId,
        /// A slice of what was received.
        value: Bytes,
    },
    /// An error that Redis gives as the answer to one command: its code and the rest.
    Error(String),
}

/// From the connections of the redis crate, which beat.
impl From<redis::Value> for Value {
    fn from(value: redis::Value) -> Self {
        match value {
            redis::Value::Int(number) => Self::Int(number),
            redis::Value::BulkString(bytes) => Self::Bulk(bytes.into()),
            redis::Value::SimpleString(text) => Self::Status(text.into()),
            redis::Value::Okay => Self::Status(Bytes::from_static(b"OK")),
            redis::Value::Array(values) => Self::Array(values.into_iter().map(Self::from).collect()),
            redis::Value::ServerError(error) => {
                Self::Error(format!("{} {}", error.code(), error.details().unwrap_or_default()))
            }
            // The other kinds belong to the newer protocol, which those connections don't speak.
            _ => Self::Nil,
        }
    }
}

impl redis::FromRedisValue for Value {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        Ok(value.into())
    }
}

/// The bytes are not of the protocol: something else listens there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer starts with {0:?}")]
pub(crate) struct Garbled(String);

impl Garbled {
    fn at(bytes: &[u8]) -> Self {
        Self(String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned())
    }
}

/// Takes answers out of a stream of bytes, each value as soon as it is complete.
///
/// A large bulk string that comes in many pieces gets memory of its own, as much as it says it needs, or that of an earlier one
/// which is not much larger: so nothing has to be moved for it, and it keeps nothing else in memory.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// What was received and not yet taken.
    buffer: BytesMut,
    /// How much room there is in it for what is received next.
    read_size: usize,
    /// The lists whose end has not come yet, each within the one before.
    open: Vec<List>,
    /// The bulk string that is being received, if it is a large one.
    large: Option<Large>,
    lent: Lent,
}

#[derive(Debug)]
struct List {
    length: usize,
    values: Vec<Value>,
}

#[derive(Debug)]
struct Large {
    /// With the end of its line.
    length: usize,
    received: BytesMut,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            read_size: READ_SIZE,
            open: Vec::new(),
            large: None,
            lent: Lent::default(),
        }
    }
}

impl Decoder {
    /// Where what is received next belongs.
    pub(crate) fn room(&mut self) -> Limit<&mut BytesMut> {
        if let Some(Large { length, received }) = &mut self.large {
            let missing = *length - received.len();
            // No more than was borne out before: the length may be a lie.
            received.reserve(missing.min(received.len().max(CREDIT)));
            return received.limit(missing);
        }
        // What was taken out shares the memory of what comes after it, for as long as it is held.
        self.buffer.reserve(self.read_size);
        self.read_size = MAX_READ_SIZE.min(2 * self.read_size);
        (&mut self.buffer).limit(usize::MAX)
    }

    /// The next answer; `None` if its end has not been received yet.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Garbled> {
        while let Some(mut value) = self.value()? {
            loop {
                let Some(list) = self.open.last_mut() else {
                    self.read_size = READ_SIZE;
                    return Ok(Some(value));
                };
                list.values.push(value);
                if list.values.len() < list.length {
                    break;
                }
                value = Value::Array(std::mem::take(&mut list.values));
                self.open.pop();
            }
        }
        Ok(None)
    }

    /// The next value that is not a list with something in it: such a list is opened, and the value its first.
    fn value(&mut self) -> Result<Option<Value>, Garbled> {
        if let Some(large) = self.large.take_if(|large| large.received.len() == large.length) {
            return Ok(Some(Value::Bulk(self.end(large))));
        }
        if self.large.is_some() {
            return Ok(None);
        }
        if self.buffer.starts_with(QUEUED) {
            self.buffer.advance(QUEUED.len());
            return Ok(Some(Value::Status(Bytes::from_static(b"QUEUED"))));
        }
        while let Some(Line { kind, number, end }) = Line::first(&self.buffer)? {
            match kind {
                b'$' => {
                    let Some(length) = self.length(number)? else {
                        self.buffer.advance(end);
                        return Ok(Some(Value::Nil));
                    };
                    if self.buffer.len() - end < length.saturating_add(2) {
                        // The head of a small one is looked at again when more has come: it is short.
                        if length >= LARGE {
                            self.buffer.advance(end);
                            self.begin(length.saturating_add(2));
                        }
                        return Ok(None);
                    }
                    let mut value = self.buffer.split_to(end + length + 2).freeze();
                    value.advance(end);
                    value.truncate(length);
                    return Ok(Some(Value::Bulk(value)));
                }
                b'*' => {
                    if let Some(entry) = self.entry() {
                        return Ok(Some(entry));
                    }
                    let length = self.length(number)?;
                    if length.is_some() && self.open.len() == MAX_DEPTH {
                        return Err(Garbled::at(&self.buffer));
                    }
                    self.buffer.advance(end);
                    match length {
                        None => return Ok(Some(Value::Nil)),
                        Some(0) => return Ok(Some(Value::Array(Vec::new()))),
                        // No more is reserved than what was received bears out: a value has four bytes or more.
                        Some(length) => self.open.push(List {
                            length,
                            values: Vec::with_capacity(length.min(self.buffer.len() / 4)),
                        }),
                    }
                }
                b':' => {
                    let number = number.ok_or_else(|| Garbled::at(&self.buffer))?;
                    self.buffer.advance(end);
                    return Ok(Some(Value::Int(number)));
                }
                _ => {
                    let value = match (kind, &self.buffer[1..end - 2]) {
                        (b'+', b"OK") => Value::Status(Bytes::from_static(b"OK")),
                        (b'+', text) => Value::Status(Bytes::copy_from_slice(text)),
                        (_, text) => Value::Error(String::from_utf8_lossy(text).into_owned()),
                    };
                    self.buffer.advance(end);
                    return Ok(Some(value));
                }
            }
        }
        Ok(None)
    }

    /// The length that the first line gives by its number; `None` for nil.
    fn length(&self, number: Option<i64>) -> Result<Option<usize>, Garbled> {
        match number {
            Some(-1) => Ok(None),
            Some(length) => usize::try_from(length).map(Some).map_err(|_| Garbled::at(&self.buffer)),
            None => Err(Garbled::at(&self.buffer)),
        }
    }

    /// The entry of ours that comes next, if it is one and all of it is there.
    fn entry(&mut self) -> Option<Value> {
        let (id, value, length) = whole_entry(&self.buffer)?;
        let mut taken = self.buffer.split_to(value + length + 2).freeze();
        taken.advance(value);
        taken.truncate(length);
        Some(Value::Entry { id, value: taken })
    }

    /// Begins to receive a large bulk string. All that is left in the buffer belongs to it.
    fn begin(&mut self, length: usize) {
        let mut received = self
            .lent
            .take(length)
            .unwrap_or_else(|| BytesMut::with_capacity(length.min(CREDIT)));
        received.extend_from_slice(&self.buffer);
        self.buffer.clear();
        self.large = Some(Large { length, received });
    }

    /// The large bulk string, when all of it was received.
    fn end(&mut self, Large { length, received }: Large) -> Bytes {
        self.lent.lend(received).slice(..length - 2)
    }
}

/// The first line of what was received.
struct Line {
    kind: u8,
    /// The number behind the kind, if the rest of the line is one.
    number: Option<i64>,
    /// Where the next line begins.
    end: usize,
}

impl Line {
    /// `None` if its end has not come yet.
    fn first(buffer: &[u8]) -> Result<Option<Self>, Garbled> {
        if let Some(line) = Self::short(buffer) {
            return Ok(Some(line));
        }
        let is_known = buffer.first().is_none_or(|first| b"+-:$*".contains(first));
        match memchr(b'\n', &buffer[..buffer.len().min(MAX_LINE)]) {
            Some(at) if at > 1 && buffer[at - 1] == b'\r' && is_known => Ok(Some(Self {
                kind: buffer[0],
                number: integer(&buffer[1..at - 1]),
                end: at + 1,
            })),
            Some(_) => Err(Garbled::at(buffer)),
            // Something else may never send a line's end.
            None if buffer.len() >= MAX_LINE || !is_known => Err(Garbled::at(buffer)),
            None => Ok(None),
        }
    }

    /// The line if it is a length of few digits, as nearly all are.
    fn short(buffer: &[u8]) -> Option<Self> {
        let (&kind, rest) = buffer.split_first().filter(|(kind, _)| b"$*".contains(kind))?;
        let digits = rest.iter().take(FEW_DIGITS + 1).position(|byte| *byte == b'\r')?;
        let number = i64::try_from(decimal(&rest[..digits])?).ok();
        (rest.get(digits + 1) == Some(&b'\n')).then_some(Self {
            kind,
            number,
            end: 1 + digits + 2,
        })
    }
}

/// The entry of ours with which what was received begins: its id, and where its value begins and how long that is.
fn whole_entry(received: &[u8]) -> Option<(EntryId, usize, usize)> {
    let (id, rest) = string(received.strip_prefix(b"*2\r\n")?)?;
    let (name, rest) = string(rest.strip_prefix(b"*2\r\n")?)?;
    let (value, rest) = string(rest)?;
    let end = received.len() - rest.len() - 2;
    (name == wire::FIELD.as_bytes()).then_some((entry_id(id)?, end - value.len(), value.len()))
}

/// The bulk string with which `received` begins, and what follows it; `None` unless all of it is there.
fn string(received: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = Line::short(received).filter(|line| line.kind == b'$')?;
    let (text, rest) = received[line.end..].split_at_checked(usize::try_from(line.number?).ok()?)?;
    Some((text, rest.strip_prefix(b"\r\n")?))
}

fn integer(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry;
    use crate::lent::SPACIOUS;

    fn bulk(text: &'static str) -> Value {
        Value::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// All answers in `bytes`, received in pieces of `piece` bytes.
    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Value>, Garbled> {
        let mut decoder = Decoder::default();
        let mut values = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while !piece.is_empty() {
                let mut room = decoder.room();
                let taken = piece.len().min(room.remaining_mut());
                room.put_slice(&piece[..taken]);
                piece = &piece[taken..];
                while let Some(value) = decoder.next()? {
                    values.push(value);
                }
            }
        }
        Ok(values)
    }

    const ANSWERS: &[u8] = b"+OK\r\n:-7\r\n$-1\r\n*-1\r\n$5\r\na\r\nbc\r\n-ERR no such key\r\n\
        *2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n$0\r\n\r\n";

    fn answers() -> Vec<Value> {
        vec![
            Value::Status(Bytes::from_static(b"OK")),
            Value::Int(-7),
            Value::Nil,
            Value::Nil,
            bulk("a\r\nbc"),
            Value::Error("ERR no such key".to_owned()),
            Value::Array(vec![bulk("a"), Value::Array(vec![Value::Int(1), Value::Array(vec![])])]),
            bulk(""),
        ]
    }

    #[test]
    fn answers_are_read_whatever_the_pieces_they_come_in() {
        for piece in 1..ANSWERS.len() {
            assert_eq!(decode(ANSWERS, piece), Ok(answers()), "pieces of {piece}");
        }
    }

    #[test]
    fn large_strings_are_read_whatever_the_pieces_they_come_in() {
        let large = "x".repeat(LARGE);
        let larger = "y".repeat(3 * CREDIT);
        let answer = format!(
            "*3\r\n${}\r\n{large}\r\n${}\r\n{larger}\r\n$1\r\nz\r\n:1\r\n",
            large.len(),
            larger.len()
        );
        let values = [large, larger, "z".to_owned()].map(|text| Value::Bulk(text.into()));
        let expected = vec![Value::Array(values.to_vec()), Value::Int(1)];
        for piece in [1000, LARGE + 14, CREDIT, answer.len()] {
            assert!(
                decode(answer.as_bytes(), piece) == Ok(expected.clone()),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn the_memory_of_a_large_string_is_used_again_when_nobody_holds_it() {
        let mut decoder = Decoder::default();
        let mut receive = |length: usize| {
            let answer = format!("${length}\r\n{}\r\n", "x".repeat(length));
            let mut rest = answer.as_bytes();
            while !rest.is_empty() {
                let mut room = decoder.room();
                let (now, later) = rest.split_at(room.remaining_mut().min(rest.len() / 2 + 1));
                room.put_slice(now);
                rest = later;
                if let Some(value) = decoder.next().unwrap() {
                    return entry::bytes(value).unwrap();
                }
            }
            unreachable!("the answer is whole")
        };
        let first = receive(LARGE);
        let memory = first.as_ptr();
        let second = receive(LARGE);
        assert_ne!(second.as_ptr(), memory, "the first is held");
        assert!(first == second && first.iter().all(|byte| *byte == b'x'));
        let memory = second.as_ptr();
        drop((first, second));
        assert_eq!(receive(LARGE).as_ptr(), memory);
        // A small one does not hold the memory of a much larger one, and leaves it where it is.
        let large = receive(2 * SPACIOUS * LARGE);
        let memory = large.as_ptr();
        drop(large);
        let small = receive(LARGE);
        assert_ne!(small.as_ptr(), memory);
        assert_eq!(receive(2 * SPACIOUS * LARGE).as_ptr(), memory);
    }

    #[test]
    fn entries_of_ours_are_read_whatever_the_pieces_they_come_in() {
        let value = "v".repeat(2 * LARGE);
        let entry = |id: &str, name: &str, value: &str| {
            let strings = [name, value].map(|text| format!("${}\r\n{text}\r\n", text.len()));
            format!("*2\r\n${}\r\n{id}\r\n*2\r\n{}", id.len(), strings.concat())
        };
        let all = [
            entry("5-2", wire::FIELD, "ab"),
            entry("5-3", "name", "ab"),
            entry("six", wire::FIELD, ""),
            entry("7-0", wire::FIELD, &value),
        ];
        let answer = format!("*4\r\n{}", all.concat());
        for piece in [1, 7, 100, answer.len()] {
            let values = decode(answer.as_bytes(), piece).unwrap();
            let entries = entry::entries(values[0].clone());
            let ids: Vec<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
            assert_eq!(ids, ["5-2", "5-3", "7-0"], "the id that is none is left out");
            let fields: Vec<_> = entries.into_iter().flat_map(|entry| entry.fields).collect();
            let expected = [(wire::FIELD, "ab"), ("name", "ab"), (wire::FIELD, &value)];
            let expected = expected.map(|(name, value)| (Bytes::from(name), Bytes::from(value.to_owned())));
            assert!(fields == expected, "pieces of {piece}");
        }
        let whole = entry("5-2", wire::FIELD, "ab");
        let id = EntryId { ms: 5, seq: 2 };
        let value = Bytes::from("ab");
        assert_eq!(
            decode(whole.as_bytes(), whole.len()),
            Ok(vec![Value::Entry { id, value }])
        );
    }

    #[test]
    fn a_length_is_believed_only_as_far_as_it_is_borne_out() {
        let mut decoder = Decoder::default();
        // Also where there is memory that could be used again.
        decoder.begin(LARGE);
        let large = decoder.large.take().unwrap();
        let received = BytesMut::zeroed(LARGE);
        decoder.end(Large { received, ..large });
        decoder.room().put_slice(format!("${}\r\nx", i64::MAX).as_bytes());
        assert_eq!(decoder.next(), Ok(None));
        let mut room = decoder.room();
        assert!((CREDIT..=2 * CREDIT).contains(&room.chunk_mut().len()));
    }

    #[test]
    fn other_protocols_are_told_at_once() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"\x15\x03\x01",
            b"$x\r\n",
            b"$-2\r\n",
            b":1\n",
        ] {
            assert!(decode(bytes, 100).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = b"*1\r\n".repeat(MAX_DEPTH + 1);
        assert!(decode(&[&deep[..], b":1\r\n"].concat(), 1000).is_err());
        let fine = b"*1\r\n".repeat(MAX_DEPTH);
        assert!(decode(&[&fine[..], b":1\r\n"].concat(), 1000).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1..50_usize) {
            let _ = decode(&bytes, piece);
        }

        #[test]
        fn no_change_to_an_answer_makes_it_panic(at in 0..ANSWERS.len(), byte: u8, piece in 1..50_usize) {
            let mut bytes = ANSWERS.to_vec();
            bytes[at] = byte;
            let _ = decode(&bytes, piece);
        }
    }
}
