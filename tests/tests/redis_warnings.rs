//! What an operator is told: by the log, by the statistics, by inspection.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rpc_core::RpcChannel;
use rpc_redis_streams::{Config, RedisStreamsIo};
use support::{EchoClient, Gate};
use tests::{Proxy, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// What all tests of this file have logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Log::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        };
        LOG.get_or_init(start).clone()
    }

    /// The lines that contain all of `parts`.
    fn lines(&self, parts: &[&str]) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        log.lines().filter(has_all).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_nobody_works_for_is_reported_and_kept() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::start().await;
        server
            .command(&["XGROUP", "CREATE", "abandoned", "sleepers", "0", "MKSTREAM"])
            .await;
        let config = Config::builder()
            .url(server.url())
            .stream("abandoned")
            .group("workers")
            .heartbeat_interval(Duration::from_millis(100))
            .death_time(Duration::from_millis(300));
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let builder = RpcChannel::builder(io.clone())
            .serve(support::server(&Gate::new()))
            .unwrap();
        let worker = builder.start().await.unwrap();
        for n in 0..7 {
            EchoClient::new(&worker).echo(n.to_string()).await.unwrap();
        }
        eventually(SOON, "it is reported", async || {
            !log.lines(&["holds back trimming", "group=\"sleepers\"", "entries=\"7\""])
                .is_empty()
        })
        .await;
        let info = io.stream_info().await.unwrap();
        let group = |name: &str| info.groups.iter().find(|group| group.name == name).unwrap();
        let (sleepers, workers) = (group("sleepers"), group("workers"));
        assert!(sleepers.is_abandoned() && !workers.is_abandoned(), "{info:?}");
        assert_eq!((sleepers.live_workers, workers.live_workers), (0, 1));
        assert!(log.lines(&["holds back trimming", "group=\"workers\""]).is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_queue_that_is_cut_says_what_it_is_about_to_drop_and_what_it_has_dropped() {
    within(LIMIT, async {
        let log = Log::start();
        // Redis cuts whole nodes.
        let server = RedisServer::builder()
            .arg("--stream-node-max-entries", "10")
            .start()
            .await;
        let config = Config::builder()
            .url(server.url())
            .stream("cut")
            .group("workers")
            .concurrency(1)
            .max_len(100);
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let gate = Gate::new();
        let builder = RpcChannel::builder(io.clone()).serve(support::server(&gate)).unwrap();
        let worker = builder.start().await.unwrap();
        let echo = EchoClient::new(&worker);
        let held = tokio::spawn(echo.gated(1));
        eventually(SOON, "the worker is busy", async || gate.running() == 1).await;
        for n in 0..95 {
            echo.note(n).await.unwrap();
        }
        eventually(SOON, "it is foreseen", async || {
            !log.lines(&["is about to drop", "stream=\"cut\"", "unsettled=96"])
                .is_empty()
        })
        .await;
        assert_eq!(worker.stats().missed, 0);
        for n in 0..100 {
            echo.note(n).await.unwrap();
        }
        let length = io.stream_info().await.unwrap().length;
        eventually(SOON, "it is counted", async || worker.stats().missed == 195 - length).await;
        eventually(SOON, "it is said", async || {
            !log.lines(&["has dropped requests", "stream=\"cut\""]).is_empty()
        })
        .await;
        gate.open();
        assert_eq!(held.await.unwrap().unwrap(), 1);
        eventually(SOON, "the rest has run", async || gate.runs() == 1 + length).await;
        assert_eq!(worker.stats().missed, 195 - length);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_blocked_subscriber_has_missed_is_counted() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::builder()
            .arg("--stream-node-max-entries", "10")
            .start()
            .await;
        let config = || {
            Config::builder()
                .url(server.url())
                .stream("slow")
                .broadcast()
                .max_len(100)
                // It is counted before a read ends in which nothing comes.
                .block_timeout(LIMIT)
                .build()
                .unwrap()
        };
        let gate = Gate::new();
        let (opened, channel) = std::sync::mpsc::channel();
        let (resume, resumed) = std::sync::mpsc::channel();
        let (slow, service) = (config(), support::server(&gate));
        let subscriber = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let io = RedisStreamsIo::connect(slow).await.unwrap();
                let builder = RpcChannel::builder(io).serve(service).unwrap();
                let channel: RpcChannel = builder.start().await.unwrap();
                opened.send(channel.clone()).unwrap();
                // Blocks its runtime, and with it the reader.
                let _: () = resumed.recv().unwrap();
                channel.closed().await;
            });
        });
        let channel = channel.recv().unwrap();
        let client = RpcChannel::open(RedisStreamsIo::connect(config()).await.unwrap())
            .await
            .unwrap();
        let echo = EchoClient::new(&client);
        for n in 0..1_000 {
            echo.note(n).await.unwrap();
        }
        resume.send(()).unwrap();
        eventually(SOON, "what is left has run", async || gate.runs() >= 100).await;
        eventually(SOON, "what is gone is counted", async || {
            channel.stats().missed + gate.runs() == 1_000
        })
        .await;
        assert!(channel.stats().missed >= 800, "{:?}", channel.stats());
        eventually(SOON, "it is said", async || {
            !log.lines(&["before this subscriber could read", "stream=\"slow\""])
                .is_empty()
        })
        .await;
        channel.close().await;
        subscriber.join().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_disconnected_subscriber_has_missed_is_counted() {
    within(LIMIT, async {
        let server = RedisServer::builder()
            .arg("--stream-node-max-entries", "10")
            .start()
            .await;
        let proxy = Proxy::start(server.port()).await;
        let config = |url: String| {
            let config = Config::builder().url(url).stream("away").broadcast().max_len(100);
            config.build().unwrap()
        };
        let gate = Gate::new();
        let io = RedisStreamsIo::connect(config(proxy.url())).await.unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&gate)).unwrap();
        let subscriber = builder.start().await.unwrap();
        let client = RpcChannel::open(RedisStreamsIo::connect(config(server.url())).await.unwrap())
            .await
            .unwrap();
        let echo = EchoClient::new(&client);
        let mut sent = 0;
        // Once it misses nothing, once much.
        for count in [50, 500] {
            proxy.cut();
            for n in 0..count {
                echo.note(n).await.unwrap();
            }
            proxy.mend();
            sent += count;
            eventually(SOON, "all is run or counted", async || {
                subscriber.stats().missed + gate.runs() == sent
            })
            .await;
            let missed = subscriber.stats().missed;
            assert!(if count == 50 { missed == 0 } else { missed >= 380 }, "{missed}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_beat_says_so() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::start().await;
        let config = Config::builder()
            .url(server.url())
            .stream("silent")
            .group("workers")
            .heartbeat_interval(Duration::from_millis(100))
            .death_time(Duration::from_millis(300));
        let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
        let builder = RpcChannel::builder(io).serve(support::server(&Gate::new())).unwrap();
        let _worker = builder.start().await.unwrap();
        server.command(&["SET", "{silent}:meta", "x"]).await;
        eventually(SOON, "what refuses the claim is named", async || {
            !log.lines(&["how the stream is used", "{silent}:meta"]).is_empty()
        })
        .await;
        assert!(log.lines(&["cannot beat", "stream=\"silent\""]).is_empty());
        server.command(&["SET", "{silent}:workers:workers", "x"]).await;
        eventually(SOON, "the silence is reported", async || {
            !log.lines(&["cannot beat", "stream=\"silent\"", "WRONGTYPE"]).is_empty()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_live_workers_of_one_name_are_reported_and_a_successor_is_not() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::start().await;
        let serve = async || {
            let config = Config::builder()
                .url(server.url())
                .stream("named")
                .group("workers")
                .consumer("pod-a")
                .heartbeat_interval(Duration::from_millis(100));
            let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
            let builder = RpcChannel::builder(io).serve(support::server(&Gate::new())).unwrap();
            builder.start().await.unwrap()
        };
        let has_beaten = async |times: usize| {
            let mut beats = HashSet::new();
            eventually(SOON, "it beats", async || {
                let beat = server.command(&["ZSCORE", "{named}:workers:workers", "pod-a"]).await;
                beats.insert(format!("{beat:?}"));
                beats.len() > times
            })
            .await;
        };
        let reports = || {
            log.lines(&["another worker of this name", "stream=\"named\"", "pod-a"])
                .len()
        };
        let first = serve().await;
        has_beaten(3).await;
        // As if killed: it beats no more.
        drop(first);
        let _second = serve().await;
        has_beaten(5).await;
        // As if Redis had lost its last beats.
        server.command(&["ZADD", "{named}:workers:workers", "1", "pod-a"]).await;
        has_beaten(3).await;
        assert_eq!(reports(), 0);
        let _third = serve().await;
        eventually(SOON, "both report it", async || reports() >= 2).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_with_work_in_hand_is_reported_and_one_that_closes_is_not() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::start().await;
        let config = |consumer: &str| {
            Config::builder()
                .url(server.url())
                .stream("mourned")
                .group("workers")
                .consumer(consumer)
                .close_grace(Duration::ZERO)
                .heartbeat_interval(Duration::from_millis(100))
                .death_time(Duration::from_millis(300))
        };
        let gate = Gate::new();
        let serve = async |consumer: &str| {
            let io = RedisStreamsIo::connect(config(consumer).build().unwrap())
                .await
                .unwrap();
            let builder = RpcChannel::builder(io).serve(support::server(&gate)).unwrap();
            builder.start().await.unwrap()
        };
        let io = RedisStreamsIo::connect(config("caller").build().unwrap())
            .await
            .unwrap();
        let echo = EchoClient::new(&RpcChannel::open(io).await.unwrap());
        let reports = |of: &str| log.lines(&["has stopped beating", "stream=\"mourned\"", of]).len();

        let closes = serve("closes").await;
        let held = tokio::spawn(echo.gated(1));
        eventually(SOON, "it runs", async || gate.runs() == 1).await;
        closes.close().await;
        let dies = serve("dies").await;
        eventually(SOON, "it runs there", async || gate.runs() == 2).await;
        drop(dies);
        let _lives = serve("lives").await;
        eventually(SOON, "the death is reported", async || reports("worker=\"dies\"") == 1).await;
        eventually(SOON, "it runs again", async || gate.runs() == 3).await;
        gate.open();
        assert_eq!(held.await.unwrap().unwrap(), 1);
        assert_eq!((reports("closes"), reports("worker=\"dies\"")), (0, 1));
    })
    .await;
}

#[tokio::test]
async fn a_channel_that_serves_and_is_dropped_without_closing_is_reported() {
    within(LIMIT, async {
        let log = Log::start();
        let server = RedisServer::start().await;
        let serve = async || {
            let config = Config::builder().url(server.url()).stream("dropped").group("workers");
            let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
            let builder = RpcChannel::builder(io).serve(support::server(&Gate::new())).unwrap();
            builder.start().await.unwrap()
        };
        let (dropped, closed) = (serve().await, serve().await);
        let [of_dropped, of_closed] = [&dropped, &closed].map(|channel| channel.session_id().to_string());
        drop(dropped);
        closed.close().await;
        drop(closed);
        let reports = |session: &str| log.lines(&["dropped without `close()`", session]).len();
        assert_eq!(reports(&of_dropped), 1);
        assert_eq!(reports(&of_closed), 0);
    })
    .await;
}
