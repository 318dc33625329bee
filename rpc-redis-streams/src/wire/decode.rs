//! The value of an entry's field -> messages.
//!
//! The bytes come from whoever can write to Redis: nothing in here panics, and nothing is allocated by a length that
//! the bytes don't bear out.

use std::fmt;
use std::str;
use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use memchr::memchr;
use rpc_core::delivery::MAX_PACK;
use rpc_core::message::{Fault, FaultKind, Kind, Outcome, Reply, Request};
use rpc_core::{Headers, SessionId};
use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use tokio::time::Instant;
use uuid::Uuid;

use super::parts::Form;
use super::{
    Decoded, EntryKind, FIELD, MAX_HEADERS, MAX_METHOD, Malformed, NO_CODEC, NO_TTL, STATUS_ERROR, STATUS_OK, Written,
    unknown_codec,
};
use crate::decimal::decimal;

/// How much of what was found instead is shown.
const SHOWN: usize = 40;

/// The longest status: room for the names of faults to come.
const MAX_STATUS: usize = 64;

/// Reads an entry that was `written` some time ago; payloads are slices of the field's value.
pub(crate) fn decode<N: AsRef<[u8]>>(
    fields: impl IntoIterator<Item = (N, Bytes)>,
    written: Written,
) -> Result<Decoded, Malformed> {
    let (mut ours, mut others) = (None, 0);
    for (name, value) in fields {
        if ours.is_none() && name.as_ref() == FIELD.as_bytes() {
            ours = Some(value);
        } else {
            others += 1;
        }
    }
    let Some(value) = ours else {
        return Err(Malformed::Foreign);
    };
    if others > 0 {
        return Err(Malformed::MoreFields(others));
    }

    let mut cursor = Cursor {
        value: &value,
        at: 0,
        written,
    };
    let line = cursor.line("the head")?;
    let [kind, session, codec] = words(line, "the head")?;
    let kind = EntryKind::ALL
        .into_iter()
        .find(|known| known.name().as_bytes() == kind)
        .ok_or_else(|| Malformed::UnknownKind(shown(kind)))?;
    let session = session_id(session)?;
    match kind {
        EntryKind::Call => decode_requests(cursor, Kind::Call, session, codec),
        EntryKind::Notify => decode_requests(cursor, Kind::Notification, session, codec),
        EntryKind::Reply => decode_replies(cursor, session, codec),
        EntryKind::Cancel | EntryKind::Hello | EntryKind::Close => {
            let name = kind.name();
            if codec != NO_CODEC.as_bytes() {
                let codec = shown(codec);
                return Err(Malformed::NeedlessCodec { kind: name, codec });
            }
            if kind == EntryKind::Cancel {
                return decode_cancel(cursor, session);
            }
            if !cursor.rest().is_empty() {
                let bytes = cursor.rest().len();
                return Err(Malformed::Trailing { kind: name, bytes });
            }
            Ok(match kind {
                EntryKind::Hello => Decoded::Hello,
                _ => Decoded::Close { from: session },
            })
        }
    }
}

fn decode_requests(mut cursor: Cursor<'_>, kind: Kind, caller: SessionId, codec: &[u8]) -> Result<Decoded, Malformed> {
    let known = Form::from_name(codec);
    // Most entries carry one.
    let mut requests = Vec::with_capacity(1);
    while !cursor.rest().is_empty() {
        if requests.len() == MAX_PACK {
            return Err(Malformed::TooManyRequests(MAX_PACK));
        }
        requests.push(decode_request(&mut cursor, kind, known.unwrap_or_default())?);
    }
    if requests.is_empty() {
        return Err(Malformed::Empty(match kind {
            Kind::Call => EntryKind::Call.name(),
            Kind::Notification => EntryKind::Notify.name(),
        }));
    }
    if known.is_none() {
        let sequences = requests.iter().map(|request| request.sequence);
        return Err(Malformed::UnknownCodec {
            codec: shown(codec),
            caller,
            calls: sequences.filter(|_| kind == Kind::Call).collect(),
        });
    }
    Ok(Decoded::Requests { caller, requests })
}

