//! What becomes of the work of a worker that is gone.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use redis::Value;
use rpc_core::{CallError, Mode, RpcChannel};
use rpc_redis_streams::RedisStreamsIo;
use support::{EchoClient, Gate, client, soon_dead, start, start_on_its_own_runtime, worker_config};
use tests::{RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// The rows of XPENDING: id, consumer, idle time, deliveries.
async fn pending(server: &RedisServer) -> Vec<(String, String, u64, u64)> {
    let rows = server
        .command(&["XPENDING", "faults", "workers", "-", "+", "1000"])
        .await;
    match rows {
        Value::Array(_) => redis::from_redis_value(rows).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closing_worker_had_not_begun_keeps_its_attempt() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        // 16 slots, and 2 more in the prefetch.
        let config = || {
            worker_config(&server)
                .concurrency(16)
                .close_grace(Duration::from_millis(10))
        };
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let shut = Gate::new();
        let first = start(config(), &shut).await;
        let begun: Vec<_> = (0..16).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all slots are taken", async || shut.running() == 16).await;
        let waiting = [tokio::spawn(echo.gated_once()), tokio::spawn(echo.gated_once())];
        eventually(SOON, "two wait on the worker", async || {
            pending(&server).await.len() == 18
        })
        .await;

        // Twice, because the second hand-over is not to count what the first has not counted.
        let second = start(config(), &shut).await;
        first.close().await;
        eventually(SOON, "all have changed hands", async || {
            let deliveries: Vec<u64> = pending(&server).await.iter().map(|row| row.3).collect();
            shut.running() == 16 && deliveries == [[2; 16].as_slice(), &[1; 2]].concat()
        })
        .await;
        let open = Gate::new();
        open.open();
        let _third = start(config(), &open).await;
        second.close().await;
        for (n, call) in begun.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        for call in waiting {
            assert_eq!(call.await.unwrap(), Ok(1), "it begins for the first time");
        }
        assert_eq!(open.runs(), 18);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_runtime_is_gone_is_dead_although_somebody_holds_its_channel() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let config = || soon_dead(&server);
        let shut = Gate::new();
        let (runtime, held) = start_on_its_own_runtime(config(), &shut).await;
        let io = RedisStreamsIo::connect(config().build().unwrap()).await.unwrap();
        let echo = EchoClient::new(&RpcChannel::open(io).await.unwrap());
        let call = tokio::spawn(echo.gated(7));
        eventually(SOON, "it runs", async || shut.running() == 1).await;
        runtime.shutdown_background();

        held.closed().await;
        let own = EchoClient::new(&held).echo("a".to_owned()).await;
        assert!(matches!(own, Err(CallError::Closed { .. })), "{own:?}");
        let soon = echo.with_timeout(Duration::from_secs(2));
        eventually(SOON, "nobody is there", async || {
            matches!(soon.echo("b".to_owned()).await, Err(CallError::NoWorkers { .. }))
        })
        .await;
        let open = Gate::new();
        open.open();
        let _other = start(config(), &open).await;
        assert_eq!(call.await.unwrap(), Ok(7), "it is taken over");
        drop(held);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_meta_of_another_type_keeps_nobody_from_taking_over() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let config = || soon_dead(&server);
        let shut = Gate::new();
        let (runtime, _first) = start_on_its_own_runtime(config(), &shut).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let call = tokio::spawn(echo.gated(7));
        eventually(SOON, "it runs", async || shut.running() == 1).await;
        let open = Gate::new();
        open.open();
        let _other = start(config(), &open).await;
        server.command(&["SET", "{faults}:meta", "x"]).await;
        runtime.shutdown_background();
        assert_eq!(call.await.unwrap(), Ok(7));
        assert_eq!(
            server.command(&["GET", "{faults}:meta"]).await,
            Value::BulkString(b"x".to_vec())
        );
    })
    .await;
}
