//! Identities: of a channel, of a call, of an entry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The identity of one channel: replies are addressed to it.
///
/// A UUID version 7, so that sessions sort by the time they were opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    /// Makes a session id that nobody else has.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Uses `uuid` as a session id; it must not be in use by another channel.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID behind this id.
    #[must_use]
    pub const fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::from_str(text).map(Self).map_err(|_| InvalidId {
            kind: "session id",
            text: text.to_owned(),
        })
    }
}

/// The identity of one call: unique without coordination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// The channel that made the call.
    pub session: SessionId,
    /// The number of the call within its session, counted from 1.
    pub sequence: u64,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.session, self.sequence)
    }
}

/// The identity of an entry in a stream, ordered as the stream is.
///
/// Both numbers are those of a Redis stream id: milliseconds since 1970 on the server's clock, and a counter within
/// the millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// Milliseconds since 1970 on the clock of whoever keeps the stream.
    pub ms: u64,
    /// A counter among the entries of the same millisecond.
    pub seq: u64,
}

impl EntryId {
    /// The id before every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// The greatest id that is less than this one; zero before zero.
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.ms.checked_sub(1), self.seq.checked_sub(1)) {
            (_, Some(seq)) => Self { ms: self.ms, seq },
            (Some(ms), None) => Self { ms, seq: u64::MAX },
            (None, None) => Self::ZERO,
        }
    }

    /// The least id that is greater than this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self {
                ms: self.ms.saturating_add(1),
                seq: 0,
            },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = InvalidId;

    /// Reads `ms-seq`, or `ms` alone for the first entry of that millisecond.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        match (ms.parse(), seq.parse()) {
            (Ok(ms), Ok(seq)) => Ok(Self { ms, seq }),
            _ => Err(InvalidId {
                kind: "entry id",
                text: text.to_owned(),
            }),
        }
    }
}

/// A text is not the id it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {kind}")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_ids_read_back_and_sort_as_numbers() {
        let id: EntryId = "1700000000000-12".parse().unwrap();
        assert_eq!(id.to_string(), "1700000000000-12");
        assert!(id > "1700000000000-2".parse().unwrap());
        assert_eq!("5".parse::<EntryId>().unwrap(), EntryId { ms: 5, seq: 0 });
        assert!("5-x".parse::<EntryId>().is_err());
        assert_eq!(EntryId { ms: 5, seq: u64::MAX }.next(), EntryId { ms: 6, seq: 0 });
        assert_eq!(EntryId { ms: 6, seq: 0 }.previous(), EntryId { ms: 5, seq: u64::MAX });
        assert_eq!(EntryId::ZERO.previous(), EntryId::ZERO);
    }

    #[test]
    fn session_ids_read_back() {
        let id = SessionId::generate();
        assert_eq!(id.to_string().parse::<SessionId>().unwrap(), id);
        assert!("nonsense".parse::<SessionId>().is_err());
    }
}