fn decode_request(cursor: &mut Cursor<'_>, kind: Kind, form: Form) -> Result<Request, Malformed> {
    let line = cursor.line("the first line of a request")?;
    let [sequence, method, ttl, attempt, headers_len, arguments_len] = words(line, "the first line of a request")?;
    let sequence = number("the sequence", sequence, 0, u64::MAX)?;
    let method = method_name(cursor.value.slice_ref(method))?;
    let deadline = cursor.deadline(ttl)?;
    let attempt = u32::try_from(number("the attempt", attempt, 1, u32::MAX.into())?).unwrap_or(u32::MAX);
    let headers_len = number("the length of the headers", headers_len, 0, u64::MAX)?;
    let arguments_len = number("the length of the arguments", arguments_len, 0, u64::MAX)?;

    let headers = cursor.take(headers_len, "the headers")?;
    let arguments = cursor.take(arguments_len, "the arguments")?;
    cursor.line_break("a request")?;
    let arguments = form
        .payload(arguments)
        .map_err(|place| Malformed::Parts(shown(&place)))?;
    Ok(Request {
        sequence,
        kind,
        method,
        deadline,
        attempt,
        at_most_once: false,
        packable: None,
        headers: decode_headers(&headers)?,
        arguments,
    })
}

fn decode_cancel(mut cursor: Cursor<'_>, caller: SessionId) -> Result<Decoded, Malformed> {
    let mut calls = Vec::new();
    while !cursor.rest().is_empty() {
        let [sequence, ttl] = words(cursor.line("a line of a cancel entry")?, "a line of a cancel entry")?;
        calls.push((number("the sequence", sequence, 0, u64::MAX)?, cursor.deadline(ttl)?));
    }
    if calls.is_empty() {
        return Err(Malformed::Empty(EntryKind::Cancel.name()));
    }
    Ok(Decoded::Cancel { caller, calls })
}

fn decode_replies(mut cursor: Cursor<'_>, from: SessionId, codec: &[u8]) -> Result<Decoded, Malformed> {
    let known = Form::from_name(codec).ok_or(codec);
    let mut replies = Vec::new();
    while !cursor.rest().is_empty() {
        replies.push(decode_reply(&mut cursor, known)?);
    }
    if replies.is_empty() {
        return Err(Malformed::Empty(EntryKind::Reply.name()));
    }
    Ok(Decoded::Replies { from, replies })
}

fn decode_reply(cursor: &mut Cursor<'_>, form: Result<Form, &[u8]>) -> Result<Reply, Malformed> {
    let line = cursor.line("the first line of a reply")?;
    let [sequence, status, micros, len] = words(line, "the first line of a reply")?;
    let sequence = number("the sequence", sequence, 0, u64::MAX)?;
    let micros = number("the handler time", micros, 0, u64::MAX)?;
    let len = number("the length of the payload", len, 0, u64::MAX)?;
    let status = status_name(status)?;
    let payload = cursor.take(len, "the payload")?;
    cursor.line_break("a reply")?;
    Ok(Reply {
        sequence,
        outcome: outcome(status, form, payload),
        handler_time: Duration::from_micros(micros),
    })
}

/// How a call ended, with a payload in a form, or in one of a name that is not known.
fn outcome(status: &str, form: Result<Form, &[u8]>, payload: Bytes) -> Outcome {
    if status != STATUS_OK && status != STATUS_ERROR {
        let kind = FaultKind::from_name(status);
        // Bytes that are not UTF-8 are replaced rather than refused: a waiting call must hear that it failed.
        let text = String::from_utf8_lossy(&payload);
        return Outcome::Fault(match kind {
            FaultKind::Other if status != FaultKind::Other.name() => Fault::new(kind, format!("{status}: {text}")),
            _ => Fault::new(kind, text),
        });
    }
    let payload = match form {
        Ok(form) => form
            .payload(payload)
            .map_err(|_| "it does not say where its parts lie".to_owned()),
        Err(name) => Err(unknown_codec(&shown(name))),
    };
    match payload {
        Ok(payload) if status == STATUS_OK => Outcome::Returned(payload),
        Ok(payload) => Outcome::Failed(payload),
        // Not a malformed entry, for the same reason.
        Err(why) => Outcome::Fault(Fault::new(FaultKind::BadResult, why)),
    }
}

