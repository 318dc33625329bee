//! What the processes of a measurement do: this program, started again with the task as an argument.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::contender::Contender;
use crate::load::{self, Echo, Load};
use crate::measurement::Case;
#[cfg(feature = "peers")]
use crate::peers;
use crate::runtime::Runtime;
use crate::sample::{self, Observed, Sample};
use crate::{allocations, floor, naive, ours};

/// What every process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) case: Case,
    /// Of the broker, or of the worker if there is none.
    pub(crate) address: String,
    pub(crate) runtime: Runtime,
}

/// The task of a client that measures.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) task: Task,
    /// Milliseconds before anything is measured.
    pub(crate) warm_up: u64,
    /// Milliseconds that are measured.
    pub(crate) measure: u64,
    /// The other processes.
    pub(crate) observed: Observed,
}

/// What a worker says when it is asked to end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerReport {
    /// Calls it ran, where its contender counts them.
    pub(crate) handled: u64,
    /// Allocations since its start, if they are counted.
    pub(crate) allocations: Option<u64>,
}

/// What a bystander says when it is asked to end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BystanderReport {
    /// Large calls in a second.
    pub(crate) large_rps: f64,
}

/// The first word of the line with which a process says that it works.
pub(crate) const READY: &str = "ready";

/// Calls that this process has run.
pub(crate) static HANDLED: AtomicU64 = AtomicU64::new(0);

/// Bytes of a large call beside small ones.
const LARGE: usize = 1 << 20;

/// Large calls that this process has made.
static LARGE_CALLS: AtomicU64 = AtomicU64::new(0);

/// Says that this process works, and at which address it listens, if it does.
pub(crate) fn ready(address: &str) {
    println!("{READY} {address}");
}

/// Serves until it is asked to end, and reports.
pub(crate) fn work(task: &str) -> anyhow::Result<()> {
    let task: Task = read(task)?;
    task.runtime.block_on(until_asked_to_end(task.serve(), || WorkerReport {
        handled: HANDLED.load(Ordering::Relaxed),
        allocations: allocations::count(),
    }))
}

/// Does what is to be done until somebody wants a report.
async fn until_asked_to_end<R: Serialize>(
    work: impl Future<Output = anyhow::Result<()>>,
    report: impl FnOnce() -> R,
) -> anyhow::Result<()> {
    let mut asked_to_end = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = work => ended.context("it should work until it is asked to end"),
        _ = asked_to_end.recv() => {
            println!("{}", serde_json::to_string(&report())?);
            // Waits for nothing: everybody else ends as well.
            std::process::exit(0);
        }
    }
}

