//! How values become bytes: the codecs, and payloads that know theirs.

#[cfg(feature = "messagepack")]
mod messagepack;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::{DeserializeOwned, DeserializeSeed};

use crate::json;

/// The greatest value that is copied from where it was written, in bytes: that costs less than allocating for one of unknown
/// size, and once more for sharing it.
const COPIED: usize = 16 << 10;

/// The greatest value that shares its memory with those that were written before and after it, in bytes: of many that are alive at
/// the same time, each would be an allocation off the fast path, and all go at about the same time.
const SHARING: usize = 256;

/// How much memory they share.
const SHARED: usize = 4 << 10;

/// How much memory is kept for the next value, in bytes.
const KEPT: usize = 2 << 20;

/// How many times its own size the memory of a value may have: whoever holds the value holds all of that.
const SPACIOUS: usize = 4;

/// How arguments and results are written.
///
/// The codec is named beside every payload, so peers that write different ones understand each other. Whoever calls
/// chooses ([`ChannelSettings::codec`](crate::ChannelSettings::codec)); a server answers in the codec of the call, and
/// calls back in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// JSON by `serde_json`: readable in `redis-cli` and by every language.
    #[default]
    Json,
    /// MessagePack by `rmp-serde` (feature `messagepack`): smaller where arguments or results hold many numbers or bytes.
    ///
    /// Structs are maps with the names of their fields, and types that know a readable form (UUIDs, addresses, times) have
    /// it here, too: so what works in JSON works in MessagePack, and both put up with the same changes of a struct. Beyond
    /// that there are maps with keys of any type, floating point numbers that are not finite, and bytes as such for types
    /// that ask for them (those of `serde_bytes`, say; a plain `Vec<u8>` is a sequence of numbers).
    ///
    /// All servers that may get the call need the feature, and so does whoever repeats one with an idempotency key, because
    /// a result is kept in the codec of the call that ran. A server without it refuses the call, saying so.
    ///
    /// Values are nested 127 levels deep at most, as in JSON. That does not count what an enum holds of its own kind
    /// directly in a variant, as in `Not(Box<Self>)`: bytes made for it can exhaust the stack of whoever reads them, which
    /// ends the process. Leave the feature out where services take such types from a stream to which not only friends can
    /// write.
    ///
    /// ```
    /// use rpc_core::{ChannelSettings, Codec, MemoryBroker, Mode, RpcChannel, service};
    ///
    /// #[service]
    /// trait Statistics {
    ///     async fn mean(&self, samples: Vec<f64>) -> f64;
    /// }
    ///
    /// struct Exact;
    ///
    /// impl Statistics for Exact {
    ///     async fn mean(&self, samples: Vec<f64>) -> f64 {
    ///         samples.iter().sum::<f64>() / samples.len() as f64
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let broker = MemoryBroker::new(Mode::Group);
    /// let server = RpcChannel::builder(broker.connect())
    ///     .serve(StatisticsServer::new(Exact))?
    ///     .start()
    ///     .await?;
    ///
    /// let mut settings = ChannelSettings::default();
    /// settings.codec = Codec::MessagePack; // over Redis: `Config::builder().codec(Codec::MessagePack)`
    /// let client = RpcChannel::open(broker.connect().with_settings(settings)).await?;
    /// assert!(StatisticsClient::new(&client).mean(Vec::new()).await?.is_nan());
    /// # server.close().await;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "messagepack")]
    MessagePack,
}

