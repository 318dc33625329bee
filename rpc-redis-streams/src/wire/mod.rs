//! The form of messages in stream entries: a contract, described with examples in `docs/wire.md`.
//!
//! An entry has one field, whose name is the version and whose value is a head line followed by frames:
//!
//! ```text
//! <kind> <session> <codec>\n                        kind: call | notify | reply | cancel | hello | close
//!
//! call, notify: <sequence> <method> <ttl in ms, or -> <attempt> <headers len> <arguments len>\n<headers><arguments>\n
//! reply:        <sequence> <status> <handler time in µs> <len>\n<payload>\n
//! cancel:       <sequence> <ttl in ms, or ->\n
//! ```
//!
//! One field, because each field costs Redis and both ends time. Lengths before the payloads, because then nobody has
//! to search or copy them: a decoded payload is a slice of the value as it came.
//!
//! Everything that knows this form is in this module; other dialects may stand beside it on the same stream, told apart
//! entry by entry ([`Malformed::Foreign`]).

mod decode;
mod encode;
mod parts;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rpc_core::message::{Reply, Request};
use rpc_core::{Codec, SessionId};
use tokio::time::Instant;

pub(crate) use decode::decode;
pub(crate) use encode::{cancel, close, form_of, hello, replies, requests};
pub(crate) use parts::{Form, Parts};

/// The name of the only field of an entry; a wire that means something else gets another name.
pub(crate) const FIELD: &str = "rpc1";

/// A Lua function `part(value, index)`: the value of an entry that carries only request `index`, counted from 0, of a well-formed
/// `value`.
///
/// The lengths at the end of a frame's first line say where the next one begins. The pattern spells out the whole line: one
/// that may begin anywhere is tried at each byte of it, and a long word of digits would keep Redis busy for minutes.
pub(crate) const PART_IN_LUA: &str = "\
    local function part(value, index) \
        local head = string.find(value, '\\n', 1, true) \
        local at = head + 1 \
        for n = 0, index do \
            local eol = string.find(value, '\\n', at, true) \
            local headers, arguments = \
                string.match(string.sub(value, at, eol), '^%d+ [^ ]+ [^ ]+ %d+ (%d+) (%d+)\\n$') \
            local stop = eol + headers + arguments + 1 \
            if n == index then return string.sub(value, 1, head) .. string.sub(value, at, stop) end \
            at = stop + 1 \
        end \
    end ";

/// A Lua function `whole(value, prefix)`: the value of an entry of one request whose arguments lie in parts, under keys that begin with
/// `prefix`, with the arguments in it; any other as it is, and that one, too, if parts of it are gone or must not be read.
pub(crate) const WHOLE_IN_LUA: &str = "\
    local function whole(value, prefix) \
        local head, codec, frame = string.match(value, '^(%l+ [^ ]+ )(%l+)%-parts\\n(.*)$') \
        if not head then return value end \
        local eol = string.find(frame, '\\n', 1, true) \
        local line, headers, arguments = \
            string.match(string.sub(frame, 1, eol), '^(%d+ [^ ]+ [^ ]+ %d+ (%d+) )(%d+)\\n$') \
        local place = string.sub(frame, eol + headers + 1, eol + headers + arguments) \
        local name, count = string.match(place, '^([^ ]+) (%d+) %d+$') \
        local parts = {} \
        for n = 0, count - 1 do \
            local part = redis.pcall('GET', prefix .. name .. ':' .. n) \
            if type(part) ~= 'string' then return value end \
            parts[n + 1] = part \
        end \
        local found = table.concat(parts) \
        return head .. codec .. '\\n' .. line .. #found .. '\\n' .. string.sub(frame, eol + 1, eol + headers) .. found .. '\\n' \
    end ";

/// A Lua function `attempt(value)`: what the first request of an entry says of its attempt; nil if it says nothing.
pub(crate) const ATTEMPT_IN_LUA: &str = "\
    local function attempt(value) \
        return tonumber(string.match(value, '^[^\\n]*\\n%d+ %S+ %S+ (%d+) ')) \
    end ";

/// The codec in the head of an entry that has no payloads.
const NO_CODEC: &str = "-";

/// The time-to-live of what has no deadline.
const NO_TTL: &str = "-";

/// The greatest number of headers of one request.
///
/// [`rpc_core::Headers`] looks names up by scanning, so a reader must not be made to collect very many.
const MAX_HEADERS: usize = 1024;

/// The longest name of a method, in bytes: much more than a service and a method have, and too little to be of use to
/// somebody who wants to keep others busy with it.
const MAX_METHOD: usize = 1024;

/// The first word of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    Call,
    Notify,
    Reply,
    Cancel,
    Hello,
    Close,
}

