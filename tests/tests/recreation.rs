//! Groups and streams that somebody deletes while they are used.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_core::{CallError, Mode, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use support::{EchoClient, Gate, client, serve};
use tests::recorder::{RecorderClient, STREAM};
use tests::{Process, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

async fn start_peer(server: &RedisServer, name: &str) -> Process {
    let arguments = [
        server.url(),
        "group".to_owned(),
        name.to_owned(),
        server.dir().join(format!("{name}.log")).display().to_string(),
    ];
    let mut peer = Process::program(env!("CARGO_BIN_EXE_peer")).args(arguments).start();
    peer.wait_for_line(SOON, |line| line == "ready").await;
    peer
}

/// What became of the calls of a load.
#[derive(Debug, Default)]
struct Ended {
    ok: Vec<u64>,
    unknown: Vec<u64>,
}

/// Calls of a method that must not run twice, from 32 callers, until `stop`.
async fn load(recorder: &RecorderClient, stop: &Arc<AtomicBool>) -> Ended {
    let (next, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Ended::default())));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (recorder, stop) = (recorder.clone(), Arc::clone(stop));
            let (next, ended) = (Arc::clone(&next), Arc::clone(&ended));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    match recorder.record_once(n).await {
                        Ok(_) => ended.lock().unwrap().ok.push(n),
                        Err(CallError::Indeterminate { .. }) => ended.lock().unwrap().unknown.push(n),
                        Err(other) => panic!("call {n}: {other}"),
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    std::mem::take(&mut *ended.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_destroyed_under_load_runs_nothing_twice_that_must_not() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let names = ["one", "two", "three"];
        let mut peers = Vec::new();
        for name in names {
            peers.push(start_peer(&server, name).await);
        }
        let config = Config::builder().url(server.url()).stream(STREAM).group("recorders");
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let channel = RpcChannel::open(io).await.unwrap();
        let recorder = RecorderClient::new(&channel);
        let stop = Arc::new(AtomicBool::new(false));
        let calls = tokio::spawn({
            let (recorder, stop) = (recorder.clone(), Arc::clone(&stop));
            async move { load(&recorder, &stop).await }
        });
        // Longer than the workers take to create it again, so that the load goes on in between.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            server.command(&["XGROUP", "DESTROY", STREAM, "recorders"]).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.store(true, Ordering::SeqCst);
        let ended = calls.await.unwrap();
        // Also what was handed out again while its acknowledgement, made for the group of before, was on its way.
        eventually(SOON, "all is settled", async || {
            server.pending(STREAM, "recorders").await == 0
        })
        .await;
        let mut ran = Vec::new();
        for name in names {
            let file = std::fs::read_to_string(server.dir().join(format!("{name}.log"))).unwrap();
            ran.extend(file.lines().map(|line| line.parse::<u64>().unwrap()));
        }
        let distinct: HashSet<u64> = ran.iter().copied().collect();
        assert_eq!(distinct.len(), ran.len(), "some ran twice");
        assert!(
            ended.ok.iter().all(|n| distinct.contains(n)),
            "answered without having run"
        );
        assert!(ended.ok.len() > 1_000, "{}", ended.ok.len());
    })
    .await;
}