impl Codec {
    /// Those that this build knows.
    pub const ALL: &'static [Self] = &[
        Self::Json,
        #[cfg(feature = "messagepack")]
        Self::MessagePack,
    ];

    /// The name that stands on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            #[cfg(feature = "messagepack")]
            Self::MessagePack => "msgpack",
        }
    }

    /// The codec of that name on the wire, if this build knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|codec| codec.name() == name)
    }

    /// Writes `value`.
    ///
    /// # Errors
    /// When `value` has no form in this codec (a map whose keys are not strings in JSON, say).
    pub fn encode<T: Serialize + ?Sized>(self, value: &T) -> Result<Payload, CodecError> {
        self.payload(|out| self.write(out, value))
    }

    /// The payload that `write` writes.
    pub(crate) fn payload(
        self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
    ) -> Result<Payload, CodecError> {
        // Taken out: a value may encode others while it is written.
        let mut out = SCRATCH.take();
        if out.capacity() == 0 {
            out = give_back(LENT.take()).unwrap_or_default();
        }
        out.clear();
        let written = write(&mut out);
        let is_kept = out.capacity() <= KEPT;
        let bytes = if out.len() > COPIED && out.capacity() <= SPACIOUS * out.len() {
            let bytes = Bytes::from(out);
            if is_kept {
                LENT.set(bytes.clone());
            }
            bytes
        } else {
            let bytes = copy(&out);
            if is_kept {
                SCRATCH.set(out);
            }
            bytes
        };
        written.map(|()| Payload::new(self, bytes))
    }

    /// Appends `value`.
    pub(crate) fn write<T: Serialize + ?Sized>(self, out: &mut Vec<u8>, value: &T) -> Result<(), CodecError> {
        match self {
            Self::Json => json::write(out, value).map_err(CodecError::new),
            #[cfg(feature = "messagepack")]
            Self::MessagePack => messagepack::write(out, value).map_err(CodecError::new),
        }
    }
}

thread_local! {
    /// Where values are written.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The memory of the last large one. Not until its pages are touched does new memory cost anything, and then more than all that
    /// is done with what is in them.
    static LENT: Cell<Bytes> = const { Cell::new(Bytes::new()) };
    /// What small ones share.
    static CHUNK: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(SHARED));
}

/// The memory of a value, if nobody has the value any more.
fn give_back(mut lent: Bytes) -> Option<Vec<u8>> {
    lent.is_unique().then(|| {
        // Nothing is to be moved to the front.
        lent.clear();
        lent.into()
    })
}

fn copy(value: &[u8]) -> Bytes {
    if value.len() > SHARING {
        return Bytes::copy_from_slice(value);
    }
    CHUNK.with_borrow_mut(|chunk| {
        chunk.extend_from_slice(value);
        chunk.split().freeze()
    })
}

/// An encoded value and the codec that reads it.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Payload {
    /// The codec that wrote it.
    pub codec: Codec,
    /// The encoded value; of one that lies elsewhere, what its IO needs to know to fetch it.
    pub bytes: Bytes,
    /// How many bytes the value has if it lies elsewhere, because it is too large to travel with its message: then it has to be
    /// [fetched](crate::RpcIo::fetch) before it can be read.
    pub elsewhere: Option<usize>,
}

impl Payload {
    /// A value, as `codec` has encoded it.
    #[must_use]
    pub const fn new(codec: Codec, bytes: Bytes) -> Self {
        Self {
            codec,
            bytes,
            elsewhere: None,
        }
    }

    /// How many bytes the encoded value has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.elsewhere.unwrap_or(self.bytes.len())
    }

    /// What a method that returns nothing returned. It names its own codec, so a caller in any codec can read it.
    pub(crate) const fn empty() -> Self {
        Self::new(Codec::Json, Bytes::from_static(b"null"))
    }

    /// Reads the value.
    ///
    /// # Errors
    /// When the bytes are not a `T` in this payload's codec.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, CodecError> {
        self.decode_by(PhantomData)
    }

    /// Has `seed` read the value.
    pub(crate) fn decode_by<'de, S: DeserializeSeed<'de> + Copy>(&'de self, seed: S) -> Result<S::Value, CodecError> {
        if self.elsewhere.is_some() {
            return Err(CodecError::new("the value lies elsewhere and has not been fetched"));
        }
        match self.codec {
            Codec::Json => json::read(&self.bytes, seed).map_err(CodecError::new),
            #[cfg(feature = "messagepack")]
            Codec::MessagePack => messagepack::from_slice(&self.bytes, seed).map_err(CodecError::new),
        }
    }
}

/// Shows the size only: payloads may hold what does not belong in a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.size(), self.codec.name())
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