impl EntryKind {
    const ALL: [Self; 6] = [
        Self::Call,
        Self::Notify,
        Self::Reply,
        Self::Cancel,
        Self::Hello,
        Self::Close,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Notify => "notify",
            Self::Reply => "reply",
            Self::Cancel => "cancel",
            Self::Hello => "hello",
            Self::Close => "close",
        }
    }
}

/// How a reply frame says that the method returned.
const STATUS_OK: &str = "ok";

/// How a reply frame says that the method returned its `Err`.
const STATUS_ERROR: &str = "error";

/// What an entry holds.
#[derive(Clone, Debug)]
pub(crate) enum Decoded {
    /// Calls or notifications.
    Requests {
        /// The session that made them.
        caller: SessionId,
        /// 1 to [`rpc_core::delivery::MAX_PACK`] requests, all of one kind.
        requests: Vec<Request>,
    },
    /// Answers to calls of the session whose inbox this is.
    Replies {
        /// The session that answers.
        from: SessionId,
        /// At least one.
        replies: Vec<Reply>,
    },
    /// Calls that their caller has given up.
    Cancel {
        /// The session that made them.
        caller: SessionId,
        /// Their sequence numbers, and until when they may still arrive; `None` for ever.
        calls: Vec<(u64, Option<Instant>)>,
    },
    /// The first entry of an inbox.
    Hello,
    /// Asks every channel of the stream that is configured to obey to close.
    Close {
        /// The session that asks.
        from: SessionId,
    },
}

/// When an entry was written, which is what times to live count from: only its reader knows the time on Redis's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    now: Instant,
    age: Duration,
}

impl Written {
    /// `age` before `now`.
    pub(crate) fn before(now: Instant, age: Duration) -> Self {
        Self { now, age }
    }

    /// Just now, or nobody asks.
    pub(crate) fn now() -> Self {
        Self::before(Instant::now(), Duration::ZERO)
    }

    /// The deadline of what was written with `ttl` to live: now, if that is over. `None` for ever, which a time past what a clock can
    /// hold is as good as.
    fn deadline(self, ttl: Duration) -> Option<Instant> {
        self.now.checked_add(ttl.saturating_sub(self.age))
    }
}

/// An entry is not of the form that this version writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("no field `{FIELD}`: another program or another version wrote it")]
    Foreign,

    #[error("{0} fields beside `{FIELD}`, which is to be the only one")]
    MoreFields(usize),

    #[error("it ends in the middle of {0}")]
    Truncated(&'static str),

    #[error("{0} is not followed by a line break")]
    NoLineBreak(&'static str),

    #[error("{what} has not exactly {words} words")]
    Words { what: &'static str, words: usize },

    #[error("unknown kind {0:?}; known are call, notify, reply, cancel, hello and close")]
    UnknownKind(String),

    #[error("{0:?} is not a session id")]
    Session(String),

    /// The form is right, so that the calls in it can be answered.
    #[error("{}", unknown_codec(.codec))]
    UnknownCodec {
        codec: String,
        caller: SessionId,
        /// The sequence numbers of the calls in the entry; empty for notifications.
        calls: Vec<u64>,
    },

    #[error("{kind} has codec {codec:?}, but carries nothing")]
    NeedlessCodec { kind: &'static str, codec: String },

    #[error("{what} is {found:?}, which is not a number from {least} to {greatest}")]
    Number {
        what: &'static str,
        found: String,
        least: u64,
        greatest: u64,
    },

    #[error("the method is {0:?}, but a name has 1 to {MAX_METHOD} bytes, without spaces and control characters")]
    Method(String),

    #[error("the method is not UTF-8")]
    MethodNotText,

    #[error("the status is {0:?}, but a status is of lower-case letters, digits and hyphens")]
    Status(String),

    #[error("the arguments are {0:?}, which does not say where their parts lie")]
    Parts(String),

    #[error("the headers are not a JSON object of strings: {0}")]
    Headers(String),

    #[error("nothing follows the head of a {0} entry")]
    Empty(&'static str),

    #[error("more than {0} requests")]
    TooManyRequests(usize),

    #[error("{bytes} bytes too many at the end of a {kind} entry")]
    Trailing { kind: &'static str, bytes: usize },
}

/// What to tell those who wrote in a codec that this build does not have.
fn unknown_codec(codec: &str) -> String {
    let known: Vec<_> = Codec::ALL.iter().map(|known| known.name()).collect();
    let remedy = match codec.strip_suffix(parts::SUFFIX).unwrap_or(codec) {
        // A build that has it does not get here.
        "msgpack" => "build this side with the feature `messagepack` of rpc-redis-streams, or write json",
        _ => "write one of these, or update this side",
    };
    format!("codec {codec:?} is unknown here; known: {}; {remedy}", known.join(", "))
}
