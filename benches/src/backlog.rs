//! A stream that is long already, because somebody else has not read it.

use crate::{ours, redis_connection};

/// How many entries are written at once.
const BATCH: usize = 10_000;

/// Writes so many entries, which our own group need not read any more, but another group has yet to read.
pub(crate) async fn fill(address: &str, entries: usize) -> redis::RedisResult<()> {
    let stream = ours::stream(0);
    let mut connection = redis_connection::connect(address).await?;
    let create = |group: &str| {
        let mut command = redis::cmd("XGROUP");
        command.arg("CREATE").arg(&stream).arg(group).arg("$").arg("MKSTREAM");
        command
    };
    create("absent").exec_async(&mut connection).await?;
    let payload = "x".repeat(100);
    for start in (0..entries).step_by(BATCH) {
        let mut batch = redis::pipe();
        for _ in start..entries.min(start + BATCH) {
            batch
                .cmd("XADD")
                .arg(&stream)
                .arg("*")
                .arg("backlog")
                .arg(&payload)
                .ignore();
        }
        batch.exec_async(&mut connection).await?;
    }
    create(ours::GROUP).exec_async(&mut connection).await
}
