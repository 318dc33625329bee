//! More calls than can be served.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Plan;
use crate::client::Mix;
use crate::clock::{self, Micros, SECOND};
use crate::evidence::Evidence;
use crate::journal::Outcome;
use crate::reconcile::reconcile;
use crate::report::Report;
use crate::stage::{Setup, Stage, resident};

/// Handlers at once of each of the four workers: few, so that the capacity is a matter of time and not of the machine.
const CONCURRENCY: usize = 4;

/// How much of the capacity must be served. A short run measures each of the two for a few seconds, on a machine that may have other
/// things to do in one of them: then it is only to tell whether the service collapses.
const GOODPUT: f64 = 0.9;
const SHORT_GOODPUT: f64 = 0.5;
const SHORT: Duration = Duration::from_secs(30);

/// How much memory may be used more than at the beginning.
const MOST_GROWTH: u64 = 32 << 20;

/// Twice as many calls as can be served, for thirty seconds.
///
/// The capacity is what one client gets at the beginning of the run that always has six times as many calls under way as
/// there are handlers. Then two clients each make as many calls a second as that, whether or not they are answered; `max_backlog`
/// is what can be served in half a second. The goodput is that of the calls that got their value; it is counted from one
/// second after the beginning until the end of the load. The memory is that of the four workers together, and of Redis,
/// from that second on. There is no recovery.
pub(super) async fn twice_the_capacity(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(Setup {
        concurrency: CONCURRENCY,
        ..plan.setup()
    })
    .await;
    let capacity = measure_capacity(&mut stage, plan).await;
    let rate = (capacity.round() as u64).max(1).to_string();
    let backlog = (capacity as u64 / 2).max(1).to_string();
    let begun = clock::now() + SECOND;
    for _ in 0..2 {
        let load = ["--rate", &rate, "--max-backlog", &backlog];
        let url = stage.url();
        stage.start_client(&url, Mix::Even, &load).await;
    }
    sleep(Duration::from_secs(1)).await;
    let before = memory(&mut stage).await;
    let mut most = before;
    let end = Instant::now() + plan.scaled(Duration::from_secs(30), Duration::from_secs(4));
    while Instant::now() < end {
        sleep(Duration::from_millis(200)).await;
        let now = memory(&mut stage).await;
        most = (most.0.max(now.0), most.1.max(now.1));
    }
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let goodput = account.throughput(begun, evidence.load_ended);
    let mut report = Report::new(fault, &account, &evidence);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Overloaded]);
    report.detail("capacity", capacity.round());
    report.detail("throughput", goodput.round());
    let refused = account.having(Outcome::Overloaded).len();
    report.bound(refused > 0, || "no call was refused: there was no overload".to_owned());
    let least = if plan.load < SHORT { SHORT_GOODPUT } else { GOODPUT };
    report.bound(goodput >= least * capacity, || {
        format!("{goodput:.0} calls a second were served of {capacity:.0} that can be")
    });
    for (what, before, most) in [("workers", before.0, most.0), ("Redis", before.1, most.1)] {
        let grown = most.saturating_sub(before);
        report.detail(
            if what == "Redis" {
                "redis_growth_kib"
            } else {
                "worker_growth_kib"
            },
            grown / 1024,
        );
        report.bound(grown < MOST_GROWTH, || {
            format!("the memory of {what} grew by {} KiB", grown / 1024)
        });
    }
    report.keep_if_broken(evidence);
    report
}

/// Calls a second that get their value, when there are always enough.
async fn measure_capacity(stage: &mut Stage, plan: Plan) -> f64 {
    let callers = (6 * CONCURRENCY * stage.worker_count()).to_string();
    let url = stage.url();
    stage.start_client(&url, Mix::Even, &["--callers", &callers]).await;
    sleep(Duration::from_secs(1)).await;
    let from: Micros = clock::now();
    sleep(plan.scaled(Duration::from_secs(10), Duration::from_secs(3))).await;
    let to = clock::now();
    stage.end_clients(&mut Evidence::default()).await;
    reconcile(&stage.journals().records, &HashSet::new()).throughput(from, to)
}

/// The bytes that the workers and that Redis use.
async fn memory(stage: &mut Stage) -> (u64, u64) {
    let workers = (0..stage.worker_count())
        .map(|index| stage.worker(index).pid())
        .collect::<Vec<_>>();
    let redis = stage.info("used_memory").await;
    (workers.into_iter().map(resident).sum(), redis)
}
