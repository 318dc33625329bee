//! A small service on a real Redis, for tests of what is particular to Redis.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rpc_core::{Mode, RpcChannel, service};
use rpc_redis_streams::{Config, ConfigBuilder, RedisStreamsIo};
use tests::RedisServer;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub(crate) const STREAM: &str = "faults";

#[service]
pub(crate) trait Echo {
    async fn echo(&self, text: String) -> String;
    /// How many bytes it has.
    async fn measure(&self, text: String) -> usize;
    /// The same text, also if it is called again.
    #[rpc(dedupe = "10m")]
    async fn keyed(&self, text: String) -> String;
    /// The text so many times.
    async fn repeat(&self, text: String, times: usize) -> String;
    /// Waits until the test opens the gate.
    async fn gated(&self, n: u64) -> u64;
    /// The same, of a text.
    async fn hold(&self, text: String) -> String;
    /// The same, and must not run twice; returns the attempt.
    #[rpc(at_most_once)]
    async fn gated_once(&self, #[ctx] cx: &rpc_core::Context) -> u32;
    /// Blocks the thread that it runs on.
    async fn block(&self, ms: u64) -> u64;
    #[rpc(notify)]
    async fn note(&self, n: u64);
}

/// What an older version of the client believes.
pub(crate) mod older {
    #[rpc_core::service(name = "echo")]
    pub(crate) trait Echo {
        #[rpc(notify)]
        async fn gone(&self, n: u64);
    }
}

/// Shared with the test, which looks in and holds the gate.
#[derive(Debug)]
pub(crate) struct Gate {
    gate: Semaphore,
    runs: AtomicU64,
    running: AtomicUsize,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Semaphore::new(0),
            runs: AtomicU64::new(0),
            running: AtomicUsize::new(0),
        })
    }

    pub(crate) fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

struct Running<'a>(&'a Gate);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Echo for Arc<Gate> {
    async fn echo(&self, text: String) -> String {
        self.runs.fetch_add(1, Ordering::SeqCst);
        text
    }

    async fn measure(&self, text: String) -> usize {
        self.runs.fetch_add(1, Ordering::SeqCst);
        text.len()
    }

    async fn keyed(&self, text: String) -> String {
        self.echo(text).await
    }

    async fn repeat(&self, text: String, times: usize) -> String {
        text.repeat(times)
    }

    async fn gated(&self, n: u64) -> u64 {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(self);
        self.gate.acquire().await.unwrap().forget();
        n
    }

    async fn hold(&self, text: String) -> String {
        self.gated(0).await;
        text
    }

    async fn gated_once(&self, cx: &rpc_core::Context) -> u32 {
        self.gated(0).await;
        cx.attempt()
    }

    async fn block(&self, ms: u64) -> u64 {
        std::thread::sleep(Duration::from_millis(ms));
        ms
    }

    async fn note(&self, _: u64) {
        self.runs.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn server(gate: &Arc<Gate>) -> EchoServer<Arc<Gate>> {
    EchoServer::new(Arc::clone(gate))
}

pub(crate) fn config(server: &RedisServer, mode: Mode) -> Config {
    let config = Config::builder().url(server.url()).stream(STREAM);
    let config = match mode {
        Mode::Group => config.group("workers"),
        Mode::Broadcast => config.broadcast(),
    };
    config.build().unwrap()
}

pub(crate) async fn connect(server: &RedisServer, mode: Mode) -> RedisStreamsIo {
    RedisStreamsIo::connect(config(server, mode)).await.unwrap()
}

pub(crate) async fn serve(redis: &RedisServer, mode: Mode, gate: &Arc<Gate>) -> RpcChannel {
    let builder = RpcChannel::builder(connect(redis, mode).await);
    builder.serve(server(gate)).unwrap().start().await.unwrap()
}

pub(crate) async fn client(server: &RedisServer, mode: Mode) -> RpcChannel {
    RpcChannel::open(connect(server, mode).await).await.unwrap()
}

/// Of a worker of the group that [`config`] names.
pub(crate) fn worker_config(server: &RedisServer) -> ConfigBuilder {
    Config::builder().url(server.url()).stream(STREAM).group("workers")
}

pub(crate) async fn start(config: ConfigBuilder, gate: &Arc<Gate>) -> RpcChannel {
    let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
    let builder = RpcChannel::builder(io).serve(server(gate)).unwrap();
    builder.start().await.unwrap()
}

/// Of workers whose death is noticed after a second.
pub(crate) fn soon_dead(server: &RedisServer) -> ConfigBuilder {
    worker_config(server)
        .heartbeat_interval(Duration::from_millis(100))
        .death_time(Duration::from_secs(1))
}

/// A worker that dies with the runtime it is returned with.
pub(crate) async fn start_on_its_own_runtime(config: ConfigBuilder, gate: &Arc<Gate>) -> (Runtime, RpcChannel) {
    let (runtime, gate) = (Runtime::new().unwrap(), Arc::clone(gate));
    let worker = runtime.spawn(async move { start(config, &gate).await });
    let worker = worker.await.unwrap();
    (runtime, worker)
}
