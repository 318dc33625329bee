//! How values become bytes: the codecs, and payloads that know theirs.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::json;

/// Enough for a small value: saves growing the buffer.
pub(crate) const ROOM: usize = 128;

/// How arguments and results are written.
///
/// The codec is named beside every payload, so peers that write different ones understand each other; a reply is
/// written in the codec of its call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// JSON by `serde_json`: readable in `redis-cli` and by every language.
    #[default]
    Json,
}

impl Codec {
    /// The name that stands on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
        }
    }

    /// The codec of that name on the wire, if this build knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// Writes `value`.
    ///
    /// # Errors
    /// When `value` has no form in this codec (a map whose keys are not strings in JSON, say).
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Payload, CodecError> {
        let mut bytes = Vec::with_capacity(ROOM);
        match self {
            Self::Json => json::write(&mut bytes, value).map_err(CodecError::new)?,
        }
        Ok(Payload {
            codec: self,
            bytes: bytes.into(),
        })
    }
}

/// An encoded value and the codec that reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload {
    /// The codec that wrote it.
    pub codec: Codec,
    /// The encoded value.
    pub bytes: Bytes,
}

impl Payload {
    /// What a method that returns nothing returned.
    pub(crate) const fn empty() -> Self {
        Self {
            codec: Codec::Json,
            bytes: Bytes::from_static(b"null"),
        }
    }

    /// Reads the value.
    ///
    /// # Errors
    /// When the bytes are not a `T` in this payload's codec.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        match self.codec {
            Codec::Json => serde_json::from_slice(&self.bytes).map_err(CodecError::new),
        }
    }
}

/// Shows the size only: payloads may hold what does not belong in a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes.len(), self.codec.name())
    }
}

/// A value could not be encoded or decoded; says where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(String);

impl CodecError {
    pub(crate) fn new(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}
