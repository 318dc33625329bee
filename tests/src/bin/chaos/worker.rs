//! A worker process: serves the load, and writes down all that it runs.

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rpc_core::{Context, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::journal::{Event, Journal, Kind, Run};
use crate::service::{Answer, GROUP, Load, LoadServer, STREAM};

/// How a worker process is started.
#[derive(Args, Clone, Debug)]
pub(crate) struct WorkerArgs {
    /// Where Redis is, or a proxy before it.
    #[arg(long)]
    pub(crate) url: String,
    /// Where to write what is run.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// The name in the group; without it the worker is a subscriber of a broadcast stream.
    #[arg(long)]
    pub(crate) consumer: Option<String>,
    /// About how many entries a broadcast stream keeps.
    #[arg(long)]
    pub(crate) max_len: Option<u64>,
    /// Handlers at once.
    #[arg(long, default_value_t = 1024)]
    pub(crate) concurrency: usize,
    /// What to do wrong, to see that the harness notices.
    #[arg(long)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// A fault of the worker itself, in one of 37 calls: to test the harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// Answers without running.
    Idle,
    /// Runs twice.
    Double,
    /// Forgets notifications.
    Forget,
    /// Never answers.
    Mute,
}

struct Worker {
    journal: Journal,
    sabotage: Option<Sabotage>,
}

impl Worker {
    fn is_to(&self, sabotage: Sabotage, id: u64) -> bool {
        self.sabotage == Some(sabotage) && id.is_multiple_of(37)
    }

    /// Runs a call that takes `ms`.
    async fn run(&self, kind: Kind, cx: &Context, id: u64, ms: u64, padding: String) -> Answer {
        let (pid, attempt) = (process::id(), cx.attempt());
        let run = Run { pid, kind, id, attempt };
        let runs = match kind {
            _ if self.is_to(Sabotage::Idle, id) => 0,
            Kind::Note if self.is_to(Sabotage::Forget, id) => 0,
            _ if self.is_to(Sabotage::Double, id) => 2,
            _ => 1,
        };
        for _ in 0..runs {
            self.journal.write(Event::Begun(run));
            if kind == Kind::Poison {
                process::abort();
            }
            if ms > 0 {
                sleep(Duration::from_millis(ms)).await;
            }
            self.journal.write(Event::Finished(run));
        }
        // Nobody waits for a notification.
        if kind != Kind::Note && self.is_to(Sabotage::Mute, id) {
            std::future::pending::<()>().await;
        }
        Answer {
            id,
            pid,
            attempt,
            padding,
        }
    }
}

impl Load for Worker {
    async fn quick(&self, cx: &Context, id: u64, padding: String) -> Answer {
        self.run(Kind::Quick, cx, id, 0, padding).await
    }

    async fn slow(&self, cx: &Context, id: u64, ms: u64) -> Answer {
        self.run(Kind::Slow, cx, id, ms, String::new()).await
    }

    async fn once(&self, cx: &Context, id: u64, ms: u64) -> Answer {
        self.run(Kind::Once, cx, id, ms, String::new()).await
    }

    async fn fail(&self, cx: &Context, id: u64) -> Result<Answer, Answer> {
        Err(self.run(Kind::Fail, cx, id, 0, String::new()).await)
    }

    async fn note(&self, cx: &Context, id: u64) {
        self.run(Kind::Note, cx, id, 0, String::new()).await;
    }

    async fn poison(&self, cx: &Context, id: u64) -> Answer {
        self.run(Kind::Poison, cx, id, 0, String::new()).await
    }

    async fn stall(&self, ms: u64) -> u64 {
        sleep(Duration::from_millis(ms)).await;
        ms
    }
}

/// Serves until SIGTERM. Prints `ready` when it can be called, and what it has done at the end.
pub(crate) async fn run(args: WorkerArgs) {
    let mut terminate = signal(SignalKind::terminate()).expect("hear SIGTERM");
    let channel = serve(args).await;
    println!("ready");
    terminate.recv().await;
    channel.close().await;
    println!("stats {}", serde_json::json!(channel.stats()));
}

/// Starts to serve.
pub(crate) async fn serve(args: WorkerArgs) -> RpcChannel {
    let journal = Journal::append_to(&args.journal).expect("open the journal");
    let config = Config::builder()
        .url(args.url)
        .stream(STREAM)
        .concurrency(args.concurrency);
    let mut config = match args.consumer {
        Some(consumer) => config.group(GROUP).consumer(consumer),
        None => config.broadcast(),
    };
    if let Some(max_len) = args.max_len {
        config = config.max_len(max_len);
    }
    let config = config.build().expect("a valid configuration");
    let worker = Worker {
        journal,
        sabotage: args.sabotage,
    };
    // Redis may be away when a worker is started again, as it may be for any user; the harness waits with a limit.
    let io = loop {
        match RedisStreamsIo::connect(config.clone()).await {
            Ok(io) => break io,
            Err(error) => eprintln!("not yet connected: {error}"),
        }
        sleep(Duration::from_millis(100)).await;
    };
    let builder = RpcChannel::builder(io)
        .serve(LoadServer::new(worker))
        .expect("one service");
    builder.start().await.expect("start to serve")
}
