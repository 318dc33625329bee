//! Messages -> the value of an entry's field.

use rpc_core::message::{Kind, Outcome, Reply, Request};
use rpc_core::{Headers, SessionId};
use serde::Serializer as _;
use tokio::time::Instant;

use super::parts::{Form, SUFFIX};
use super::{EntryKind, NO_CODEC, NO_TTL, STATUS_ERROR, STATUS_OK};
use crate::pieces::Pieces;

/// The entry of calls, or of notifications, of `session`; all must be of one kind and form, and there must be 1 to
/// [`rpc_core::delivery::MAX_PACK`] of them. Their time-to-live is what is left at `now`.
pub(crate) fn requests<'a>(
    out: &mut Pieces,
    session: SessionId,
    requests: impl IntoIterator<Item = &'a Request>,
    now: Instant,
) {
    let mut requests = requests.into_iter().peekable();
    let Some(&first) = requests.peek() else {
        debug_assert!(false, "an entry of no requests");
        return;
    };
    let (kind, form) = (first.kind, Form::of(&first.arguments));
    let entry = match kind {
        Kind::Call => EntryKind::Call,
        Kind::Notification => EntryKind::Notify,
    };
    head(out, entry, session, Some(form));
    for request in requests {
        debug_assert_eq!(
            (request.kind, Form::of(&request.arguments)),
            (kind, form),
            "a mixed entry"
        );
        push_request(out, request, now);
    }
}

/// The entry of replies of `session` to calls of one other session; all payloads must be of `form`.
pub(crate) fn replies<'a>(
    out: &mut Pieces,
    session: SessionId,
    form: Form,
    replies: impl IntoIterator<Item = &'a Reply>,
) {
    head(out, EntryKind::Reply, session, Some(form));
    for reply in replies {
        push_reply(out, reply, form);
    }
}

/// The entry by which `session` gives calls up: their sequence numbers and deadlines.
pub(crate) fn cancel(
    out: &mut Pieces,
    session: SessionId,
    calls: impl IntoIterator<Item = (u64, Option<Instant>)>,
    now: Instant,
) {
    head(out, EntryKind::Cancel, session, None);
    for (sequence, deadline) in calls {
        push_number(out, sequence, b' ');
        match deadline {
            None => out.extend_from_slice(NO_TTL.as_bytes()),
            Some(deadline) => out.extend_from_slice(itoa::Buffer::new().format(ms_left(deadline, now)).as_bytes()),
        }
        out.push(b'\n');
    }
}

/// How a reply is written.
pub(crate) fn form_of(reply: &Reply) -> Form {
    reply.outcome.payload().map(Form::of).unwrap_or_default()
}

/// The entry that opens the inbox of `session`.
pub(crate) fn hello(out: &mut Pieces, session: SessionId) {
    head(out, EntryKind::Hello, session, None);
}

/// The entry by which `session` asks the channels of the stream to close.
pub(crate) fn close(out: &mut Pieces, session: SessionId) {
    head(out, EntryKind::Close, session, None);
}

fn head(out: &mut Pieces, kind: EntryKind, session: SessionId, form: Option<Form>) {
    out.extend_from_slice(kind.name().as_bytes());
    out.push(b' ');
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(session.as_uuid().hyphenated().encode_lower(&mut text).as_bytes());
    out.push(b' ');
    out.extend_from_slice(form.map_or(NO_CODEC, |form| form.codec.name()).as_bytes());
    if form.is_some_and(|form| form.in_parts) {
        out.extend_from_slice(SUFFIX.as_bytes());
    }
    out.push(b'\n');
}

fn push_request(out: &mut Pieces, request: &Request, now: Instant) {
    let headers = if request.headers.is_empty() {
        Vec::new()
    } else {
        headers_as_json(&request.headers)
    };
    let arguments = &request.arguments.bytes;

    push_number(out, request.sequence, b' ');
    push_word(out, &request.method);
    match request.deadline {
        None => push_word(out, NO_TTL),
        Some(deadline) => push_number(out, ms_left(deadline, now), b' '),
    }
    push_number(out, request.attempt, b' ');
    push_number(out, headers.len() as u64, b' ');
    push_number(out, arguments.len() as u64, b'\n');
    out.extend_from_slice(&headers);
    out.extend_from_bytes(arguments);
    out.push(b'\n');
}

fn push_reply(out: &mut Pieces, reply: &Reply, form: Form) {
    let (status, len) = match &reply.outcome {
        Outcome::Returned(payload) => (STATUS_OK, payload.bytes.len()),
        Outcome::Failed(payload) => (STATUS_ERROR, payload.bytes.len()),
        Outcome::Fault(fault) => (fault.kind.name(), fault.message.len()),
    };
    push_number(out, reply.sequence, b' ');
    push_word(out, status);
    let micros = u64::try_from(reply.handler_time.as_micros()).unwrap_or(u64::MAX);
    push_number(out, micros, b' ');
    push_number(out, len as u64, b'\n');
    match &reply.outcome {
        Outcome::Returned(payload) | Outcome::Failed(payload) => {
            debug_assert_eq!(Form::of(payload), form, "a mixed entry");
            out.extend_from_bytes(&payload.bytes);
        }
        Outcome::Fault(fault) => out.extend_from_slice(fault.message.as_bytes()),
    }
    out.push(b'\n');
}

fn push_number(out: &mut Pieces, number: impl Into<u64>, end: u8) {
    match number.into() {
        digit @ 0..10 => out.extend_from_slice(&[b'0' + digit as u8, end]),
        number => {
            out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            out.push(end);
        }
    }
}

fn push_word(out: &mut Pieces, word: &str) {
    out.extend_from_slice(word.as_bytes());
    out.push(b' ');
}

/// The time left until `deadline`, rounded up: a call that has time left must not look expired.
fn ms_left(deadline: Instant, now: Instant) -> u64 {
    let left = deadline.saturating_duration_since(now);
    let part = u64::from(left.subsec_nanos().div_ceil(1_000_000));
    left.as_secs().saturating_mul(1000).saturating_add(part)
}

fn headers_as_json(headers: &Headers) -> Vec<u8> {
    let mut json = Vec::new();
    let written = serde_json::Serializer::new(&mut json).collect_map(headers.iter());
    debug_assert!(written.is_ok(), "strings always have a form in JSON");
    json
}
