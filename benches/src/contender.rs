//! Who takes part, and what they need.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Contender {
    /// Raw RESP without a library, the obvious design done well.
    #[value(name = "floor")]
    Floor,
    /// This project, in a consumer group, with default settings.
    #[value(name = "ours/group")]
    Group,
    /// The same over a unix socket.
    #[value(name = "ours/group/unix")]
    Unix,
    /// This project in broadcast, with one subscriber.
    #[value(name = "ours/broadcast")]
    Broadcast,
    /// The redis crate, one awaited command per call.
    #[value(name = "redis-crate/naive")]
    Naive,
}

/// What stands between client and worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    /// Redis, over TCP.
    Redis,
    /// Redis, over its unix socket.
    RedisUnix,
}

impl Contender {
    /// How it is called in tables.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// What it needs.
    pub(crate) fn broker(self) -> Broker {
        match self {
            Self::Floor | Self::Group | Self::Broadcast | Self::Naive => Broker::Redis,
            Self::Unix => Broker::RedisUnix,
        }
    }
}
