//! The consumer group of the contenders that have to create it themselves.

use redis::{AsyncCommands, RedisError, RedisResult};

use crate::redis_connection;

/// Creates the group at the start of the stream, unless another worker was faster.
pub(crate) async fn create(address: &str, stream: &str, group: &str) -> RedisResult<()> {
    let mut connection = redis_connection::connect(address).await?;
    let created: RedisResult<()> = connection.xgroup_create_mkstream(stream, group, "0").await;
    let exists = |error: &RedisError| error.code() == Some("BUSYGROUP");
    if created.as_ref().is_err_and(exists) {
        Ok(())
    } else {
        created
    }
}
