//! What Redis does to us: restarts, lost connections, deleted keys, foreign entries.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use redis::Value;
use rpc_core::{CallError, Mode, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use support::{EchoClient, Gate, client, config, serve};
use tests::{RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_through_a_restart_end_and_later_ones_succeed() {
    within(LIMIT, async {
        let mut server = RedisServer::builder()
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always")
            .start()
            .await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        let calls: Vec<_> = (0..100).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all calls run", async || gate.running() == 100).await;
        server.kill();
        server.restart().await;
        gate.open();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        assert_eq!(gate.runs(), 100, "none ran twice");
        assert_eq!(echo.echo("after".to_owned()).await.unwrap(), "after");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_made_while_redis_is_down_are_made_when_it_is_back() {
    within(LIMIT, async {
        let mut server = RedisServer::builder().arg("--appendonly", "yes").start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        assert_eq!(echo.echo("before".to_owned()).await.unwrap(), "before");
        server.stop().await;
        let hasty = echo.with_timeout(Duration::from_millis(300)).echo("in vain".to_owned());
        assert!(matches!(hasty.await, Err(CallError::DeadlineExceeded { .. })));
        let patient = tokio::spawn(echo.echo("during".to_owned()));
        server.restart().await;
        assert_eq!(patient.await.unwrap().unwrap(), "during");
    })
    .await;
}

async fn kill_connections(server: &RedisServer) {
    server
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missed_while_connections_are_lost() {
    for mode in [Mode::Group, Mode::Broadcast] {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let gate = Gate::new();
            let _server = serve(&server, mode, &gate).await;
            let echo = EchoClient::new(&client(&server, mode).await);
            let calls = tokio::spawn(async move {
                for n in 0..2_000 {
                    assert_eq!(echo.echo(n.to_string()).await.unwrap(), n.to_string());
                }
            });
            while !calls.is_finished() {
                kill_connections(&server).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            calls.await.unwrap();
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_group_and_a_deleted_stream_are_created_anew() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        assert_eq!(echo.echo("one".to_owned()).await.unwrap(), "one");
        for command in [
            &["XGROUP", "DESTROY", "faults", "workers"][..],
            &["DEL", "faults"],
            &["FLUSHALL"],
        ] {
            server.command(command).await;
            eventually(SOON, "calls are answered again", async || {
                let hasty = echo.with_timeout(Duration::from_secs(2));
                hasty.echo("two".to_owned()).await == Ok("two".to_owned())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_inbox_is_deleted_ends_as_indeterminate() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let call = tokio::spawn(EchoClient::new(&channel).gated(1));
        eventually(SOON, "the call runs", async || gate.running() == 1).await;
        server.command(&["FLUSHALL"]).await;
        let ended = call.await.unwrap();
        assert!(matches!(ended, Err(CallError::Indeterminate { .. })), "{ended:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_entries_neither_stop_nor_slow_a_reader() {
    let huge = "x".repeat(2 << 20);
    let entries: [&[&str]; 8] = [
        &["data", "{\"id\":1}"],
        &["rpc1", ""],
        &["rpc1", "garbage"],
        &[
            "rpc1",
            "call 00000000-0000-0000-0000-000000000000 json\n1 echo.echo 5 1 0 99999999999\n[]\n",
        ],
        &[
            "rpc1",
            "call 00000000-0000-0000-0000-000000000000 morse\n1 echo.echo 5000 1 0 2\n[]\n",
        ],
        &["rpc1", &huge],
        &["rpc1", "one", "rpc1", "two"],
        &["", ""],
    ];
    for mode in [Mode::Group, Mode::Broadcast] {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let worker = serve(&server, mode, &Gate::new()).await;
            let echo = EchoClient::new(&client(&server, mode).await);
            for _ in 0..20 {
                for entry in entries {
                    let command = [&["XADD", "faults", "*"], entry].concat();
                    assert!(matches!(server.command(&command).await, Value::BulkString(_)));
                }
                assert_eq!(echo.echo("in between".to_owned()).await.unwrap(), "in between");
            }
            // The one in an unknown codec has a caller who is told; all others are put aside and counted.
            eventually(SOON, "all are counted", async || worker.stats().malformed == 20 * 7).await;
            if mode == Mode::Group {
                eventually(SOON, "all are settled", async || pending(&server).await == 0).await;
                let dead = server.command(&["XLEN", "{faults}:dead"]).await;
                assert_eq!(dead, Value::Int(20 * 7));
            }
        })
        .await;
    }
}

async fn pending(server: &RedisServer) -> i64 {
    let io = RedisStreamsIo::connect(config(server, Mode::Group)).await.unwrap();
    let info = io.stream_info().await.unwrap();
    info.groups.iter().map(|group| group.pending as i64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_not_lost_when_redis_is_out_of_memory() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        let call = tokio::spawn(echo.gated(1));
        eventually(SOON, "the call runs", async || gate.running() == 1).await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        gate.open();
        eventually(SOON, "the handler is done", async || gate.running() == 0).await;
        match echo.echo("no room".to_owned()).await {
            Err(CallError::Overloaded { reason, .. }) => assert!(reason.contains("out of memory"), "{reason}"),
            other => panic!("{other:?}"),
        }
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
        eventually(SOON, "it is settled", async || pending(&server).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_on_two_streams_of_one_redis_do_not_meet() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (one, two) = (Gate::new(), Gate::new());
        let _one = serve(&server, Mode::Group, &one).await;
        let other = Config::builder().url(server.url()).stream("{faults}").group("workers");
        let io = RedisStreamsIo::connect(other.build().unwrap()).await.unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&two)).unwrap();
        let both = builder.start().await.unwrap();
        for _ in 0..10 {
            EchoClient::new(&client(&server, Mode::Group).await)
                .echo("one".to_owned())
                .await
                .unwrap();
            EchoClient::new(&both).echo("two".to_owned()).await.unwrap();
        }
        assert_eq!((one.runs(), two.runs()), (10, 10));
    })
    .await;
}
