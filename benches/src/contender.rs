//! Who takes part, and what they need.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Contender {
    /// Raw RESP without a library, the obvious design done well.
    #[value(name = "floor")]
    Floor,
    /// One caller on a blocking socket, one worker likewise, and nothing else: what Redis and the kernel leave to be won.
    #[value(name = "floor/blocking")]
    FloorBlocking,
    /// This project, in a consumer group, with default settings.
    #[value(name = "ours/group")]
    Group,
    /// The same with each request in an entry of its own; replies that are written at once still share one.
    #[value(name = "ours/group/unpacked")]
    Unpacked,
    /// The first with MessagePack instead of JSON.
    #[value(name = "ours/group/messagepack")]
    MessagePack,
    /// The first over a unix socket.
    #[value(name = "ours/group/unix")]
    Unix,
    /// This project in broadcast, with one subscriber.
    #[value(name = "ours/broadcast")]
    Broadcast,
    /// The redis crate, one awaited command per call.
    #[value(name = "redis-crate/naive")]
    Naive,
    /// A request to a NATS queue group: through a broker, which keeps nothing.
    #[cfg(feature = "peers")]
    #[value(name = "nats")]
    Nats,
    /// tarpc with bincode, from client to worker without a broker.
    #[cfg(feature = "peers")]
    #[value(name = "tarpc")]
    Tarpc,
    /// tonic, likewise.
    #[cfg(feature = "peers")]
    #[value(name = "tonic")]
    Tonic,
    /// jsonrpsee over a WebSocket, likewise.
    #[cfg(feature = "peers")]
    #[value(name = "jsonrpsee")]
    Jsonrpsee,
}

/// What stands between client and worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Redis, over TCP.
    Redis,
    /// Redis, over its unix socket.
    RedisUnix,
    /// A nats-server.
    #[cfg(feature = "peers")]
    Nats,
    /// Nothing: the client connects to the worker.
    #[cfg(feature = "peers")]
    None,
}

impl Contender {
    /// How it is called in tables.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What it needs.
    pub(crate) fn needs(self) -> Need {
        match self {
            Self::Floor
            | Self::FloorBlocking
            | Self::Group
            | Self::Unpacked
            | Self::MessagePack
            | Self::Broadcast
            | Self::Naive => Need::Redis,
            Self::Unix => Need::RedisUnix,
            #[cfg(feature = "peers")]
            Self::Nats => Need::Nats,
            #[cfg(feature = "peers")]
            Self::Tarpc | Self::Tonic | Self::Jsonrpsee => Need::None,
        }
    }

    /// Whether it can have as many callers.
    pub(crate) fn takes(self, callers: usize) -> bool {
        self != Self::FloorBlocking || callers == 1
    }

    /// Why it can't take part on this machine, if it can't.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "peers")]
            Self::Nats if crate::peers::nats::program().is_none() => {
                Some("there is no nats-server; install it with apt-get install nats-server, say")
            }
            _ => None,
        }
    }
}
