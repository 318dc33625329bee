//! One measurement of one contender, taken by its client.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::allocations;
use crate::load::Outcome;
use crate::process_usage::{cpu_us, peak_kib};
use crate::redis_connection;
use crate::redis_stats::RedisStats;

/// The processes that a client has an eye on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Observed {
    /// The workers.
    pub(crate) workers: Vec<u32>,
    /// Redis, or whatever else stands between.
    pub(crate) broker: Option<u32>,
    /// The url to ask for INFO, if the broker is Redis.
    pub(crate) redis: Option<String>,
}

/// What was measured. Times are in microseconds, memory in KiB.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) calls: u64,
    /// Those of the warm-up included.
    pub(crate) all_calls: u64,
    /// Calls in a second.
    pub(crate) rps: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// The slowest call.
    pub(crate) max_us: f64,
    /// CPU time per call.
    pub(crate) client_cpu_us: f64,
    /// CPU time per call, of all workers together.
    pub(crate) worker_cpu_us: f64,
    /// CPU time per call of Redis, or of what else is the broker.
    pub(crate) redis_cpu_us: Option<f64>,
    /// Redis commands per call, by name.
    pub(crate) commands: BTreeMap<String, f64>,
    /// Bytes per call that Redis received.
    pub(crate) redis_bytes_in: Option<f64>,
    /// Bytes per call that Redis sent.
    pub(crate) redis_bytes_out: Option<f64>,
    /// The most memory that the client has had.
    pub(crate) client_peak_kib: u64,
    /// The most memory that one worker has had.
    pub(crate) worker_peak_kib: u64,
    /// The most memory that the broker has had.
    pub(crate) redis_peak_kib: Option<u64>,
    /// Allocations per call of the client, if they are counted.
    pub(crate) client_allocations: Option<f64>,
    /// Allocations per call of the workers, their start included, if they are counted.
    pub(crate) worker_allocations: Option<f64>,
    /// Calls of the busiest worker per call of the laziest, if there are several.
    pub(crate) fairness: Option<f64>,
    /// Large calls in a second, if some were made meanwhile.
    pub(crate) large_rps: Option<f64>,
}

/// CPU times and counters at one moment.
struct Moment {
    client: f64,
    workers: f64,
    broker: Option<f64>,
    redis: Option<RedisStats>,
    allocations: Option<u64>,
}

/// Runs the load and says what it took.
pub(crate) async fn take(
    observed: &Observed,
    load: impl Future<Output = anyhow::Result<Outcome>>,
) -> anyhow::Result<Sample> {
    let mut redis = match &observed.redis {
        Some(url) => Some(redis_connection::connect(url).await?),
        None => None,
    };
    let mut look = async || {
        anyhow::Ok(Moment {
            redis: match &mut redis {
                Some(connection) => Some(RedisStats::ask(connection).await?),
                None => None,
            },
            client: cpu_us(std::process::id())?,
            workers: observed
                .workers
                .iter()
                .map(|pid| cpu_us(*pid))
                .sum::<anyhow::Result<f64>>()?,
            broker: observed.broker.map(cpu_us).transpose()?,
            allocations: allocations::count(),
        })
    };
    let before = look().await?;
    let Outcome { latencies, elapsed } = load.await?;
    let after = look().await?;

    let calls = latencies.len();
    let per_call = |n: f64| n / calls as f64;
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1000.0;
    let redis = after
        .redis
        .zip(before.redis)
        .map(|(after, before)| after.since(&before));
    let commands = redis.iter().flat_map(|stats| &stats.commands);
    let peaks: Vec<u64> = observed
        .workers
        .iter()
        .map(|pid| peak_kib(*pid))
        .collect::<Result<_, _>>()?;
    Ok(Sample {
        calls,
        all_calls: calls,
        rps: calls as f64 / elapsed.as_secs_f64(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        max_us: quantile(1.0),
        client_cpu_us: per_call(after.client - before.client),
        worker_cpu_us: per_call(after.workers - before.workers),
        redis_cpu_us: after
            .broker
            .zip(before.broker)
            .map(|(after, before)| per_call(after - before)),
        commands: commands
            .map(|(name, count)| (name.clone(), per_call(*count as f64)))
            .collect(),
        redis_bytes_in: redis.as_ref().map(|stats| per_call(stats.bytes_in as f64)),
        redis_bytes_out: redis.as_ref().map(|stats| per_call(stats.bytes_out as f64)),
        client_peak_kib: peak_kib(std::process::id())?,
        worker_peak_kib: peaks.into_iter().max().unwrap_or(0),
        client_allocations: after
            .allocations
            .zip(before.allocations)
            .map(|(after, before)| per_call((after - before) as f64)),
        worker_allocations: None,
        fairness: None,
        large_rps: None,
        redis_peak_kib: observed.broker.map(peak_kib).transpose()?,
    })
}
