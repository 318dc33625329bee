//! The faults, and the bounds that each must keep.

mod broadcast;
mod crowds;
mod network;
mod overload;
mod poison;
mod redis;
mod workers;

use std::pin::Pin;
use std::time::Duration;

use crate::report::Report;
use crate::stage::Setup;
use crate::worker::Sabotage;

/// How a fault is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How long the load lasts.
    pub(crate) load: Duration,
    /// What the workers are to do wrong, to see that it is noticed.
    pub(crate) sabotage: Option<Sabotage>,
}

/// A fault, by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// What happens, and what must hold.
    pub(crate) about: &'static str,
    /// Whether nothing else may run meanwhile: it measures how fast something is.
    pub(crate) alone: bool,
    run: fn(&'static str, Plan) -> Running,
}

type Running = Pin<Box<dyn Future<Output = Report> + Send>>;

impl Fault {
    /// Makes the fault happen, and says what came of it. Always ends: a harness that hangs, or panics, has failed.
    pub(crate) async fn run(self, plan: Plan) -> Report {
        let limit = Duration::from_secs(300) + plan.load * 5;
        let run = tokio::time::timeout(limit, (self.run)(self.name, plan));
        let failed = match tokio::spawn(run).await {
            Ok(Ok(report)) => return report,
            Ok(Err(_)) => format!("the harness did not come to an end within {limit:?}"),
            Err(panicked) => format!("the harness failed: {}", message(panicked)),
        };
        let mut report = Report::empty(self.name);
        report.bound(false, || failed);
        report
    }
}

impl Plan {
    fn setup(self) -> Setup {
        Setup {
            sabotage: self.sabotage,
            ..Setup::default()
        }
    }

    /// Something that lasts `full` in a run of a minute and proportionally less in a shorter one, but at least `least`.
    fn scaled(self, full: Duration, least: Duration) -> Duration {
        full.mul_f64(self.share()).max(least)
    }

    /// Something of which there are `full` in a run of a minute and proportionally less in a shorter one, but at least
    /// `least`.
    fn scaled_count(self, full: u64, least: u64) -> u64 {
        ((full as f64 * self.share()) as u64).max(least)
    }

    fn share(self) -> f64 {
        (self.load.as_secs_f64() / 60.0).min(1.0)
    }
}

fn message(panicked: tokio::task::JoinError) -> String {
    match panicked.try_into_panic() {
        Ok(payload) => match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => payload
                .downcast::<&str>()
                .map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
        },
        Err(error) => error.to_string(),
    }
}

/// Lists the faults.
macro_rules! faults {
    ($($name:literal, $alone:literal, $run:path, $about:literal;)*) => {
        /// All faults, in the order in which they are run; the one that takes longest comes early.
        pub(crate) const ALL: &[Fault] = &[$(Fault {
            name: $name,
            about: $about,
            alone: $alone,
            run: |name, plan| Box::pin($run(name, plan)),
        },)*];
    };
}

faults! {
    "none", false, workers::none,
        "nothing happens: nothing is lost or doubled, nothing times out";
    "sessions-killed", false, crowds::sessions_killed,
        "10 000 sessions are killed: keys, consumers, pending entries and memory are as before 70 s later";
    "worker-killed", false, workers::killed,
        "one of four workers gets SIGKILL every 5 s: nothing is lost, no timeouts, only what was unsettled runs again, \
         p99 of its recovery within 7 s";
    "worker-paused", false, workers::paused,
        "a worker is frozen for longer than the death time: its work is taken over, what it finishes late changes nothing";
    "rolling-restart", false, workers::rolling_restart,
        "all workers get SIGTERM in turn and are started again: nothing fails, nothing runs twice";
    "redis-paused", false, redis::paused,
        "Redis stands still for 10 s, by SIGSTOP and by CLIENT PAUSE: nobody is declared dead, nothing lost or doubled";
    "redis-killed", false, redis::killed,
        "Redis gets SIGKILL and is started again: nothing that it accepted is lost, service within 2 s";
    "keys-lost", false, redis::keys_lost,
        "FLUSHALL, DEL of the stream, XGROUP DESTROY: service within 1 s, callers are told, fewer than 20 log lines";
    "out-of-memory", false, redis::out_of_memory,
        "Redis takes no writes for 10 s: nothing is lost, callers are told";
    "connection-reset", false, network::connection_reset,
        "connections are reset in the middle of batches, in both directions: nothing is lost";
    "half-open", false, network::half_open,
        "open connections swallow everything for 20 s: readers are rebuilt within 4 s, nothing is lost";
    "latency", false, network::latency,
        "200 ms to Redis and back, give or take 100 ms: nothing is lost";
    "overload", true, overload::twice_the_capacity,
        "twice as many calls as can be served, for 30 s: 90 % of the capacity is served, the others are refused, memory stays";
    "timeouts", true, crowds::timeouts,
        "1 000 000 calls time out: nothing is kept of them";
    "poison", false, poison::poison,
        "a call kills every worker that runs it: it is a dead letter after three, and harms nobody else";
    "subscriber-away", false, broadcast::subscriber_away,
        "a broadcast subscriber is cut off for 3 s: it misses nothing that is kept, and counts what is not";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_easy_to_type() {
        let mut names: Vec<_> = ALL.iter().map(|fault| fault.name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[tokio::test]
    async fn a_fault_that_panics_has_failed() {
        let fault = Fault {
            run: |_, _| Box::pin(async { panic!("oh") }),
            ..ALL[0]
        };
        let plan = Plan {
            load: Duration::from_secs(1),
            sabotage: None,
        };
        assert_eq!(fault.run(plan).await.broken, ["the harness failed: oh"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_that_hangs_has_failed() {
        let fault = Fault {
            run: |_, _| Box::pin(std::future::pending()),
            ..ALL[0]
        };
        let plan = Plan {
            load: Duration::from_secs(1),
            sabotage: None,
        };
        let report = fault.run(plan).await;
        assert!(!report.pass && report.broken[0].contains("did not come to an end"));
    }
}
