//! Where a payload lies that is too large for an entry: what stands in its place in the frame.

use bytes::Bytes;
use rpc_core::{Codec, Payload};
use uuid::Uuid;

use super::decode::words;
use crate::decimal::decimal;

/// What follows the name of the codec in the head of an entry whose payloads lie in parts.
pub(super) const SUFFIX: &str = "-parts";

/// How the payloads of an entry are written, and where: the last word of its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) codec: Codec,
    pub(crate) in_parts: bool,
}

impl Form {
    /// That of an entry with `payload` in it.
    pub(crate) fn of(payload: &Payload) -> Self {
        Self {
            codec: payload.codec,
            in_parts: payload.elsewhere.is_some(),
        }
    }

    /// The payload that `bytes` are in an entry of this form.
    ///
    /// # Errors
    /// With the bytes, if they are to say where it lies, and do not.
    pub(super) fn payload(self, bytes: Bytes) -> Result<Payload, Bytes> {
        let mut payload = Payload::new(self.codec, bytes);
        if self.in_parts {
            match Parts::read(&payload.bytes) {
                Some(parts) => payload.elsewhere = Some(parts.size),
                None => return Err(payload.bytes),
            }
        }
        Ok(payload)
    }

    /// The form of that name, if this build knows it.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let (codec, in_parts) = match name.strip_suffix(SUFFIX) {
            Some(codec) => (codec, true),
            None => (name, false),
        };
        let codec = Codec::from_name(codec)?;
        Some(Self { codec, in_parts })
    }
}

/// The fewest bytes that a part has, if it is not the last, and the most parts of a payload: whoever believes a place need not count
/// far for it.
const LEAST: usize = 64 << 10;
const MOST: usize = 16 << 10;

/// A payload that lies in the parts of this name, each under a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    pub(crate) name: Uuid,
    /// How many there are: 0, 1, 2 and so on, in their order.
    pub(crate) count: usize,
    /// How many bytes they have together.
    pub(crate) size: usize,
}

impl Parts {
    /// The payload that says so.
    pub(crate) fn payload(self, codec: Codec) -> Payload {
        let Self { name, count, size } = self;
        let mut payload = Payload::new(codec, format!("{} {count} {size}", name.hyphenated()).into());
        payload.elsewhere = Some(size);
        payload
    }

    /// What a payload says that lies elsewhere.
    pub(crate) fn of(payload: &Payload) -> Option<Self> {
        payload.elsewhere.and_then(|_| Self::read(&payload.bytes))
    }

    fn read(text: &[u8]) -> Option<Self> {
        let [name, count, size] = words(text, "the place of a payload").ok()?;
        let number = |digits| usize::try_from(decimal(digits)?).ok();
        // The one form that is written, as for sessions.
        let is_name = name.len() == uuid::fmt::Hyphenated::LENGTH;
        let parts = Self {
            name: is_name.then(|| Uuid::try_parse_ascii(name).ok()).flatten()?,
            count: number(count)?,
            size: number(size)?,
        };
        let most = parts.size.div_ceil(LEAST).min(MOST);
        (1..=most).contains(&parts.count).then_some(parts)
    }
}
