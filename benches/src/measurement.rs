//! One measurement: a broker, a worker and a client, all fresh, as processes of their own.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tests::{Process, RedisServer};

use crate::contender::{Broker, Contender};
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
        let redis = self.redis().await;
        let address = match contender.broker() {
            Broker::Redis => redis.url(),
            Broker::RedisUnix => redis.unix_url(),
        };
        let task = WorkerTask {
            contender,
            address: address.clone(),
            runtime: self.runtime,
        };
        let mut worker = start("worker", &task)?;
        worker.wait_for_line(PATIENCE, |line| line.starts_with(READY)).await;
        let task = ClientTask {
            contender,
            address,
            runtime: self.runtime,
            callers: point.callers,
            payload: point.payload,
            warm_up: u64::try_from(self.warm_up.as_millis())?,
            measure: u64::try_from(self.measure.as_millis())?,
            observed: Observed {
                workers: vec![worker.pid()],
                broker: Some(redis.pid()),
                redis: Some(redis.unix_url()),
            },
        };
        let mut client = start("client", &task)?;
        let limit = self.warm_up + self.measure + PATIENCE;
        let sample = client.wait_for_line(limit, |line| line.starts_with('{')).await;
        serde_json::from_str(&sample).context("a client printed something else than its sample")
    }

    async fn redis(&self) -> RedisServer {
        let mut redis = RedisServer::builder();
        if let Some(program) = &self.server {
            redis = redis.program(program);
        }
        for (name, value) in &self.server_arguments {
            redis = redis.arg(name, value);
        }
        redis.start().await
    }
}

fn start(role: &str, task: &impl Serialize) -> anyhow::Result<Process> {
    let task = serde_json::to_string(task)?;
    Ok(Process::program(std::env::current_exe()?).args([role, &task]).start())
}
