//! One measurement: a broker, workers and a client, all fresh, as processes of their own.

use std::time::Duration;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tests::Process;

use crate::backlog;
use crate::broker::Broker;
use crate::contender::Contender;
use crate::cpus::Cpus;
use crate::runtime::Runtime;
use crate::sample::{Observed, Sample};
use crate::tasks::{BystanderReport, Measure, READY, Task, WorkerReport};

/// How long processes may take to start, and longer than they are told to measure.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is the same for all that is measured in a run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The program to use as Redis, if not the one on the PATH.
    pub(crate) server: Option<String>,
    /// Options for Redis, names and values.
    pub(crate) server_arguments: Vec<(String, String)>,
    pub(crate) cpus: Cpus,
    pub(crate) runtime: Runtime,
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

/// What is measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) contender: Contender,
    pub(crate) point: Point,
    pub(crate) shape: Shape,
}

/// A point of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) callers: usize,
    pub(crate) payload: usize,
}

/// Who is there and what they do. Only ourselves can do all of it; the floor can have several sessions, and large calls.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Sessions of the client, among which the callers are spread.
    pub(crate) sessions: usize,
    /// Streams, among which the sessions are spread; each worker serves all of them.
    pub(crate) streams: usize,
    /// Processes that serve.
    pub(crate) workers: usize,
    /// Channels of each worker on each stream.
    pub(crate) channels: usize,
    pub(crate) handler: Handler,
    /// Entries in the stream that another group has not read.
    pub(crate) backlog: usize,
    /// Sessions in a process beside the client.
    pub(crate) bystanders: usize,
    /// Callers with a MiB each in the first of these sessions; the others are idle.
    pub(crate) large_beside: usize,
    /// Callers with a MiB each in the client's own session.
    pub(crate) large_within: usize,
}

/// What a worker does before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Handler {
    /// Nothing.
    Echo,
    /// Waits a millisecond.
    Wait,
    /// Calculates for a fifth of a millisecond.
    Calculate,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            sessions: 1,
            streams: 1,
            workers: 1,
            channels: 1,
            handler: Handler::Echo,
            backlog: 0,
            bystanders: 0,
            large_beside: 0,
            large_within: 0,
        }
    }
}

impl Settings {
    /// Measures once.
    pub(crate) async fn measure(&self, case: Case) -> anyhow::Result<Sample> {
        self.cpus.choose_for_broker()?;
        let broker = Broker::start(case.contender.needs(), self).await?;
        self.cpus.choose_for_others()?;
        if case.shape.backlog > 0 {
            backlog::fill(broker.address(), case.shape.backlog).await?;
        }
        let mut task = Task {
            case,
            address: broker.address().to_owned(),
            runtime: self.runtime,
        };
        let mut workers = Vec::new();
        for _ in 0..case.shape.workers {
            let mut worker = start("worker", &task)?;
            let ready = worker.wait_for_line(PATIENCE, |line| line.starts_with(READY)).await;
            workers.push(worker);
            // Without a broker, the worker's address is where the client goes.
            if let Some((_, address)) = ready.split_once(' ').filter(|(_, address)| !address.is_empty()) {
                task.address = address.to_owned();
            }
        }
        let mut bystander = (case.shape.bystanders > 0)
            .then(|| start("bystander", &task))
            .transpose()?;
        if let Some(bystander) = &mut bystander {
            bystander.wait_for_line(PATIENCE, |line| line.starts_with(READY)).await;
        }
        let measure = Measure {
            task,
            warm_up: u64::try_from(self.warm_up.as_millis())?,
            measure: u64::try_from(self.measure.as_millis())?,
            observed: Observed {
                workers: workers.iter().map(Process::pid).collect(),
                broker: broker.pid(),
                redis: broker.redis(),
            },
        };
        let mut client = start("client", &measure)?;
        let limit = self.warm_up + self.measure + PATIENCE;
        let sample = client.wait_for_line(limit, |line| line.starts_with('{')).await;
        let mut sample: Sample = serde_json::from_str(&sample).context("the sample that a client printed")?;
        if let Some(bystander) = &mut bystander {
            // Also to see that it was there all the time.
            let BystanderReport { large_rps } = ask(bystander).await.context("the report of a bystander")?;
            sample.large_rps = (case.shape.large_beside > 0).then_some(large_rps);
        }
        ask_workers(&mut workers, &mut sample).await?;
        Ok(sample)
    }
}

/// Ends the workers, and completes the sample by what they say.
async fn ask_workers(workers: &mut [Process], sample: &mut Sample) -> anyhow::Result<()> {
    let mut reports: Vec<WorkerReport> = Vec::new();
    for worker in workers {
        reports.push(ask(worker).await.context("the report of a worker")?);
    }
    let handled = || reports.iter().map(|report| report.handled);
    if let (2.., Some(busiest), Some(laziest)) = (reports.len(), handled().max(), handled().min()) {
        sample.fairness = Some(busiest as f64 / laziest as f64);
    }
    let allocations: Option<u64> = reports.iter().map(|report| report.allocations).sum();
    sample.worker_allocations = allocations.map(|count| count as f64 / sample.all_calls as f64);
    Ok(())
}

/// Ends a process by asking for its report.
async fn ask<R: DeserializeOwned>(process: &mut Process) -> anyhow::Result<R> {
    process.terminate();
    let report = process.wait_for_line(PATIENCE, |line| line.starts_with('{')).await;
    Ok(serde_json::from_str(&report)?)
}

fn start(role: &str, task: &impl Serialize) -> anyhow::Result<Process> {
    let task = serde_json::to_string(task)?;
    Ok(Process::program(std::env::current_exe()?).args([role, &task]).start())
}
