//! MessagePack, in a form in which every type works that works in JSON.

use rmp_serde::{Deserializer, Serializer, decode, encode};
use serde::de::{Deserialize, DeserializeSeed, Error as _};
use serde::ser::Serialize;

/// How deep values may be nested, as with `serde_json`.
const MAX_DEPTH: usize = 128;

pub(super) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), encode::Error> {
    // Readable forms, because in a flattened struct or an untagged enum serde reads no others.
    let mut serializer = Serializer::new(out).with_struct_map().with_human_readable();
    value.serialize(&mut serializer)
}

pub(super) fn from_slice<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> Result<S::Value, decode::Error> {
    let mut reader = Deserializer::from_read_ref(bytes).with_human_readable();
    reader.set_max_depth(MAX_DEPTH);
    let value = seed.deserialize(&mut reader)?;
    // There is no other way to ask for the end: a truth value begins to read what follows, and goes no deeper.
    match bool::deserialize(&mut reader) {
        Err(decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(decode::Error::custom("something follows the value")),
    }
}
