//! What Redis does to us: restarts, lost connections, deleted keys, foreign entries.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use redis::Value;
use rpc_core::{CallError, Mode, RpcChannel, SessionId};
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
        let stopping = Instant::now();
        server.stop().await;
        let hasty = echo.with_timeout(Duration::from_millis(300)).echo("in vain".to_owned());
        let hasty = hasty.await.unwrap_err();
        assert!(matches!(hasty, CallError::DeadlineExceeded { .. }), "{hasty}");
        let text = hasty.to_string();
        let (_, since) = text.split_once("not connected for ").expect(&text);
        let (seconds, why) = since.split_once(" s: ").expect(&text);
        assert!(
            seconds.parse::<u64>().unwrap() <= stopping.elapsed().as_secs(),
            "{text}"
        );
        assert!(
            why.starts_with("no redis at ") && why.contains("connection refused"),
            "{text}"
        );
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
async fn what_a_worker_leaves_that_closes_while_redis_is_out_of_memory_is_taken_over() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (one, two) = (Gate::new(), Gate::new());
        let config = support::soon_dead(&server).close_grace(Duration::from_millis(100));
        let first = support::start(config, &one).await;
        let call = tokio::spawn(EchoClient::new(&client(&server, Mode::Group).await).gated(1));
        eventually(SOON, "the call runs", async || one.running() == 1).await;
        two.open();
        let _second = support::start(support::soon_dead(&server), &two).await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        first.close().await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
        assert_eq!(two.runs(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_not_ask_what_is_pending_goes_on_reading() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert_eq!(echo.echo("before".to_owned()).await.unwrap(), "before");
        server.command(&["ACL", "SETUSER", "default", "-xpending"]).await;
        // It asks when it has connected again.
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert_eq!(echo.echo("after".to_owned()).await.unwrap(), "after");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_becomes_one_dead_letter_however_often_it_is_found() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let worker = support::start(support::worker_config(&server).concurrency(1), &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        // Nothing is read while this runs.
        let call = tokio::spawn(echo.gated(1));
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        server.command(&["XADD", "faults", "*", "rpc1", "?"]).await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        gate.open();
        eventually(SOON, "it is found", async || worker.stats().malformed == 1).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        eventually(SOON, "it is found again", async || worker.stats().malformed >= 2).await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        assert_eq!(call.await.unwrap().unwrap(), 1);
        eventually(SOON, "all is settled", async || pending(&server).await == 0).await;
        worker.close().await;
        let letters = server.command(&["XLEN", "{faults}:dead"]).await;
        assert_eq!(letters, redis::Value::Int(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_out_of_memory_nothing_is_acknowledged_without_its_reply() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        let calls: Vec<_> = (0..200).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all calls run", async || gate.running() == 200).await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        gate.open();
        eventually(SOON, "all handlers are done", async || gate.running() == 0).await;
        // Each goes through the writer of the client, and takes its time.
        for _ in 0..20 {
            let refused = echo.echo("no room".to_owned()).await;
            assert!(matches!(refused, Err(CallError::Overloaded { .. })), "{refused:?}");
            assert_eq!(pending(&server).await, 200);
        }
        assert!(calls.iter().all(|call| !call.is_finished()));
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        assert_eq!(gate.runs(), 200, "none ran twice");
        eventually(SOON, "all are settled", async || pending(&server).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_lost_while_redis_is_out_of_memory_is_opened_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        let call = tokio::spawn(echo.gated(1));
        eventually(SOON, "the call runs", async || gate.running() == 1).await;
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let inbox = format!("{{faults}}:inbox:{}", channel.session_id());
        server.command(&["DEL", &inbox]).await;
        // Nothing else is added now: the call is not answered yet.
        let renewals = async || {
            let stats = server.command(&["INFO", "commandstats"]).await;
            let stats: String = redis::from_redis_value(stats).unwrap();
            let xadd = stats.lines().find(|line| line.starts_with("cmdstat_xadd:"));
            xadd.is_some_and(|line| !line.contains("rejected_calls=0"))
        };
        eventually(SOON, "it is refused", renewals).await;
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        let ended = call.await.unwrap();
        assert!(matches!(ended, Err(CallError::Indeterminate { .. })), "{ended:?}");
        assert_eq!(echo.echo("again".to_owned()).await.unwrap(), "again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_redis_refuses_does_not_block_the_replies() {
    for refusal in [
        // Before it is executed, and within the transaction.
        &["ACL", "SETUSER", "default", "-eval"][..],
        &["SET", "{faults}:dead", "no stream"],
    ] {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let gate = Gate::new();
            let worker = serve(&server, Mode::Group, &gate).await;
            let echo = EchoClient::new(&client(&server, Mode::Group).await);
            let calls: Vec<_> = (0..100).map(|n| tokio::spawn(echo.gated(n))).collect();
            eventually(SOON, "all calls run", async || gate.running() == 100).await;
            server.command(refusal).await;
            server.command(&["XADD", "faults", "*", "data", "foreign"]).await;
            eventually(SOON, "it is read", async || worker.stats().malformed == 1).await;
            gate.open();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.unwrap().unwrap(), n as u64);
            }
            assert_eq!(echo.echo("on".to_owned()).await.unwrap(), "on");
            eventually(SOON, "all are settled", async || pending(&server).await == 0).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_whose_inbox_is_no_stream_does_not_block_the_others() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let (one, two) = (client(&server, Mode::Group).await, client(&server, Mode::Group).await);
        let _never = tokio::spawn(EchoClient::new(&one).gated(1));
        let call = tokio::spawn(EchoClient::new(&two).gated(2));
        eventually(SOON, "both run", async || gate.running() == 2).await;
        server
            .command(&["SET", &format!("{{faults}}:inbox:{}", one.session_id()), "no stream"])
            .await;
        gate.open();
        assert_eq!(call.await.unwrap().unwrap(), 2);
        eventually(SOON, "both are settled", async || pending(&server).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_does_not_repeat_a_reply_whose_inbox_is_no_stream() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _subscriber = serve(&server, Mode::Broadcast, &Gate::new()).await;
        // By hand: a client would write to its inbox, too.
        let caller = SessionId::generate();
        let inbox = format!("{{faults}}:inbox:{caller}");
        server.command(&["SET", &inbox, "no stream"]).await;
        let call = format!("call {caller} json\n1 echo.echo - 1 0 5\n[\"x\"]\n");
        server.command(&["XADD", "faults", "*", "rpc1", &call]).await;
        let refused = async || server.counted("xadd", "failed_calls").await;
        eventually(SOON, "the reply is refused", async || refused().await > 0).await;
        let (once, beats) = (refused().await, server.counted("zadd", "calls").await);
        // What is to be written again is so twice between two beats.
        eventually(SOON, "it beats", async || {
            server.counted("zadd", "calls").await >= beats + 2
        })
        .await;
        assert_eq!(refused().await, once);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_refuses_is_written_when_it_is_a_master_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let calls: Vec<_> = (0..100).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all calls run", async || gate.running() == 100).await;
        // Of a master that is not there, so that nothing is lost.
        server.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        gate.open();
        let during = tokio::spawn(echo.echo("during".to_owned()));
        eventually(SOON, "writes are refused", async || {
            let stats = server.command(&["INFO", "errorstats"]).await;
            let stats: String = redis::from_redis_value(stats).unwrap();
            stats.contains("errorstat_READONLY")
        })
        .await;
        server.command(&["REPLICAOF", "NO", "ONE"]).await;
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        assert_eq!(during.await.unwrap().unwrap(), "during");
        assert_eq!(gate.runs(), 101, "none ran twice");
        eventually(SOON, "all are settled", async || pending(&server).await == 0).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_reading_connection_breaks_runs_nothing_twice() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let calls: Vec<_> = (0..16)
            .map(|caller| {
                let echo = echo.clone();
                tokio::spawn(async move {
                    for n in 0..400 {
                        let text = format!("{caller}/{n}");
                        assert_eq!(echo.echo(text.clone()).await.unwrap(), text);
                    }
                })
            })
            .collect();
        while !calls.iter().all(|call| call.is_finished()) {
            let clients: String = redis::from_redis_value(server.command(&["CLIENT", "LIST"]).await).unwrap();
            for reader in clients.lines().filter(|line| line.contains("cmd=xreadgroup")) {
                let id = reader.split(' ').find_map(|field| field.strip_prefix("id=")).unwrap();
                server.command(&["CLIENT", "KILL", "ID", id]).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for call in calls {
            call.await.unwrap();
        }
        assert_eq!(gate.runs(), 16 * 400);
        assert_eq!(worker.stats().missed, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_redis_is_not_read_as_nothing() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _subscriber = serve(&server, Mode::Broadcast, &Gate::new()).await;
        let io = support::connect(&server, Mode::Broadcast).await;
        let late = support::connect(&server, Mode::Broadcast).await;
        assert_eq!(io.workers().await.unwrap().len(), 1);
        server
            .command(&["ACL", "SETUSER", "default", "-hgetall", "-xinfo"])
            .await;
        let error = io.workers().await.unwrap_err();
        assert!(error.to_string().contains("redis refused it: NOPERM"), "{error}");
        assert!(io.stream_info().await.is_err());
        // From now on, or from the beginning? That cannot be told.
        let builder = RpcChannel::builder(late).serve(support::server(&Gate::new())).unwrap();
        assert!(builder.start().await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_multi_calls_are_made_and_answered_all_the_same() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        server.command(&["ACL", "SETUSER", "default", "-multi"]).await;
        for mode in [Mode::Group, Mode::Broadcast] {
            let worker = serve(&server, mode, &Gate::new()).await;
            let channel = client(&server, mode).await;
            let echo = EchoClient::new(&channel);
            let calls: Vec<_> = (0..100).map(|n| tokio::spawn(echo.echo(n.to_string()))).collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.unwrap().unwrap(), n.to_string());
            }
            worker.close().await;
            server.command(&["FLUSHALL"]).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_calls_made_together_each_is_told_that_redis_is_out_of_memory() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let calls: Vec<_> = (0..50).map(|n| tokio::spawn(echo.echo(n.to_string()))).collect();
        for call in calls {
            let ended = within(SOON, call).await.unwrap();
            assert!(matches!(ended, Err(CallError::Overloaded { .. })), "{ended:?}");
        }
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        assert_eq!(echo.echo("again".to_owned()).await.unwrap(), "again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_can_be_closed_while_redis_is_down() {
    within(LIMIT, async {
        let mut server = RedisServer::start().await;
        let worker = serve(&server, Mode::Group, &Gate::new()).await;
        let call = tokio::spawn(EchoClient::new(&worker).gated(1));
        eventually(SOON, "the call is made", async || worker.stats().running == 1).await;
        server.stop().await;
        let closing = worker.clone();
        let closed = tokio::spawn(async move { closing.close().await });
        eventually(SOON, "the waiting call ends", async || call.is_finished()).await;
        assert!(call.await.unwrap().is_err());
        within(SOON, closed).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_that_redis_never_takes_does_not_block_the_others() {
    within(LIMIT, async {
        let server = RedisServer::builder().arg("--proto-max-bulk-len", "1mb").start().await;
        // In one piece, and not in parts, which Redis would take.
        server.command(&["ACL", "SETUSER", "default", "-set"]).await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let large = tokio::spawn(echo.repeat("x".to_owned(), 2 << 20));
        match large.await.unwrap() {
            Err(CallError::BadResult { reason, .. }) => assert!(reason.contains("proto-max-bulk-len"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(echo.echo("small".to_owned()).await.unwrap(), "small");
        match echo.echo("x".repeat(2 << 20)).await {
            Err(CallError::Io { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(echo.echo("small".to_owned()).await.unwrap(), "small");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_not_trim_a_stream_that_no_server_has_claimed() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let config = Config::builder()
            .url(server.url())
            .stream("faults")
            .broadcast()
            .max_len(10);
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let echo = EchoClient::new(&RpcChannel::open(io.clone()).await.unwrap());
        for n in 0..500 {
            echo.note(n).await.unwrap();
        }
        assert_eq!(io.stream_info().await.unwrap().length, 500);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_stream_is_claimed_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        server.command(&["FLUSHALL"]).await;
        eventually(SOON, "broadcast is refused", async || {
            RedisStreamsIo::connect(config(&server, Mode::Broadcast)).await.is_err()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_a_bounded_stream_does_not_run_everything_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let config = Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .max_len(10_000);
        let connect = async || RedisStreamsIo::connect(config.clone().build().unwrap()).await.unwrap();
        let builder = RpcChannel::builder(connect().await)
            .serve(support::server(&gate))
            .unwrap();
        let _worker = builder.start().await.unwrap();
        let echo = EchoClient::new(&RpcChannel::open(connect().await).await.unwrap());
        for n in 0..300 {
            echo.note(n).await.unwrap();
        }
        eventually(SOON, "all have run", async || gate.runs() == 300).await;
        let last = connect().await.stream_info().await.unwrap().last.unwrap();
        eventually(SOON, "the floor is recorded", async || {
            let floor = server.command(&["HGET", "{faults}:meta", "floor"]).await;
            let floor: Option<String> = redis::from_redis_value(floor).unwrap();
            floor.is_some_and(|floor| floor.parse::<rpc_core::EntryId>().unwrap() > last)
        })
        .await;
        server.command(&["XGROUP", "DESTROY", "faults", "workers"]).await;
        assert_eq!(echo.with_timeout(SOON).echo("on".to_owned()).await.unwrap(), "on");
        assert_eq!(gate.runs(), 301);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_returns_under_its_name_runs_what_it_left() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let config = Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .consumer("fixed");
        let start = async || {
            let io = RedisStreamsIo::connect(config.clone().build().unwrap()).await.unwrap();
            RpcChannel::builder(io)
                .serve(support::server(&gate))
                .unwrap()
                .start()
                .await
                .unwrap()
        };
        let first = start().await;
        let call = tokio::spawn(EchoClient::new(&client(&server, Mode::Group).await).gated(1));
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        drop(first);
        eventually(SOON, "it is dropped", async || gate.running() == 0).await;
        let _second = start().await;
        eventually(SOON, "it runs again", async || gate.runs() == 2).await;
        // It counts as a take-over: whoever forbids a second run is heard.
        let rows = server.command(&["XPENDING", "faults", "workers", "-", "+", "1"]).await;
        let rows: Vec<(String, String, u64, u64)> = redis::from_redis_value(rows).unwrap();
        assert_eq!(rows[0].3, 2);
        gate.open();
        assert_eq!(call.await.unwrap().unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_closed_worker_hands_back_is_run_once_by_another() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        // No hints from the server: take-over must work without CLIENT UNBLOCK, too.
        server.command(&["ACL", "SETUSER", "default", "-client|unblock"]).await;
        let config = Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .close_grace(Duration::from_millis(10));
        let start = async |gate: &std::sync::Arc<Gate>| {
            let io = RedisStreamsIo::connect(config.clone().build().unwrap()).await.unwrap();
            let builder = RpcChannel::builder(io).serve(support::server(gate)).unwrap();
            builder.start().await.unwrap()
        };
        let leaving = Gate::new();
        let first = start(&leaving).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let calls: Vec<_> = (0..200).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all run on the first", async || leaving.running() == 200).await;
        let staying = [Gate::new(), Gate::new(), Gate::new()];
        let mut channels = Vec::new();
        for gate in &staying {
            gate.open();
            channels.push(start(gate).await);
        }
        first.close().await;
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        assert_eq!(
            staying.iter().map(|gate| gate.runs()).sum::<u64>(),
            200,
            "each is run by one of them"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_deleted_while_something_is_to_be_taken_over_is_served_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        // One that has left with work in hand, says the registry.
        server.command(&["XADD", "faults", "*", "data", "1"]).await;
        server.command(&["ZADD", "{faults}:workers:workers", "0", "gone"]).await;
        server.command(&["DEL", "faults"]).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert_eq!(echo.with_timeout(SOON).echo("again".to_owned()).await.unwrap(), "again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_redis_hangs_up_on_does_not_hold_up_the_others() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let config = "client-output-buffer-limit";
        server
            .command(&["CONFIG", "SET", config, "normal 1048576 1048576 1"])
            .await;
        // In one piece, and not in parts, which could be fetched.
        server.command(&["ACL", "SETUSER", "default", "-set"]).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let large = tokio::spawn(echo.with_timeout(Duration::from_secs(8)).echo("x".repeat(3 << 20)));
        let small = tokio::spawn(async move { echo.echo("small".to_owned()).await });
        assert_eq!(small.await.unwrap().as_deref(), Ok("small"));
        eventually(SOON, "the large one is a dead letter", async || {
            server.command(&["XLEN", "{faults}:dead"]).await == Value::Int(1)
        })
        .await;
        assert!(matches!(large.await.unwrap(), Err(CallError::DeadlineExceeded { .. })));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_made_at_once_are_shared_by_workers_that_wait() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gates = [Gate::new(), Gate::new(), Gate::new(), Gate::new()];
        let mut workers = Vec::new();
        for gate in &gates {
            workers.push(serve(&server, Mode::Group, gate).await);
        }
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        // Each reads its inbox, too, as the client does.
        eventually(SOON, "all wait", async || blocked_clients(&server).await == 2 * 4 + 1).await;
        let calls: Vec<_> = (0..8).map(|n| tokio::spawn(echo.gated(n))).collect();
        let running = || gates.each_ref().map(|gate| gate.running());
        eventually(SOON, "all run", async || running().iter().sum::<usize>() == 8).await;
        assert!(running().iter().all(|count| *count > 0), "{:?}", running());
        gates.iter().for_each(|gate| gate.open());
        for call in calls {
            call.await.unwrap().unwrap();
        }
    })
    .await;
}

async fn blocked_clients(server: &RedisServer) -> usize {
    let clients: String = redis::from_redis_value(server.command(&["INFO", "clients"]).await).unwrap();
    let count = clients.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    count.unwrap().parse().unwrap()
}
