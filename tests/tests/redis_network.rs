//! What the network does to us: connections that stay open and carry nothing any more.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use rpc_core::RpcChannel;
use rpc_redis_streams::{Config, RedisStreamsIo};
use support::{EchoClient, Gate};
use tests::{Proxy, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(30);

const BLOCK: Duration = Duration::from_millis(500);

async fn connect(url: String) -> RedisStreamsIo {
    let config = Config::builder()
        .url(url)
        .stream("faults")
        .group("workers")
        .block_timeout(BLOCK);
    RedisStreamsIo::connect(config.build().unwrap()).await.unwrap()
}

async fn serve(url: String, gate: &std::sync::Arc<Gate>) -> RpcChannel {
    let builder = RpcChannel::builder(connect(url).await);
    builder.serve(support::server(gate)).unwrap().start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_written_while_a_clients_connections_were_dead_arrive() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let proxy = Proxy::start(server.port()).await;
        let gate = Gate::new();
        let _worker = serve(server.url(), &gate).await;
        let client = RpcChannel::open(connect(proxy.url()).await).await.unwrap();
        let echo = EchoClient::new(&client);
        let calls: Vec<_> = (0..200).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all calls run", async || gate.running() == 200).await;
        proxy.swallow();
        let dead = Instant::now();
        gate.open();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        // The watchdog of a read that blocks, and the new connection.
        let took = dead.elapsed();
        assert!(took < BLOCK + Duration::from_secs(2), "{took:?}");
        // What was to be written meanwhile is, when the writing connection counts as dead, too.
        assert_eq!(echo.echo("after".to_owned()).await.unwrap(), "after");
        assert_eq!(gate.runs(), 201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_connections_were_dead_runs_and_answers_all_and_never_looks_dead() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let proxy = Proxy::start(server.port()).await;
        let gate = Gate::new();
        let worker = serve(proxy.url(), &gate).await;
        let io = connect(server.url()).await;
        let client = RpcChannel::open(io.clone()).await.unwrap();
        let echo = EchoClient::new(&client);
        let before: Vec<_> = (0..100).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "all calls run", async || gate.running() == 100).await;
        proxy.swallow();
        let dead = Instant::now();
        // Redis hands these to the read that blocks on the dead connection.
        let meanwhile: Vec<_> = (100..150).map(|n| tokio::spawn(echo.gated(n))).collect();
        eventually(SOON, "what was handed out in vain is looked up", async || {
            gate.running() == 150
        })
        .await;
        let took = dead.elapsed();
        assert!(took < BLOCK + Duration::from_secs(2), "{took:?}");
        gate.open();
        let calls: Vec<_> = before.into_iter().chain(meanwhile).collect();
        while !calls.iter().all(|call| call.is_finished()) {
            let workers = io.workers().await.unwrap();
            assert!(workers.iter().all(|worker| worker.alive), "{workers:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap().unwrap(), n as u64);
        }
        assert_eq!(gate.runs(), 150, "none ran twice");
        assert_eq!(worker.stats().missed, 0);
        eventually(SOON, "all are settled", async || {
            let info = io.stream_info().await.unwrap();
            info.groups.iter().all(|group| group.pending == 0)
        })
        .await;
    })
    .await;
}
