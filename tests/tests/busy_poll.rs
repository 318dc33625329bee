//! A client that polls for replies does so for a moment only.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rpc_core::Mode;
use rustix::time::{ClockId, clock_gettime};
use support::{EchoClient, Gate};
use tests::{RedisServer, eventually, within};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

/// How long a reply is to be waited for.
const LONG: Duration = Duration::from_secs(2);

/// How much CPU time this thread has taken.
fn worked() -> Duration {
    let worked = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(worked.tv_sec.unsigned_abs(), worked.tv_nsec.unsigned_abs() as u32)
}

#[tokio::test]
async fn waiting_for_a_slow_reply_takes_next_to_no_cpu_time() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = support::serve(&server, Mode::Group, &gate).await;
        let client = support::client(&server, Mode::Group).await;
        let echo = EchoClient::new(&client);
        // Those come soon, so that it pays to poll.
        for n in 0..200 {
            echo.echo(n.to_string()).await.unwrap();
        }
        let call = tokio::spawn(echo.gated(1));
        eventually(SOON, "the call runs", async || gate.running() == 1).await;
        let before = worked();
        sleep(LONG).await;
        let took = worked() - before;
        gate.open();
        assert_eq!(call.await.unwrap().unwrap(), 1);
        assert!(took < LONG / 10, "{took:?}");
    })
    .await;
}
