//! What stands in Redis while a stream is used, and what is left when it is not.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use redis::Value;
use rpc_core::{CallError, EntryId, Mode, RpcChannel};
use rpc_redis_streams::{EntryContent, RedisStreamsIo};
use support::{EchoClient, Gate, client, config, connect, older, serve};
use tests::{RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_can_be_looked_into_and_tidied() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let io = connect(&server, Mode::Group).await;
        let nothing = io.stream_info().await.unwrap();
        assert_eq!((nothing.length, nothing.first, nothing.groups.len()), (0, None, 0));

        // Nobody works: what is sent stays.
        let channel = RpcChannel::open(io.clone()).await.unwrap();
        let echo = EchoClient::new(&channel);
        for n in 0..10 {
            echo.note(n).await.unwrap();
        }
        let info = io.stream_info().await.unwrap();
        assert_eq!(info.length, 10);
        assert!(info.memory.is_some_and(|bytes| bytes > 100));
        let entries = io.entries(.., 100).await.unwrap();
        assert_eq!(entries.len(), 10);
        assert_eq!(
            (entries[0].id, entries[9].id),
            (info.first.unwrap(), info.last.unwrap())
        );
        match &entries[3].content {
            EntryContent::Requests { caller, requests } => {
                assert_eq!(*caller, channel.session_id());
                assert_eq!(
                    (requests[0].method.as_str(), requests[0].arguments.as_str()),
                    ("echo.note", "[3]")
                );
            }
            other => panic!("{other:?}"),
        }
        let middle = io.entries(entries[2].id..=entries[4].id, 100).await.unwrap();
        assert_eq!(middle, entries[2..=4]);
        assert_eq!(io.entries(entries[2].id.., 2).await.unwrap(), entries[2..4]);

        assert_eq!(io.delete(&[entries[5].id, EntryId::ZERO]).await.unwrap(), 1);
        assert_eq!(io.trim_before(entries[2].id).await.unwrap(), 2);
        assert_eq!(io.trim(3).await.unwrap(), 4);
        assert_eq!(io.stream_info().await.unwrap().length, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_registered_while_they_live() {
    for mode in [Mode::Group, Mode::Broadcast] {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let io = connect(&server, mode).await;
            let (own_session, own_consumer) = (io.session_id(), io.consumer().map(|(_, name)| name.to_owned()));
            let builder = RpcChannel::builder(io.clone())
                .serve(support::server(&Gate::new()))
                .unwrap();
            let worker = builder.start().await.unwrap();
            let second = serve(&server, mode, &Gate::new()).await;
            let workers = io.workers().await.unwrap();
            assert_eq!(workers.len(), 2);
            let own = workers.iter().find(|peer| peer.session == own_session).unwrap();
            assert_eq!(own.services, ["echo"]);
            assert_eq!(own.consumer.as_ref().map(|(_, name)| name.clone()), own_consumer);
            assert!(own.alive && own.age < Duration::from_secs(5));
            assert!(!own.version.is_empty());

            second.close().await;
            assert_eq!(io.workers().await.unwrap().len(), 1);
            worker.close().await;
            assert!(connect(&server, mode).await.workers().await.unwrap().is_empty());
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_runtime_does_not_stop_the_beat() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let url = server.url();
        // A runtime of one thread, which the handler blocks for longer than a live server may be silent.
        let blocked = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let config = rpc_redis_streams::Config::builder()
                    .url(url)
                    .stream("faults")
                    .group("workers");
                let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
                let builder = RpcChannel::builder(io).serve(support::server(&Gate::new())).unwrap();
                let channel = builder.start().await.unwrap();
                let done = EchoClient::new(&channel).block(7_000).await;
                channel.close().await;
                done
            })
        });
        let io = connect(&server, Mode::Group).await;
        eventually(SOON, "the worker is there", async || {
            !io.workers().await.unwrap().is_empty()
        })
        .await;
        while !blocked.is_finished() {
            for worker in io.workers().await.unwrap() {
                assert!(worker.alive, "{worker:?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(blocked.join().unwrap(), Ok(7_000));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_all_groups_have_settled_is_trimmed_and_nothing_else() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        // A group that reads nothing holds everything back.
        server
            .command(&["XGROUP", "CREATE", "faults", "sleepers", "0", "MKSTREAM"])
            .await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let io = connect(&server, Mode::Group).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        for n in 0..1_000 {
            echo.echo(n.to_string()).await.unwrap();
        }
        // Two beats later, trimming has had its chance.
        let beats = async || {
            server
                .command(&["ZRANGE", "{faults}:workers:workers", "0", "-1", "WITHSCORES"])
                .await
        };
        for _ in 0..2 {
            let before = beats().await;
            eventually(SOON, "another beat", async || beats().await != before).await;
        }
        assert_eq!(io.stream_info().await.unwrap().length, 1_000);

        server.command(&["XGROUP", "DESTROY", "faults", "sleepers"]).await;
        // Redis trims whole nodes of 100 entries.
        eventually(SOON, "the settled are trimmed", async || {
            io.stream_info().await.unwrap().length <= 100
        })
        .await;
        // A group that joins now starts where nothing has been trimmed.
        let late = Gate::new();
        let config = rpc_redis_streams::Config::builder()
            .url(server.url())
            .stream("faults")
            .group("late");
        let late_io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let _late = RpcChannel::builder(late_io)
            .serve(support::server(&late))
            .unwrap()
            .start()
            .await
            .unwrap();
        echo.echo("for both".to_owned()).await.unwrap();
        eventually(SOON, "the late group runs it", async || late.runs() >= 1).await;
        assert!(
            late.runs() <= 2,
            "it starts at the settled floor, not at the oldest entry left: {}",
            late.runs()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unprocessed_work_is_never_trimmed() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        let held = tokio::spawn(echo.gated(1));
        eventually(SOON, "the first call runs", async || gate.running() == 1).await;
        for n in 0..500 {
            echo.echo(n.to_string()).await.unwrap();
        }
        let floor = async || server.command(&["HGET", "{faults}:meta", "floor"]).await;
        eventually(SOON, "the floor is recorded", async || floor().await != Value::Nil).await;
        let io = connect(&server, Mode::Group).await;
        assert!(io.stream_info().await.unwrap().length >= 501);
        gate.open();
        assert_eq!(held.await.unwrap().unwrap(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_and_not_trimmed_is_no_backlog() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let config = rpc_redis_streams::Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .max_backlog(50);
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let echo = EchoClient::new(&RpcChannel::open(io.clone()).await.unwrap());
        // It holds back all that comes after it.
        let held = tokio::spawn(echo.gated(1));
        eventually(SOON, "the first call runs", async || gate.running() == 1).await;
        for n in 0..1_000 {
            echo.echo(n.to_string()).await.unwrap();
        }
        assert!(io.stream_info().await.unwrap().length > 1_000);
        gate.open();
        held.await.unwrap().unwrap();
        eventually(SOON, "it is trimmed", async || {
            io.stream_info().await.unwrap().length <= 100
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_several_clients_exceeds_the_backlog_by_little() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let config = rpc_redis_streams::Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .concurrency(1)
            .max_backlog(1_000)
            .build()
            .unwrap();
        let gate = Gate::new();
        let io = RedisStreamsIo::connect(config.clone()).await.unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&gate)).unwrap();
        let worker = builder.start().await.unwrap();
        let _held = tokio::spawn(EchoClient::new(&worker).gated(0));
        eventually(SOON, "the worker is busy", async || gate.running() == 1).await;
        let mut channels = Vec::new();
        for _ in 0..4 {
            let io = RedisStreamsIo::connect(config.clone()).await.unwrap();
            channels.push(RpcChannel::open(io).await.unwrap());
        }
        let notes: Vec<_> = (0..20_000)
            .map(|n| tokio::spawn(EchoClient::new(&channels[n % 4]).note(n as u64)))
            .collect();
        let mut accepted = 1;
        for note in notes {
            match note.await.unwrap() {
                Ok(()) => accepted += 1,
                Err(CallError::Overloaded { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        let length = connect(&server, Mode::Group).await.stream_info().await.unwrap().length;
        assert_eq!(length, accepted);
        assert!((1_000..=1_000 + 4 * 1_280).contains(&length), "{length}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_channel_leaves_no_keys_of_its_own_behind() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let worker = serve(&server, Mode::Group, &Gate::new()).await;
        let channel = client(&server, Mode::Group).await;
        EchoClient::new(&channel).echo("x".to_owned()).await.unwrap();
        let ttl = server
            .command(&["PTTL", &format!("{{faults}}:inbox:{}", channel.session_id())])
            .await;
        assert!(matches!(ttl, Value::Int(ms) if ms > 0 && ms <= 60_000), "{ttl:?}");
        channel.close().await;
        worker.close().await;
        let mut keys: Vec<String> = redis::from_redis_value(server.command(&["KEYS", "*"]).await).unwrap();
        keys.sort();
        let stream_and_meta: Vec<_> = keys
            .iter()
            .filter(|key| !key.contains(":meta") && *key != "faults")
            .collect();
        assert!(stream_and_meta.is_empty(), "{keys:?}");
        let consumers = server.command(&["XINFO", "CONSUMERS", "faults", "workers"]).await;
        assert_eq!(consumers, Value::Array(Vec::new()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_does_not_wait_for_a_read_that_blocks() {
    within(Duration::from_secs(20), async {
        let server = RedisServer::start().await;
        let config = rpc_redis_streams::Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .block_timeout(Duration::from_secs(3_600));
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&Gate::new())).unwrap();
        let worker = builder.start().await.unwrap();
        eventually(SOON, "the worker blocks", async || {
            let clients: String = redis::from_redis_value(server.command(&["CLIENT", "LIST"]).await).unwrap();
            clients.contains("cmd=xreadgroup")
        })
        .await;
        worker.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcast_starts_where_it_is_told() {
    within(LIMIT, async {
        use rpc_redis_streams::{Config, Start};
        let server = RedisServer::start().await;
        let channel = client(&server, Mode::Broadcast).await;
        let echo = EchoClient::new(&channel);
        for n in 0..10 {
            echo.note(n).await.unwrap();
        }
        let io = connect(&server, Mode::Broadcast).await;
        let fifth = io.entries(.., 5).await.unwrap().pop().unwrap().id;
        for (start, expected) in [(Start::Beginning, 11), (Start::After(fifth), 6), (Start::Now, 1)] {
            let config = Config::builder()
                .url(server.url())
                .stream("faults")
                .broadcast()
                .start(start);
            let gate = Gate::new();
            let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
            let subscriber = RpcChannel::builder(io)
                .serve(support::server(&gate))
                .unwrap()
                .start()
                .await
                .unwrap();
            // From this very session, so that the next turn does not see it as one of the first ten.
            let own = client(&server, Mode::Broadcast).await;
            EchoClient::new(&own).note(99).await.unwrap();
            eventually(SOON, "it has caught up", async || gate.runs() >= expected).await;
            assert_eq!(gate.runs(), expected);
            subscriber.close().await;
            let last = io_last(&server).await;
            connect(&server, Mode::Broadcast).await.delete(&[last]).await.unwrap();
        }
    })
    .await;
}

async fn io_last(server: &RedisServer) -> EntryId {
    let io = RedisStreamsIo::connect(config(server, Mode::Broadcast)).await.unwrap();
    io.stream_info().await.unwrap().last.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_can_be_read_sent_again_and_thrown_away() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let io = connect(&server, Mode::Group).await;
        let channel = RpcChannel::open(io.clone()).await.unwrap();
        // Two that nobody can run: of a method that is not served, and no message at all.
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        older::EchoClient::new(&channel).gone(7).await.unwrap();
        server.command(&["XADD", "faults", "*", "data", "foreign"]).await;
        eventually(SOON, "both are given up", async || {
            io.dead_letters(10).await.unwrap().len() == 2
        })
        .await;
        let mut letters = io.dead_letters(10).await.unwrap();
        assert_eq!(io.dead_letters(1).await.unwrap(), letters[..1]);
        // Read together, what is no message is given up first.
        letters.sort_by_key(|letter| letter.entry);
        assert!(
            letters[0].reason.contains("this server has echo.echo"),
            "{}",
            letters[0].reason
        );
        assert_eq!(letters[0].attempts, 1);
        assert!(letters[0].time.elapsed().unwrap() < Duration::from_secs(60));
        match &letters[0].content {
            EntryContent::Requests { requests, .. } => assert_eq!(requests[0].method, "echo.gone"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(letters[1].content, EntryContent::Unreadable { .. }));

        assert!(io.discard(letters[1].id).await.unwrap());
        assert!(!io.discard(letters[1].id).await.unwrap());
        assert!(!io.requeue(EntryId::ZERO).await.unwrap());
        assert!(io.requeue(letters[0].id).await.unwrap());
        // It is not served any better now, and comes back with an id of its own.
        eventually(SOON, "it is given up again", async || {
            let again = io.dead_letters(10).await.unwrap();
            again.len() == 1 && again[0].id > letters[0].id && again[0].entry > letters[0].entry
        })
        .await;
    })
    .await;
}