/// What is logged by this process, from warnings on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_and_a_flushed_redis_are_served_again_within_a_second() {
    within(LIMIT, async {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .init();
        let server = RedisServer::start().await;
        let gate = Gate::new();
        gate.open();
        let mut workers = Vec::new();
        for _ in 0..3 {
            workers.push(serve(&server, Mode::Group, &gate).await);
        }
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let stop = Arc::new(AtomicBool::new(false));
        // In flight at any time, of both kinds; each ends, and not by its deadline.
        let callers: Vec<_> = (0..16_u64)
            .map(|n| {
                let (echo, stop) = (echo.clone(), Arc::clone(&stop));
                tokio::spawn(async move {
                    while !stop.load(Ordering::SeqCst) {
                        let ended = match n % 2 {
                            0 => echo.gated_once().await.map(drop),
                            _ => echo.echo("x".to_owned()).await.map(drop),
                        };
                        assert!(
                            matches!(ended, Ok(()) | Err(CallError::Indeterminate { .. })),
                            "{ended:?}"
                        );
                    }
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        for command in [&["FLUSHALL"][..], &["DEL", "faults"]] {
            eventually(SOON, "a call succeeds", async || {
                echo.echo("a".to_owned()).await.is_ok()
            })
            .await;
            let at = Instant::now();
            server.command(command).await;
            eventually(SOON, "a call succeeds", async || {
                echo.echo("b".to_owned()).await.is_ok()
            })
            .await;
            slowest = slowest.max(at.elapsed());
        }
        stop.store(true, Ordering::SeqCst);
        for caller in callers {
            caller.await.unwrap();
        }
        // Half a second for a machine that has other things to do.
        assert!(slowest < Duration::from_millis(1_500), "{slowest:?}");
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        // The other test in this process has a stream and a group of other names.
        let lines: Vec<_> = log.lines().filter(|line| !line.contains("record")).collect();
        assert!(lines.len() < 20, "{}", lines.join("\n"));
        for worker in workers {
            worker.close().await;
        }
    })
    .await;
}

/// Up to where the group's entries may have run before.
async fn boundary(server: &RedisServer) -> Option<String> {
    let boundary = server.command(&["HGET", "{faults}:meta", "repeats:workers"]).await;
    redis::from_redis_value(boundary).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_created_anew_where_it_was_and_a_new_stream_from_its_start() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        // No room for a second call: what is handed out again goes to the other worker.
        let config = Config::builder().url(server.url()).stream("faults").group("workers");
        let io = RedisStreamsIo::connect(config.concurrency(1).build().unwrap())
            .await
            .unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&gate)).unwrap();
        let worker = builder.start().await.unwrap();
        assert_eq!(
            boundary(&server).await.as_deref(),
            Some("0-0"),
            "nothing has run before the first"
        );
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        // One that runs, and must not twice; it is never answered by this worker, which is stuck.
        let held = tokio::spawn(echo.gated_once());
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let other = Gate::new();
        other.open();
        let _other = serve(&server, Mode::Group, &other).await;
        server.command(&["XGROUP", "DESTROY", "faults", "workers"]).await;
        match held.await.unwrap() {
            Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("created anew"), "{reason}"),
            other => panic!("{other:?}"),
        }
        let last = async || {
            support::connect(&server, Mode::Group)
                .await
                .stream_info()
                .await
                .unwrap()
                .last
        };
        assert_eq!(boundary(&server).await, last().await.map(|id| id.to_string()));
        drop(worker);

        // A stream that is new has nothing that could have run, although its ids are lower than the floor was.
        server
            .command(&["HSET", "{faults}:meta", "floor", "99999999999999-0"])
            .await;
        server.command(&["DEL", "faults"]).await;
        assert_eq!(echo.with_timeout(SOON).echo("new".to_owned()).await.unwrap(), "new");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_time_that_a_stream_is_deleted_its_callers_are_told() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        for n in 1..=3 {
            let waiting = tokio::spawn(echo.without_timeout().gated(n));
            eventually(SOON, "it runs", async || gate.runs() == n).await;
            server.command(&["DEL", "faults"]).await;
            match tokio::time::timeout(SOON, waiting).await.unwrap().unwrap() {
                Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("deleted"), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_destroyed_group_had_not_settled_is_not_trimmed_while_its_workers_are_busy() {
    within(LIMIT, async {
        // Each entry is a node of its own, so that Redis trims to the entry.
        let server = RedisServer::builder()
            .arg("--stream-node-max-entries", "1")
            .start()
            .await;
        let (free, busy) = (Gate::new(), Gate::new());
        free.open();
        let quick = support::worker_config(&server).heartbeat_interval(Duration::from_millis(100));
        let _free = support::start(quick.clone().group("free"), &free).await;
        let worker = support::start(quick.group("busy").concurrency(1), &busy).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        // One that keeps the only worker of its group busy, and notes that wait behind it.
        let _held = tokio::spawn(echo.without_timeout().gated(1));
        eventually(SOON, "it runs", async || busy.running() == 1).await;
        for n in 0..10 {
            echo.note(n).await.unwrap();
        }
        eventually(SOON, "the other group has run them", async || free.runs() == 11).await;
        let io = support::connect(&server, Mode::Group).await;
        let held = io.entries(.., 1).await.unwrap()[0].id.to_string();
        let floor = async || -> Option<String> {
            let floor = server.command(&["HGET", "{faults}:meta", "floor"]).await;
            redis::from_redis_value(floor).unwrap()
        };
        eventually(SOON, "the first one holds back trimming", async || {
            floor().await.as_ref() == Some(&held)
        })
        .await;
        server.command(&["XGROUP", "DESTROY", "faults", "busy"]).await;
        // Both leaders look after the stream once a beat, and are not to find that all is settled.
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(floor().await.as_ref(), Some(&held));
        }
        busy.open();
        eventually(SOON, "they are run in the new group", async || busy.runs() >= 11).await;
        worker.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_trimmed_is_not_taken_for_a_deleted_one() {
    within(LIMIT, async {
        // Each entry is a node of its own, so that Redis trims to the entry.
        let server = RedisServer::builder()
            .arg("--stream-node-max-entries", "1")
            .start()
            .await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        for n in 0..10 {
            echo.echo(n.to_string()).await.unwrap();
        }
        let io = support::connect(&server, Mode::Group).await;
        eventually(SOON, "all is trimmed but the last", async || {
            io.stream_info().await.unwrap().length == 1
        })
        .await;
        let began = async || server.command(&["HGET", "{faults}:meta", "began"]).await;
        server.command(&["XGROUP", "DESTROY", "faults", "workers"]).await;
        assert_eq!(echo.echo("on".to_owned()).await.unwrap(), "on");
        assert_eq!(began().await, redis::Value::Nil);
        server.command(&["DEL", "faults"]).await;
        eventually(SOON, "the loss is noted", async || began().await != redis::Value::Nil).await;
    })
    .await;
}

/// Of a clock that was wrong once.
const FAR_FUTURE: &str = "99999999999999-0";

/// Whether the worker hears soon that a call is given up.
async fn is_given_up(echo: &EchoClient, gate: &Gate) -> bool {
    let before = gate.runs();
    let call = tokio::spawn(echo.gated(1));
    eventually(SOON, "it runs", async || gate.runs() > before).await;
    let running = gate.running();
    call.abort();
    for _ in 0..50 {
        if gate.running() < running {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_for_its_ids_of_the_future_is_read_again() {
    within(LIMIT, async {
        for mode in [Mode::Group, Mode::Broadcast] {
            let server = RedisServer::start().await;
            let gate = Gate::new();
            let channel = serve(&server, mode, &gate).await;
            let echo = EchoClient::new(&client(&server, mode).await);
            for key in ["faults", "{faults}:control"] {
                server.command(&["XADD", key, FAR_FUTURE, "rpc1", "?"]).await;
            }
            eventually(SOON, "it is read", async || channel.stats().malformed == 1).await;
            assert!(is_given_up(&echo, &gate).await);
            server.command(&["DEL", "faults", "{faults}:control"]).await;
            eventually(SOON, "a call is answered", async || {
                let soon = echo.with_timeout(Duration::from_secs(1));
                soon.echo("after".to_owned()).await.is_ok()
            })
            .await;
            eventually(SOON, "that a call is given up is heard", async || {
                is_given_up(&echo, &gate).await
            })
            .await;
        }
    })
    .await;
}

/// The call that waited when the inbox was lost has ended for that reason, and calls are answered again.
async fn is_opened_again(waiting: Result<u64, CallError>, echo: &EchoClient) {
    match waiting {
        Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("inbox"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let echo = echo.with_timeout(Duration::from_secs(10));
    assert_eq!(echo.echo("after".to_owned()).await.unwrap(), "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_that_is_replaced_for_its_ids_of_the_future_is_read_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let caller = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&caller);
        let inbox = format!("{{faults}}:inbox:{}", caller.session_id());
        server.command(&["XADD", &inbox, FAR_FUTURE, "rpc1", "?"]).await;
        eventually(SOON, "it is read", async || caller.stats().malformed == 1).await;
        let waiting = tokio::spawn(echo.gated(1));
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let replace = "redis.call('DEL', KEYS[1]) return redis.call('XADD', KEYS[1], '*', 'a', 'b')";
        server.command(&["EVAL", replace, "1", &inbox]).await;
        is_opened_again(waiting.await.unwrap(), &echo).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_of_another_type_is_opened_again() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let caller = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&caller);
        let waiting = tokio::spawn(echo.gated(1));
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let inbox = format!("{{faults}}:inbox:{}", caller.session_id());
        server.command(&["SET", &inbox, "x"]).await;
        is_opened_again(waiting.await.unwrap(), &echo).await;
    })
    .await;
}
