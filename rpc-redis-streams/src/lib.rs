//! Typed RPC over Redis Streams.
//!
//! [`RedisStreamsIo`] carries the channels of `rpc-core` over one stream of a Redis server, which its servers read as a
//! *consumer group* (one worker gets each call) or as *broadcast* (every subscriber gets every call). [`Config`] says
//! which, and everything else.
//!
//! Needs Redis 6.2 or later, or a server that speaks like it. The format of what is written is in `docs/wire.md`.
//!
//! # Features
//! - `messagepack`: calls in MessagePack ([`ConfigBuilder::codec`]), and answers to such calls.
//! - `tls`: `rediss://` urls.

mod abandoned;
mod appetite;
mod backlog;
mod bound;
mod busy_poll;
mod claim;
mod clock;
mod commands;
mod config;
mod connection;
mod connector;
mod creation;
mod cursor;
mod dead_letters;
mod decimal;
mod dedupe;
mod destination;
mod entry;
mod error;
mod extent;
mod flush;
mod fuse;
mod gaps;
mod give_way;
mod group;
mod groups;
mod heartbeat;
mod inbound;
mod inbox;
mod inspect;
mod io;
mod keys;
mod lasting;
mod lent;
mod lifeline;
mod mailbox;
mod membership;
mod meta;
mod outbox;
mod packing;
mod packs;
mod parts;
mod patience;
mod pieces;
mod registry;
mod report;
mod resp;
mod retention;
mod settle;
mod shared;
mod socket;
mod subscription;
mod takeover;
mod transaction;
mod trim;
mod turns;
mod wire;
mod writer;

pub use config::{Config, ConfigBuilder, ConfigError, Start};
pub use dead_letters::DeadLetter;
pub use error::RedisStreamsError;
pub use inspect::{ConsumerInfo, EntryContent, GroupInfo, RequestSummary, StreamEntry, StreamInfo};
pub use io::RedisStreamsIo;
pub use rpc_core::Mode;

/// Compiles the program in the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
