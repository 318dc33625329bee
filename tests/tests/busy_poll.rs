//! A client that polls for replies does so for a moment only.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rpc_core::RpcChannel;
use rpc_redis_streams::{Config, RedisStreamsIo};
use rustix::time::{ClockId, clock_gettime};
use support::{EchoClient, Gate};
use tests::{RedisServer, eventually, within};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

/// How long a reply is to be waited for.
const LONG: Duration = Duration::from_secs(2);

async fn connect(server: &RedisServer) -> RedisStreamsIo {
    let config = Config::builder()
        .url(server.url())
        .stream(support::STREAM)
        .group("workers");
    RedisStreamsIo::connect(config.build().unwrap()).await.unwrap()
}

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
        let builder = RpcChannel::builder(connect(&server).await);
        let _worker = builder.serve(support::server(&gate)).unwrap().start().await.unwrap();
        let client = RpcChannel::open(connect(&server).await).await.unwrap();
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
