//! One measurement: a broker, a worker and a client, all fresh, as processes of their own.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tests::Process;

use crate::broker::Broker;
use crate::contender::Contender;
use crate::sample::{Observed, Sample};
use crate::tasks::{ClientTask, READY, Runtime, WorkerTask};

/// How long processes may take to start, and longer than they are told to measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything but the contender and the load.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The program to use as Redis, if not the one on the PATH.
    pub(crate) server: Option<String>,
    /// Options for Redis, names and values.
    pub(crate) server_arguments: Vec<(String, String)>,
    pub(crate) runtime: Runtime,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// A point of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    pub(crate) callers: usize,
    pub(crate) payload: usize,
}

impl Settings {
    /// Measures once.
    pub(crate) async fn measure(&self, contender: Contender, point: Point) -> anyhow::Result<Sample> {
        let broker = Broker::start(contender.needs(), self).await?;
        let task = WorkerTask {
            contender,
            address: broker.address().to_owned(),
            runtime: self.runtime,
        };
        let mut worker = start("worker", &task)?;
        let ready = worker.wait_for_line(PATIENCE, |line| line.starts_with(READY)).await;
        // Without a broker, the worker's address is where the client goes.
        let listens = ready
            .split_once(' ')
            .map(|(_, address)| address)
            .filter(|address| !address.is_empty());
        let task = ClientTask {
            contender,
            address: listens.unwrap_or(broker.address()).to_owned(),
            runtime: self.runtime,
            callers: point.callers,
            payload: point.payload,
            warm_up: u64::try_from(self.warm_up.as_millis())?,
            measure: u64::try_from(self.measure.as_millis())?,
            observed: Observed {
                workers: vec![worker.pid()],
                broker: broker.pid(),
                redis: broker.redis(),
            },
        };
        let mut client = start("client", &task)?;
        let limit = self.warm_up + self.measure + PATIENCE;
        let sample = client.wait_for_line(limit, |line| line.starts_with('{')).await;
        serde_json::from_str(&sample).context("a client printed something else than its sample")
    }
}

fn start(role: &str, task: &impl Serialize) -> anyhow::Result<Process> {
    let task = serde_json::to_string(task)?;
    Ok(Process::program(std::env::current_exe()?).args([role, &task]).start())
}
