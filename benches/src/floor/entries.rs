//! The answers to XREAD and XREADGROUP.

use std::ops::Range;

use anyhow::{Context, anyhow, ensure};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An entry with one field.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: Bytes,
    pub(super) value: Bytes,
}

/// A connection for blocking reads.
#[derive(Debug)]
pub(super) struct Reader {
    socket: TcpStream,
    buffer: BytesMut,
}

impl Reader {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            buffer: BytesMut::new(),
        }
    }

    /// Sends a read of one stream and waits for its entries: none if its BLOCK ran out.
    pub(super) async fn read(&mut self, command: &[u8]) -> anyhow::Result<Vec<Entry>> {
        self.socket.write_all(command).await?;
        let mut needed = 1;
        loop {
            // A large value is read to its end before it is looked at again.
            while self.buffer.len() < needed {
                self.buffer.reserve((needed - self.buffer.len()).max(16 * 1024));
                let read = self.socket.read_buf(&mut self.buffer).await?;
                ensure!(read > 0, "Redis closed the connection for reading");
            }
            match take(&mut self.buffer) {
                Ok(entries) => return Ok(entries),
                Err(Stop::Incomplete(length)) => needed = length,
                Err(Stop::Unexpected(error)) => return Err(error),
            }
        }
    }
}

type Place = Range<usize>;

/// Why an answer was not read to its end.
pub(super) enum Stop {
    /// At least so many bytes are needed.
    Incomplete(usize),
    Unexpected(anyhow::Error),
}

/// Takes the answer to a read from the front of what was received.
pub(super) fn take(received: &mut BytesMut) -> Result<Vec<Entry>, Stop> {
    let (places, end) = entries(received)?;
    let bytes = received.split_to(end).freeze();
    let entry = |(id, value)| Entry {
        id: bytes.slice(id),
        value: bytes.slice(value),
    };
    Ok(places.into_iter().map(entry).collect())
}

/// Where the ids and values are, and where the answer ends.
fn entries(bytes: &[u8]) -> Result<(Vec<(Place, Place)>, usize), Stop> {
    let mut cursor = Cursor { bytes, at: 0 };
    let Some(1) = cursor.length(b'*')? else {
        return Ok((Vec::new(), cursor.at));
    };
    cursor.length(b'*')?;
    cursor.bulk()?;
    let count = cursor.length(b'*')?.unwrap_or(0);
    let mut places = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        cursor.length(b'*')?;
        let id = cursor.bulk()?;
        cursor.length(b'*')?;
        cursor.bulk()?;
        places.push((id, cursor.bulk()?));
    }
    Ok((places, cursor.at))
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// The number behind `kind`; none if it is -1.
    fn length(&mut self, kind: u8) -> Result<Option<usize>, Stop> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return Err(Stop::Incomplete(self.bytes.len() + 1));
        };
        let line = &rest[..end];
        let (Some(first), Some(digits)) = (line.first(), line.get(1..end - 1)) else {
            return Err(Stop::Unexpected(anyhow!("Redis answered an empty line")));
        };
        if *first != kind {
            let line = String::from_utf8_lossy(line);
            return Err(Stop::Unexpected(anyhow!("Redis answered {line} to a read")));
        }
        self.at += end + 1;
        if digits == b"-1" {
            return Ok(None);
        }
        number(digits).map(Some).map_err(Stop::Unexpected)
    }

    fn bulk(&mut self) -> Result<Place, Stop> {
        let length = self.length(b'$')?.unwrap_or(0);
        let place = self.at..self.at + length;
        self.at = place.end + 2;
        if self.at > self.bytes.len() {
            return Err(Stop::Incomplete(self.at));
        }
        Ok(place)
    }
}

/// A decimal number.
pub(super) fn number(digits: &[u8]) -> anyhow::Result<usize> {
    str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .with_context(|| format!("{} is no number", String::from_utf8_lossy(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nd\r\n$2\r\nab\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nd\r\n$0\r\n\r\n";

    #[test]
    fn finds_ids_and_values() {
        let Ok((places, end)) = entries(ANSWER) else {
            panic!("complete")
        };
        let texts: Vec<_> = places
            .into_iter()
            .map(|(id, value)| (&ANSWER[id], &ANSWER[value]))
            .collect();
        assert_eq!(texts, [(&b"1-0"[..], &b"ab"[..]), (b"1-1", b"")]);
        assert_eq!(end, ANSWER.len());
    }

    #[test]
    fn a_cut_answer_needs_more() {
        for length in 0..ANSWER.len() {
            let Err(Stop::Incomplete(needed)) = entries(&ANSWER[..length]) else {
                panic!("{length} bytes are not all")
            };
            assert!(length < needed && needed <= ANSWER.len());
        }
    }

    #[test]
    fn nothing_came() {
        assert!(matches!(entries(b"*-1\r\n"), Ok((places, 5)) if places.is_empty()));
    }
}