fn decode_headers(json: &[u8]) -> Result<Headers, Malformed> {
    if json.is_empty() {
        return Ok(Headers::new());
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    deserializer
        .deserialize_map(HeadersVisitor)
        .and_then(|headers| deserializer.end().map(|()| headers))
        .map_err(|error| Malformed::Headers(error.to_string()))
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = Headers::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            if headers.iter().len() == MAX_HEADERS {
                return Err(A::Error::custom(format_args!("there are more than {MAX_HEADERS}")));
            }
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

/// How far the value has been read, and when it was written.
struct Cursor<'a> {
    value: &'a Bytes,
    at: usize,
    written: Written,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.value[self.at..]
    }

    /// The bytes up to the next line break, which is skipped.
    fn line(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let rest = self.rest();
        let Some(end) = memchr(b'\n', rest) else {
            return Err(Malformed::Truncated(what));
        };
        self.at += end + 1;
        Ok(&rest[..end])
    }

    /// The next `len` bytes, not copied.
    fn take(&mut self, len: u64, what: &'static str) -> Result<Bytes, Malformed> {
        match usize::try_from(len) {
            Ok(len) if len <= self.rest().len() => {
                let start = self.at;
                self.at += len;
                Ok(self.value.slice(start..self.at))
            }
            _ => Err(Malformed::Truncated(what)),
        }
    }

    /// The deadline that a time to live gives; `None` for ever.
    fn deadline(&self, ttl: &[u8]) -> Result<Option<Instant>, Malformed> {
        if ttl == NO_TTL.as_bytes() {
            return Ok(None);
        }
        let ttl = Duration::from_millis(number("the ttl", ttl, 0, u64::MAX)?);
        Ok(self.written.deadline(ttl))
    }

    fn line_break(&mut self, after: &'static str) -> Result<(), Malformed> {
        match self.rest().first() {
            Some(b'\n') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(Malformed::NoLineBreak(after)),
            None => Err(Malformed::Truncated(after)),
        }
    }
}

/// The words of `line`, which are exactly `N` and stand one space apart.
pub(super) fn words<'a, const N: usize>(line: &'a [u8], what: &'static str) -> Result<[&'a [u8]; N], Malformed> {
    let mut found = line.split(|byte| *byte == b' ');
    let mut words: [&[u8]; N] = [&[]; N];
    for word in &mut words {
        let Some(next) = found.next() else {
            return Err(Malformed::Words { what, words: N });
        };
        *word = next;
    }
    match found.next() {
        None => Ok(words),
        Some(_) => Err(Malformed::Words { what, words: N }),
    }
}

/// A number of decimal digits, without a sign.
fn number(what: &'static str, digits: &[u8], least: u64, greatest: u64) -> Result<u64, Malformed> {
    decimal(digits)
        .filter(|value| (least..=greatest).contains(value))
        .ok_or_else(|| Malformed::Number {
            what,
            found: shown(digits),
            least,
            greatest,
        })
}

fn session_id(text: &[u8]) -> Result<SessionId, Malformed> {
    // The one form that is written: a UUID has others, and a session must not have two names.
    let uuid = (text.len() == uuid::fmt::Hyphenated::LENGTH).then(|| Uuid::try_parse_ascii(text));
    match uuid {
        Some(Ok(uuid)) => Ok(SessionId::from_uuid(uuid)),
        _ => Err(Malformed::Session(shown(text))),
    }
}

fn method_name(name: Bytes) -> Result<ByteString, Malformed> {
    let is_plain = name.iter().all(u8::is_ascii_graphic);
    let name = ByteString::try_from(name).map_err(|_| Malformed::MethodNotText)?;
    let is_name = is_plain || !name.contains(|c: char| c.is_whitespace() || c.is_control());
    if !(1..=MAX_METHOD).contains(&name.len()) || !is_name {
        return Err(Malformed::Method(shown(name.as_bytes())));
    }
    Ok(name)
}

fn status_name(name: &[u8]) -> Result<&str, Malformed> {
    if name == STATUS_OK.as_bytes() {
        return Ok(STATUS_OK);
    }
    let is_name = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    str::from_utf8(name)
        .ok()
        .filter(|text| (1..=MAX_STATUS).contains(&text.len()) && text.as_bytes().iter().all(is_name))
        .ok_or_else(|| Malformed::Status(shown(name)))
}

/// The beginning of `bytes`, for a message.
fn shown(bytes: &[u8]) -> String {
    let beginning = &bytes[..bytes.len().min(SHOWN)];
    let mut text = String::from_utf8_lossy(beginning).into_owned();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}
