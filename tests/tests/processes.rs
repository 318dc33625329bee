//! What users run: several processes on one Redis.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rpc_core::RpcChannel;
use rpc_redis_streams::{Config, RedisStreamsIo};
use tests::recorder::{RecorderClient, STREAM};
use tests::{Process, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

async fn start_peer(server: &RedisServer, mode: &str, name: &str) -> (Process, PathBuf) {
    let file = server.dir().join(format!("{name}.log"));
    let arguments = [
        server.url(),
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
            assert!((2_000..=4_700).contains(share), "{who} ran {share}: {shares:?}");
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
