//! Connections of the redis crate.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};

/// Connects without the crate's limit of half a second on how long an answer may take: reads block, and a machine under
/// load is what we want.
pub(crate) async fn connect(address: &str) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Client::open(address)?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
