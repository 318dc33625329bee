//! Helpers for tests that need real servers and several processes.
//!
//! Nothing here waits a fixed time: helpers poll for the condition and give up, loudly, at a limit.

mod child;
pub mod eventually;
pub mod processes;
pub mod proxy;
pub mod recorder;
pub mod redis_server;

pub use eventually::{eventually, eventually_some, within};
pub use processes::Process;
pub use proxy::Proxy;
pub use redis_server::RedisServer;
