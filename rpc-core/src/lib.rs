//! Typed RPC: a service is a trait, a channel carries its calls in both directions over any IO.
//!
//! Mark a trait with [`service`], implement it, serve it on an [`RpcChannel`], and call it through the generated
//! client from another channel: in this process over a [`MemoryBroker`], or anywhere over `rpc-redis-streams`.
//!
//! - *What a user touches*: [`service`], [`RpcChannel`], [`Context`], [`CallError`], [`MemoryBroker`].
//! - *What an IO touches*: [`io`], [`message`], [`delivery`].
//!
//! # Goals
//! Every call ends, in a value or in an error that says what to do. Nothing is lost silently. A service can be tested
//! without a server.
//!
//! # Non-goals
//! This is not a web framework, nor a job scheduler, and it speaks no protocol of its own: an IO does.
//!
//! # Features
//! - `messagepack`: `Codec::MessagePack`, beside JSON.

pub mod delivery;
pub mod io;
pub mod liveness;
pub mod message;

#[doc(hidden)]
pub mod arguments;

mod caller;
mod cancellation;
mod channel;
mod codec;
mod context;
mod dedupe;
mod descriptor;
mod dispatch;
mod endpoint;
mod error;
mod handler;
mod id;
mod in_flight;
mod in_process;
mod json;
mod memory;
mod pace;
mod queue;
mod rarely;
mod roster;
mod service;
mod settlement;
mod shared;
mod stats;
#[cfg(test)]
mod testing;
mod watch;

use std::time::Duration;

pub use caller::{Call, Caller};
pub use channel::{ChannelBuilder, RpcChannel};
pub use codec::{Codec, CodecError, Payload};
pub use context::Context;
pub use descriptor::{ArgumentDescriptor, MethodDescriptor, ServiceDescriptor};
pub use error::{CallError, IoError};
pub use id::{CallId, EntryId, InvalidId, SessionId};
pub use io::{ChannelSettings, Mode, Peer, RpcIo};
pub use memory::{MemoryBroker, MemoryIo};
pub use message::{Fault, FaultKind, Headers, Kind, Outcome};
pub use rpc_macros::service;
pub use service::{HandlerFuture, Service, ServiceConflict};
pub use stats::ChannelStats;

/// The header that carries a call's idempotency key.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How long a call waits for its reply unless somebody says otherwise.
pub const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(30);
