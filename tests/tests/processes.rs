//! What users run: several processes on one Redis.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::Value;
use rpc_core::{CallError, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use tests::recorder::{RecorderClient, STREAM};
use tests::{Process, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

async fn start_peer(server: &RedisServer, mode: &str, name: &str) -> (Process, PathBuf) {
    start_peer_with(server, "", mode, name).await
}

/// With options like `?death_time=1s`.
async fn start_peer_with(server: &RedisServer, options: &str, mode: &str, name: &str) -> (Process, PathBuf) {
    let file = server.dir().join(format!("{name}.log"));
    let arguments = [
        format!("{}{options}", server.url()),
        mode.to_owned(),
        name.to_owned(),
        file.display().to_string(),
    ];
    let mut peer = Process::program(env!("CARGO_BIN_EXE_peer")).args(arguments).start();
    peer.wait_for_line(SOON, |line| line == "ready").await;
    (peer, file)
}

fn recorded(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_share_ten_thousand_calls_and_run_each_once() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let mut peers = Vec::new();
        for name in ["one", "two", "three"] {
            peers.push(start_peer(&server, "group", name).await);
        }
        let config = Config::builder()
            .url(server.url())
            .stream(STREAM)
            .group("recorders")
            .build()
            .unwrap();
        let channel = RpcChannel::open(RedisStreamsIo::connect(config).await.unwrap())
            .await
            .unwrap();
        let recorder = RecorderClient::new(&channel);
        let calls: Vec<_> = (0..10_000).map(|n| tokio::spawn(recorder.record(n))).collect();
        let mut shares: HashMap<String, u32> = HashMap::new();
        for call in calls {
            *shares.entry(call.await.unwrap().unwrap()).or_default() += 1;
        }
        for (who, share) in &shares {
            // How even it is depends on whom the machine lets run, and calls travel by the dozen.
            assert!((500..=8_000).contains(share), "{who} ran {share}: {shares:?}");
        }
        let mut all: Vec<u64> = peers.iter().flat_map(|(_, file)| recorded(file)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>(), "each is run, and run once");
        for (peer, _) in &mut peers {
            peer.terminate();
            assert!(peer.wait_for_exit(SOON).await.success());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_subscribers_each_run_a_thousand_broadcast_calls() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let one = start_peer(&server, "broadcast", "one").await;
        let two = start_peer(&server, "broadcast", "two").await;
        let config = Config::builder()
            .url(server.url())
            .stream(STREAM)
            .broadcast()
            .build()
            .unwrap();
        let channel = RpcChannel::open(RedisStreamsIo::connect(config).await.unwrap())
            .await
            .unwrap();
        let recorder = RecorderClient::new(&channel);
        for n in 0..1_000 {
            recorder.record(n).await.unwrap();
        }
        let expected: Vec<u64> = (0..1_000).collect();
        for (_, file) in [&one, &two] {
            eventually(SOON, "the subscriber has run all", async || {
                recorded(file).len() >= 1_000
            })
            .await;
            let mut ran = recorded(file);
            ran.sort_unstable();
            assert_eq!(ran, expected);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_leaves_the_rest_of_the_work_to_the_others() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (mut one, _) = start_peer(&server, "group", "one").await;
        let (_two, _) = start_peer(&server, "group", "two").await;
        let config = Config::builder()
            .url(server.url())
            .stream(STREAM)
            .group("recorders")
            .build()
            .unwrap();
        let channel = RpcChannel::open(RedisStreamsIo::connect(config).await.unwrap())
            .await
            .unwrap();
        let recorder = RecorderClient::new(&channel);
        recorder.record(0).await.unwrap();
        one.kill();
        for n in 1..100 {
            assert_eq!(recorder.record(n).await.unwrap(), "two");
        }
    })
    .await;
}

async fn recorder_client(server: &RedisServer) -> RpcChannel {
    let config = Config::builder().url(server.url()).stream(STREAM).group("recorders");
    let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
    RpcChannel::open(io).await.unwrap()
}

const BEGUN: fn(&str) -> bool = |line| line == "begun";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_worker_held_is_run_by_another() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (mut one, _) = start_peer(&server, "group", "one").await;
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel);
        let again = tokio::spawn(recorder.stall());
        one.wait_for_line(SOON, BEGUN).await;
        let once = tokio::spawn(recorder.stall_once());
        one.wait_for_line(SOON, BEGUN).await;
        let (_two, _) = start_peer(&server, "group", "two").await;
        one.kill();
        assert_eq!(again.await.unwrap().unwrap(), 2, "the second attempt");
        let lost = once.await.unwrap();
        assert!(matches!(lost, Err(CallError::WorkerLost { .. })), "{lost:?}");
        // Nothing is left of the dead.
        eventually(SOON, "the dead consumer is removed", async || {
            let consumers = server.command(&["XINFO", "CONSUMERS", STREAM, "recorders"]).await;
            matches!(consumers, Value::Array(consumers) if consumers.len() == 1)
        })
        .await;
        eventually(SOON, "it is registered no more", async || {
            server.command(&["HLEN", "{recorded}:servers"]).await == Value::Int(1)
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_gives_up_its_idempotency_key() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (mut one, _) = start_peer(&server, "group", "one").await;
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel).with_idempotency_key("k");
        let first = tokio::spawn(recorder.stall_on_one());
        one.wait_for_line(SOON, BEGUN).await;
        let (mut two, _) = start_peer(&server, "group", "two").await;
        one.pause();
        // Only the other worker can read this one, and it has to wait: the first may still live.
        let repeated = tokio::spawn(recorder.stall_on_one());
        eventually(SOON, "both are read", async || {
            server.pending(STREAM, "recorders").await == 2
        })
        .await;
        one.kill();
        // Whichever of the two the survivor runs, it is one run, and both get its answer.
        assert_eq!(first.await.unwrap().as_deref(), Ok("two"));
        assert_eq!(repeated.await.unwrap().as_deref(), Ok("two"));
        two.wait_for_line(SOON, BEGUN).await;
        assert_eq!(two.stdout().iter().filter(|line| *line == "begun").count(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_short_death_time_a_dead_workers_call_is_taken_over_soon() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let options = "?heartbeat_interval=300ms&death_time=1s";
        let (mut one, _) = start_peer_with(&server, options, "group", "one").await;
        let recorder = RecorderClient::new(&recorder_client(&server).await);
        let call = tokio::spawn(recorder.stall());
        one.wait_for_line(SOON, BEGUN).await;
        let (_two, _) = start_peer_with(&server, options, "group", "two").await;
        one.kill();
        let killed = Instant::now();
        assert_eq!(call.await.unwrap().unwrap(), 2, "the second attempt");
        // Sooner than the default would allow.
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_can_never_be_claimed_ends_its_call() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (_two, _) = start_peer(&server, "group", "two").await;
        let channel = recorder_client(&server).await;
        server
            .command(&["SET", "{recorded}:dedupe:recorder.stall_on_one:k", "of another type"])
            .await;
        let error = RecorderClient::new(&channel)
            .with_idempotency_key("k")
            .stall_on_one()
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("its idempotency key cannot be claimed: WRONGTYPE"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_workers_call_is_taken_over_and_its_late_answer_ignored() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (mut one, _) = start_peer(&server, "group", "one").await;
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel);
        let call = tokio::spawn(recorder.stall());
        one.wait_for_line(SOON, BEGUN).await;
        let (_two, _) = start_peer(&server, "group", "two").await;
        one.pause();
        assert_eq!(call.await.unwrap().unwrap(), 2);
        one.resume();
        // It beats again, and works again.
        let workers = async || {
            let io = Config::builder()
                .url(server.url())
                .stream(STREAM)
                .group("recorders")
                .build()
                .unwrap();
            RedisStreamsIo::connect(io).await.unwrap().workers().await.unwrap()
        };
        eventually(SOON, "both are alive", async || {
            workers().await.iter().filter(|w| w.alive).count() == 2
        })
        .await;
        for n in 0..100 {
            recorder.record(n).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_a_dead_letter_after_three_workers() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel).with_timeout(LIMIT);
        let (mut last, _) = start_peer(&server, "group", "zero").await;
        let call = tokio::spawn(recorder.poison());
        for name in ["one", "two", "three"] {
            last.wait_for_line(SOON, BEGUN).await;
            (last, _) = start_peer(&server, "group", name).await;
        }
        let lost = call.await.unwrap();
        assert!(
            matches!(&lost, Err(CallError::WorkerLost { reason, .. }) if reason.contains("3 workers")),
            "{lost:?}"
        );
        assert_eq!(recorder.record(1).await.unwrap(), "three", "the last one lives");
        assert_eq!(server.command(&["XLEN", "{recorded}:dead"]).await, Value::Int(1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_of_redis_kills_nobody() {
    within(LIMIT, async {
        let mut server = RedisServer::start().await;
        let (mut one, _) = start_peer(&server, "group", "one").await;
        let (two, _) = start_peer(&server, "group", "two").await;
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel).with_timeout(LIMIT);
        let _stalled = tokio::spawn(recorder.stall());
        eventually(SOON, "a worker has begun", async || {
            [&one, &two]
                .iter()
                .any(|peer| peer.stdout().iter().any(|line| line == "begun"))
        })
        .await;
        // The pause itself is what is tested, and must outlast the death time.
        server.pause();
        tokio::time::sleep(Duration::from_secs(8)).await;
        server.resume();
        for n in 0..100 {
            recorder.record(n).await.unwrap();
        }
        // Longer than it would take to notice a death.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let info = server.command(&["XPENDING", STREAM, "recorders", "-", "+", "10"]).await;
        let Value::Array(rows) = info else { panic!("{info:?}") };
        let Value::Array(row) = &rows[0] else {
            panic!("{rows:?}")
        };
        assert_eq!(row[3], Value::Int(1), "delivered once: {row:?}");
        assert!(one.is_running());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_fails_no_call_and_runs_none_twice() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let mut peers = Vec::new();
        let mut files = Vec::new();
        for name in ["one", "two", "three"] {
            let (peer, file) = start_peer(&server, "group", name).await;
            peers.push(peer);
            files.push(file);
        }
        let channel = recorder_client(&server).await;
        let recorder = RecorderClient::new(&channel);
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let load = tokio::spawn(async move {
            let mut n = 0;
            while !*stopped.borrow() {
                let calls: Vec<_> = (n..n + 20).map(|n| tokio::spawn(recorder.record(n))).collect();
                n += 20;
                for call in calls {
                    call.await.unwrap().unwrap();
                }
            }
            n
        });
        for (n, name) in ["four", "five", "six"].into_iter().enumerate() {
            peers[n].terminate();
            assert!(peers[n].wait_for_exit(SOON).await.success());
            let (peer, file) = start_peer(&server, "group", name).await;
            peers.push(peer);
            files.push(file);
        }
        stop.send(true).unwrap();
        let made = load.await.unwrap();
        let mut all: Vec<u64> = files.iter().flat_map(|file| recorded(file)).collect();
        all.sort_unstable();
        assert_eq!(all, (0..made).collect::<Vec<_>>());
    })
    .await;
}