/// Measures, and prints the sample.
pub(crate) fn measure(task: &str) -> anyhow::Result<()> {
    let measure: Measure = read(task)?;
    let sample = measure.task.runtime.block_on(measure.run())?;
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

/// Opens sessions beside those that are measured, and makes large calls in them, if there are any to make.
pub(crate) fn stand_by(task: &str) -> anyhow::Result<()> {
    let task: Task = read(task)?;
    let Task { case, address, .. } = &task;
    let began = Instant::now();
    let stand = async {
        let sessions = case.shape.bystanders;
        match case.contender {
            Contender::Floor => beside(case, &floor::connect_all(address, "bystander", sessions).await?).await,
            _ => beside(case, &ours::connect_all(case, address, sessions).await?).await,
        }
    };
    task.runtime.block_on(until_asked_to_end(stand, || BystanderReport {
        large_rps: LARGE_CALLS.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64(),
    }))
}

async fn beside(case: &Case, clients: &[impl Echo]) -> anyhow::Result<()> {
    ready("");
    call_forever(case.shape.large_beside, &clients[0]).await?;
    std::future::pending().await
}

impl Task {
    async fn serve(&self) -> anyhow::Result<()> {
        let address = self.address.as_str();
        match self.case.contender {
            Contender::Floor => floor::serve(address).await,
            Contender::FloorBlocking => floor::blocking::serve(address).await,
            Contender::Naive => naive::serve(address).await,
            #[cfg(feature = "peers")]
            Contender::Nats => peers::nats::serve(address).await,
            #[cfg(feature = "peers")]
            Contender::Tarpc => peers::tarpc::serve().await,
            #[cfg(feature = "peers")]
            Contender::Tonic => peers::tonic::serve().await,
            #[cfg(feature = "peers")]
            Contender::Jsonrpsee => peers::jsonrpsee::serve().await,
            Contender::Group
            | Contender::Unpacked
            | Contender::MessagePack
            | Contender::Unix
            | Contender::Broadcast => ours::serve(&self.case, address).await,
        }
    }
}

impl Measure {
    async fn run(&self) -> anyhow::Result<Sample> {
        let Task { case, address, .. } = &self.task;
        match case.contender {
            Contender::Floor => {
                let clients = floor::connect_all(address, "inbox", case.shape.sessions).await?;
                self.with(&clients).await
            }
            Contender::FloorBlocking => self.with(&[floor::blocking::Client::connect(address, "inbox")?]).await,
            Contender::Naive => self.with(&[naive::Client::connect(address, "inbox").await?]).await,
            #[cfg(feature = "peers")]
            Contender::Nats => self.with(&[peers::nats::Client::connect(address).await?]).await,
            #[cfg(feature = "peers")]
            Contender::Tarpc => self.with(&[peers::tarpc::Client::connect(address).await?]).await,
            #[cfg(feature = "peers")]
            Contender::Tonic => self.with(&[peers::tonic::Client::connect(address).await?]).await,
            #[cfg(feature = "peers")]
            Contender::Jsonrpsee => self.with(&[peers::jsonrpsee::Client::connect(address).await?]).await,
            Contender::Group
            | Contender::Unpacked
            | Contender::MessagePack
            | Contender::Unix
            | Contender::Broadcast => {
                self.with(&ours::connect_all(case, address, case.shape.sessions).await?)
                    .await
            }
        }
    }

    async fn with(&self, clients: &[impl Echo]) -> anyhow::Result<Sample> {
        let Case { point, shape, .. } = &self.task.case;
        let load = |millis| Load {
            callers: point.callers,
            payload: point.payload,
            time: Duration::from_millis(millis),
        };
        let measured = async {
            let warm_up = load(self.warm_up).run(clients).await?.latencies.len();
            let (began, large) = (Instant::now(), LARGE_CALLS.load(Ordering::Relaxed));
            let mut sample = sample::take(&self.observed, load(self.measure).run(clients)).await?;
            let large = LARGE_CALLS.load(Ordering::Relaxed) - large;
            sample.large_rps = (shape.large_within > 0).then(|| large as f64 / began.elapsed().as_secs_f64());
            sample.all_calls = sample.calls + warm_up;
            anyhow::Ok(sample)
        };
        tokio::select! {
            sample = measured => sample,
            Err(error) = call_forever(shape.large_within, &clients[0]) => Err(error),
        }
    }
}

/// Makes large calls, as many at once, until one fails; returns at once if that is none.
async fn call_forever(callers: usize, client: &impl Echo) -> anyhow::Result<()> {
    let mut calls = JoinSet::new();
    for caller in 0..callers {
        calls.spawn(call_large(client.clone(), load::payload(caller, LARGE)));
    }
    match calls.join_next().await {
        Some(ended) => ended?.map(|never| match never {}),
        None => Ok(()),
    }
}

async fn call_large(client: impl Echo, payload: String) -> anyhow::Result<Infallible> {
    loop {
        let reply = client.echo(&payload).await?;
        ensure!(
            reply.as_ref() == payload.as_bytes(),
            "a large call was not answered with its own payload"
        );
        LARGE_CALLS.fetch_add(1, Ordering::Relaxed);
    }
}

/// A broken connection is the end of a process that has nothing to fall back on.
pub(crate) fn or_die(who: &str, result: anyhow::Result<()>) {
    if let Err(error) = result {
        eprintln!("{who}: {error:#}");
        std::process::exit(1);
    }
}

fn read<T: DeserializeOwned>(task: &str) -> anyhow::Result<T> {
    serde_json::from_str(task).context("this is how the benchmark starts its own processes: start it without them")
}
