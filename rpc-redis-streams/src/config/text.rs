//! Options as text: in the parameters of a url, and in whatever serde reads.

use std::fmt;
use std::time::Duration;

use rpc_core::{Codec, EntryId, Mode, SessionId};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::builder::ConfigBuilder;
use super::{Config, ConfigError, Start};

/// A value that can be written as text.
pub(super) trait FromText: Sized {
    /// What to write, for a person who wrote something else.
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for String {
    const EXPECTED: &'static str = "a text";

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromText for u64 {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for usize {
    const EXPECTED: &'static str = "a whole number";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Mode {
    const EXPECTED: &'static str = "group or broadcast";

    fn from_text(text: &str) -> Option<Self> {
        [Self::Group, Self::Broadcast]
            .into_iter()
            .find(|mode| mode.to_string() == text)
    }
}

impl FromText for Codec {
    const EXPECTED: &'static str = "json, or msgpack with the feature `messagepack` of rpc-redis-streams";

    fn from_text(text: &str) -> Option<Self> {
        Self::from_name(text)
    }
}

impl FromText for Start {
    const EXPECTED: &'static str = "now, beginning, or the id of an entry like 1700000000000-0";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "now" => Some(Self::Now),
            "beginning" => Some(Self::Beginning),
            id => id.parse::<EntryId>().ok().map(Self::After),
        }
    }
}

impl FromText for SessionId {
    const EXPECTED: &'static str = "a UUID";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Duration {
    const EXPECTED: &'static str = "a whole number and a unit, ms, s, m, h or d, like 500ms or 2s";

    fn from_text(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            "d" => 24 * 3600 * 1000,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        number.checked_mul(ms).map(Self::from_millis)
    }
}

/// Fills in an option that has not been given yet.
pub(super) fn read<T: FromText>(slot: &mut Option<T>, field: &'static str, text: &str) -> Result<(), ConfigError> {
    if slot.is_some() {
        return Err(ConfigError::Twice { field });
    }
    let value = T::from_text(text).ok_or_else(|| ConfigError::Unreadable {
        field,
        value: super::error::beginning(text),
        expected: T::EXPECTED,
    })?;
    *slot = Some(value);
    Ok(())
}

/// Reads a table of options. Validates it, so that a config is valid however it came about.
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_struct("Config", ConfigBuilder::NAMES, Options)
    }
}

struct Options;

impl<'de> Visitor<'de> for Options {
    type Value = Config;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
        let mut builder = ConfigBuilder::default();
        while let Some(name) = map.next_key::<String>()? {
            if let Scalar(Some(text)) = map.next_value()? {
                builder.set(&name, &text).map_err(A::Error::custom)?;
            }
        }
        builder.build().map_err(A::Error::custom)
    }
}

/// A text, number or truth value as text; nothing for null.
struct Scalar(Option<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a whole number, true or false")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar(Some(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar(Some(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar(Some(number.to_string())))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar(Some(value.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_none<E>(self) -> Result<Scalar, E> {
        Ok(Scalar(None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        Scalar::deserialize(deserializer)
    }
}
