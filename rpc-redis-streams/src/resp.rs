//! The Redis protocol (RESP2), as far as it is needed: commands to bytes, bytes to answers.
//!
//! Written here and not taken from the redis crate, because its pipelines hand over answers only when the last one is in,
//! and the last command of a fused write blocks; and because its values copy every payload. What is not of the hot path
//! still builds its commands with that crate.

use bytes::{Buf, Bytes, BytesMut};

/// An answer that is nested deeper than this is none of Redis's.
const MAX_DEPTH: usize = 16;

/// The longest line: of a status, an error or a length.
const MAX_LINE: usize = 64 << 10;

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

/// Takes answers out of a stream of bytes.
///
/// An answer is looked for its end first, going on where the last look stopped, so that a large one that comes in many
/// pieces is looked at once; only then it is taken apart.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// What was received and not yet taken.
    pub(crate) buffer: BytesMut,
    /// How much of it belongs to the first answer as far as has been looked.
    scanned: usize,
    /// How many values of the first answer are still to come.
    open: usize,
}

impl Decoder {
    /// The next answer; `None` if its end has not been received yet.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Garbled> {
        if !self.is_complete()? {
            return Ok(None);
        }
        let mut answer = self.buffer.split_to(self.scanned).freeze();
        self.scanned = 0;
        take(&mut answer, 0).map(Some)
    }

    fn is_complete(&mut self) -> Result<bool, Garbled> {
        if self.scanned == 0 {
            self.open = 1;
        }
        while self.open > 0 {
            let Some(line) = line_at(&self.buffer, self.scanned)? else {
                return Ok(false);
            };
            let end = self.scanned + line.len() + 2;
            match line.first() {
                Some(b'+' | b'-' | b':') => {
                    self.scanned = end;
                    self.open -= 1;
                }
                Some(b'$') => {
                    let len = length(line)?.map_or(0, |len| len + 2);
                    // The head is looked at again when more has come: it is short.
                    if self.buffer.len() - end < len {
                        return Ok(false);
                    }
                    self.scanned = end + len;
                    self.open -= 1;
                }
                Some(b'*') => {
                    self.scanned = end;
                    // Each element takes at least three bytes, so that a length that is a lie ends before it harms.
                    self.open = (self.open - 1).saturating_add(length(line)?.unwrap_or(0));
                }
                _ => return Err(Garbled::at(&self.buffer[self.scanned..])),
            }
        }
        Ok(true)
    }
}

/// The line that starts at `from`, without its end; `None` if that has not come yet.
fn line_at(buffer: &[u8], from: usize) -> Result<Option<&[u8]>, Garbled> {
    let rest = &buffer[from..];
    match rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n') {
        Some(at) if at > 0 && rest[at - 1] == b'\r' => Ok(Some(&rest[..at - 1])),
        Some(_) => Err(Garbled::at(rest)),
        // Something else may never send a line's end.
        None if rest.len() >= MAX_LINE || rest.first().is_some_and(|first| !b"+-:$*".contains(first)) => {
            Err(Garbled::at(rest))
        }
        None => Ok(None),
    }
}

/// The length that a line gives; `None` for nil.
fn length(line: &[u8]) -> Result<Option<usize>, Garbled> {
    match integer(&line[1..]) {
        Some(-1) => Ok(None),
        Some(len) => usize::try_from(len).map(Some).map_err(|_| Garbled::at(line)),
        None => Err(Garbled::at(line)),
    }
}

fn integer(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Takes a value apart that is known to be complete.
fn take(bytes: &mut Bytes, depth: usize) -> Result<Value, Garbled> {
    let Some(line) = line_at(bytes, 0)? else {
        return Err(Garbled::at(bytes));
    };
    let (kind, len) = (line.first().copied(), line.len());
    if kind == Some(b'$') || kind == Some(b'*') {
        let length = length(line)?;
        bytes.advance(len + 2);
        return match (kind, length) {
            (_, None) => Ok(Value::Nil),
            (Some(b'$'), Some(length)) => {
                let value = bytes.split_to(length);
                bytes.advance(2);
                Ok(Value::Bulk(value))
            }
            (_, Some(_)) if depth == MAX_DEPTH => Err(Garbled::at(bytes)),
            // Not reserved by what the length says: it was borne out, but by values that may be small.
            (_, Some(length)) => (0..length)
                .map(|_| take(bytes, depth + 1))
                .collect::<Result<_, _>>()
                .map(Value::Array),
        };
    }
    let text = bytes.split_to(len).slice(1..);
    bytes.advance(2);
    match kind {
        Some(b'+') => Ok(Value::Status(text)),
        Some(b'-') => Ok(Value::Error(String::from_utf8_lossy(&text).into_owned())),
        Some(b':') => integer(&text).map(Value::Int).ok_or_else(|| Garbled::at(&text)),
        _ => Err(Garbled::at(&text)),
    }
}

/// Commands to be written at once.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// Starts a command of `arguments` arguments behind its name; that many have to follow.
    pub(crate) fn command(&mut self, name: &str, arguments: usize) -> &mut Self {
        self.count += 1;
        self.head(b'*', arguments + 1);
        self.arg(name)
    }

    /// The next argument of the command.
    pub(crate) fn arg(&mut self, argument: impl AsRef<[u8]>) -> &mut Self {
        let argument = argument.as_ref();
        self.head(b'$', argument.len());
        self.bytes.extend_from_slice(argument);
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// The next argument of the command, a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.arg(itoa::Buffer::new().format(number))
    }

    /// A command that was built with the redis crate.
    pub(crate) fn add(&mut self, command: &redis::Cmd) -> &mut Self {
        self.count += 1;
        self.bytes.extend_from_slice(&command.get_packed_command());
        self
    }

    /// All commands of `others`.
    pub(crate) fn append(&mut self, others: &Self) {
        self.count += others.count;
        self.bytes.extend_from_slice(&others.bytes);
    }

    fn head(&mut self, kind: u8, length: usize) {
        self.bytes.push(kind);
        self.bytes
            .extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// How many there are, which is how many answers will come.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bulk(text: &'static str) -> Value {
        Value::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// All answers in `bytes`, received in pieces of `piece` bytes.
    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Value>, Garbled> {
        let mut decoder = Decoder::default();
        let mut values = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.buffer.extend_from_slice(piece);
            while let Some(value) = decoder.next()? {
                values.push(value);
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

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut commands = Commands::default();
        commands.command("XACK", 3).arg("calc").arg("workers").number(12);
        commands.add(redis::cmd("TIME").arg("é"));
        let text = "*4\r\n$4\r\nXACK\r\n$4\r\ncalc\r\n$7\r\nworkers\r\n$2\r\n12\r\n*2\r\n$4\r\nTIME\r\n$2\r\né\r\n";
        assert_eq!(commands.as_bytes(), text.as_bytes());
        assert_eq!(commands.len(), 2);
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
