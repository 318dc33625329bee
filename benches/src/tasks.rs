//! What the processes of a measurement do: this program, started again with the task as an argument.

use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::load::{Echo, Load};
#[cfg(feature = "peers")]
use crate::peers;
use crate::sample::{self, Observed, Sample};
use crate::{floor, naive, ours};

/// How a process runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Runtime {
    /// Threads of the Tokio runtime; 0 for one that runs on the main thread.
    pub(crate) threads: usize,
}

/// The task of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerTask {
    pub(crate) contender: Contender,
    /// Of the broker.
    pub(crate) address: String,
    pub(crate) runtime: Runtime,
}

/// The task of a client: to measure.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ClientTask {
    pub(crate) contender: Contender,
    /// Of the broker, or of the worker if there is none.
    pub(crate) address: String,
    pub(crate) runtime: Runtime,
    pub(crate) callers: usize,
    pub(crate) payload: usize,
    /// Milliseconds before anything is measured.
    pub(crate) warm_up: u64,
    /// Milliseconds that are measured.
    pub(crate) measure: u64,
    /// The other processes.
    pub(crate) observed: Observed,
}

/// The first word of the line with which a worker says that it works.
pub(crate) const READY: &str = "ready";

/// Says that this worker works, and at which address it listens, if it does.
pub(crate) fn ready(address: &str) {
    println!("{READY} {address}");
}

impl WorkerTask {
    /// Serves until the process is killed.
    pub(crate) fn run(task: &str) -> anyhow::Result<()> {
        let task: Self = read(task)?;
        let address = task.address.as_str();
        task.runtime.block_on(async {
            match task.contender {
                Contender::Floor => floor::serve(address).await,
                Contender::Group | Contender::Unix | Contender::Broadcast => ours::serve(task.contender, address).await,
                Contender::Naive => naive::serve(address).await,
                #[cfg(feature = "peers")]
                Contender::Nats => peers::nats::serve(address).await,
                #[cfg(feature = "peers")]
                Contender::Tarpc => peers::tarpc::serve().await,
                #[cfg(feature = "peers")]
                Contender::Tonic => peers::tonic::serve().await,
                #[cfg(feature = "peers")]
                Contender::Jsonrpsee => peers::jsonrpsee::serve().await,
            }
        })
    }
}

impl ClientTask {
    /// Measures, and prints the sample.
    pub(crate) fn run(task: &str) -> anyhow::Result<()> {
        let task: Self = read(task)?;
        let address = task.address.as_str();
        let sample = task.runtime.block_on(async {
            match task.contender {
                Contender::Floor => task.measure(floor::Client::connect(address, "inbox").await?).await,
                Contender::Group | Contender::Unix | Contender::Broadcast => {
                    task.measure(ours::Client::connect(task.contender, address).await?)
                        .await
                }
                Contender::Naive => task.measure(naive::Client::connect(address, "inbox").await?).await,
                #[cfg(feature = "peers")]
                Contender::Nats => task.measure(peers::nats::Client::connect(address).await?).await,
                #[cfg(feature = "peers")]
                Contender::Tarpc => task.measure(peers::tarpc::Client::connect(address).await?).await,
                #[cfg(feature = "peers")]
                Contender::Tonic => task.measure(peers::tonic::Client::connect(address).await?).await,
                #[cfg(feature = "peers")]
                Contender::Jsonrpsee => task.measure(peers::jsonrpsee::Client::connect(address).await?).await,
            }
        })?;
        println!("{}", serde_json::to_string(&sample)?);
        Ok(())
    }

    async fn measure(&self, client: impl Echo) -> anyhow::Result<Sample> {
        let clients = [client];
        let load = |millis| Load {
            callers: self.callers,
            payload: self.payload,
            time: Duration::from_millis(millis),
        };
        load(self.warm_up).run(&clients).await?;
        sample::take(&self.observed, load(self.measure).run(&clients)).await
    }
}

impl Runtime {
    fn block_on<T>(self, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let mut builder = match self.threads {
            0 => tokio::runtime::Builder::new_current_thread(),
            threads => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(threads);
                builder
            }
        };
        builder.enable_all().build()?.block_on(future)
    }
}

fn read<T: DeserializeOwned>(task: &str) -> anyhow::Result<T> {
    serde_json::from_str(task)
        .context("this is how the benchmark starts its own processes; start it without `worker` or `client`")
}
