//! Rows of the table: medians over the rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measurement::Case;
use crate::sample::Sample;

/// A case. Times are in microseconds, memory in KiB.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What changes, if this is about scaling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scenario: Option<&'static str>,
    /// How much of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<usize>,
    pub(crate) name: String,
    pub(crate) callers: usize,
    pub(crate) payload: usize,
    /// Calls in a second.
    pub(crate) rps: f64,
    /// Calls in a second relative to the baseline's, which is the floor, or the first value of a scenario: the median
    /// of the ratios of the rounds.
    pub(crate) ratio: Option<f64>,
    pub(crate) rps_min: f64,
    pub(crate) rps_max: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// The slowest call of all rounds: shows stalls, which medians hide.
    pub(crate) max_us: f64,
    /// The 99th percentile relative to the baseline's, likewise.
    pub(crate) p99_ratio: Option<f64>,
    /// CPU time per call of client and worker.
    pub(crate) cpu_us: f64,
    pub(crate) client_cpu_us: f64,
    pub(crate) worker_cpu_us: f64,
    /// CPU time per call of Redis, or of what else is the broker.
    pub(crate) redis_cpu_us: Option<f64>,
    /// Redis commands per call.
    pub(crate) redis_commands: Option<f64>,
    /// The same by name.
    pub(crate) commands: BTreeMap<String, f64>,
    /// Bytes per call that Redis received.
    pub(crate) redis_bytes_in: Option<f64>,
    /// Bytes per call that Redis sent.
    pub(crate) redis_bytes_out: Option<f64>,
    pub(crate) client_peak_kib: f64,
    pub(crate) worker_peak_kib: f64,
    pub(crate) redis_peak_kib: Option<f64>,
    /// Allocations per call, if they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_allocations: Option<f64>,
    /// The same of the workers, their start included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worker_allocations: Option<f64>,
    /// Calls of the busiest worker per call of the laziest, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fairness: Option<f64>,
    /// Large calls in a second, if some were made meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) large_rps: Option<f64>,
    /// Calls in a second of each round, for ratios to others than the baseline.
    #[serde(skip)]
    pub(crate) rps_of_rounds: Vec<f64>,
    pub(crate) rounds: usize,
}

impl Row {
    /// The medians of `samples`, one per round; `baseline` has those of the baseline in the same rounds.
    pub(crate) fn new(case: &Case, samples: &[Sample], baseline: &[Sample]) -> Self {
        let of = |figure: fn(&Sample) -> f64| median(samples.iter().map(figure));
        let of_some = |figure: fn(&Sample) -> Option<f64>| median_of_some(samples.iter().filter_map(figure));
        let to_baseline = |figure: fn(&Sample) -> f64| {
            median_of_some(
                samples
                    .iter()
                    .zip(baseline)
                    .map(|(sample, baseline)| figure(sample) / figure(baseline)),
            )
        };
        let commands = |name: &String| {
            let count = |sample: &Sample| sample.commands.get(name).copied().unwrap_or(0.0);
            (name.clone(), median(samples.iter().map(count)))
        };
        Self {
            scenario: None,
            value: None,
            name: case.contender.name(),
            callers: case.point.callers,
            payload: case.point.payload,
            rps: of(|sample| sample.rps),
            ratio: to_baseline(|sample| sample.rps),
            rps_min: samples.iter().map(|sample| sample.rps).fold(f64::INFINITY, f64::min),
            rps_max: samples.iter().map(|sample| sample.rps).fold(0.0, f64::max),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            p999_us: of(|sample| sample.p999_us),
            max_us: samples.iter().map(|sample| sample.max_us).fold(0.0, f64::max),
            p99_ratio: to_baseline(|sample| sample.p99_us),
            cpu_us: of(|sample| sample.client_cpu_us + sample.worker_cpu_us),
            client_cpu_us: of(|sample| sample.client_cpu_us),
            worker_cpu_us: of(|sample| sample.worker_cpu_us),
            redis_cpu_us: of_some(|sample| sample.redis_cpu_us),
            redis_commands: of_some(|sample| (!sample.commands.is_empty()).then(|| sample.commands.values().sum())),
            commands: samples
                .iter()
                .flat_map(|sample| sample.commands.keys())
                .map(commands)
                .collect(),
            redis_bytes_in: of_some(|sample| sample.redis_bytes_in),
            redis_bytes_out: of_some(|sample| sample.redis_bytes_out),
            client_peak_kib: of(|sample| sample.client_peak_kib as f64),
            worker_peak_kib: of(|sample| sample.worker_peak_kib as f64),
            redis_peak_kib: of_some(|sample| sample.redis_peak_kib.map(|kib| kib as f64)),
            client_allocations: of_some(|sample| sample.client_allocations),
            worker_allocations: of_some(|sample| sample.worker_allocations),
            fairness: of_some(|sample| sample.fairness),
            large_rps: of_some(|sample| sample.large_rps),
            rps_of_rounds: samples.iter().map(|sample| sample.rps).collect(),
            rounds: samples.len(),
        }
    }
}

impl Row {
    /// Calls in a second relative to another's of the same run: the median of the ratios of the rounds.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<f64> {
        let rounds = self.rps_of_rounds.iter().zip(&other.rps_of_rounds);
        median_of_some(rounds.map(|(own, other)| own / other))
    }
}

/// The middle one, or the mean of the two in the middle; 0 for none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    median_of_some(values).unwrap_or(0.0)
}

fn median_of_some(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median_of_some(std::iter::empty()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
