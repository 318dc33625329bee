//! How much memory a client takes while Redis is away: calls that have ended leave nothing behind. A file of its own, because
//! tests of one file share a process.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rpc_core::{CallError, Mode};
use support::{EchoClient, Gate, client, serve};
use tests::{RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// In KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn calls_that_ended_while_redis_is_away_leave_nothing_behind() {
    within(LIMIT, async {
        let mut server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        echo.echo("there".to_owned()).await.unwrap();
        let before = resident();
        server.kill();
        let impatient = echo.with_timeout(Duration::from_millis(10));
        // 500 MiB in all, of a size that does not travel in parts.
        let text = "x".repeat(256 << 10);
        for _ in 0..2000 {
            let ended = impatient.measure(text.clone()).await;
            assert!(matches!(ended, Err(CallError::DeadlineExceeded { .. })), "{ended:?}");
        }
        eventually(SOON, "little is left of them", async || {
            resident() < before + (64 << 10)
        })
        .await;
    })
    .await;
}
