//! What happens between us and Redis: all connections of workers and clients go through a proxy.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Plan;
use crate::clock;
use crate::journal::Outcome;
use crate::proxy::{Direction, Proxy};
use crate::reconcile::reconcile;
use crate::report::Report;
use crate::stage::{Setup, Stage};

/// How long a blocking read of workers and clients blocks: the default.
const BLOCK: Duration = Duration::from_secs(2);

/// How often a connection is cut.
const CUTS: Duration = Duration::from_millis(200);

fn proxied(plan: Plan) -> Setup {
    Setup {
        proxied: true,
        ..plan.setup()
    }
}

fn proxy(stage: &Stage) -> &Proxy {
    stage.proxy.as_ref().expect("this run has a proxy")
}

/// Every 200 ms the connection on which the next chunk goes is reset in the middle of it, in turn on the way to Redis and on
/// the way back.
///
/// Nothing is lost. What was sent may be sent again, and run twice, unless it must not: its caller is told `Indeterminate`.
/// There is no recovery to measure; the 99th percentile of the time to an answer is told.
pub(super) async fn connection_reset(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(proxied(plan)).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    let mut next = Instant::now();
    for direction in [Direction::Up, Direction::Down].into_iter().cycle() {
        next += CUTS;
        if next >= end {
            break;
        }
        sleep_until(next).await;
        proxy(&stage).cut_in_mid_chunk(direction);
    }
    let cuts = [Direction::Up, Direction::Down].map(|direction| proxy(&stage).cuts_made(direction));
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Indeterminate]);
    report.detail("cuts_up", cuts[0]);
    report.detail("cuts_down", cuts[1]);
    report.detail("latency_p99_ms", account.latency(0.99).map(|micros| micros / 1000));
    let wanted = plan.load.as_millis() as u64 / CUTS.as_millis() as u64 / 4;
    report.bound(cuts.iter().all(|made| *made >= wanted), || {
        format!("only so many connections were cut: {cuts:?}")
    });
    report.keep_if_broken(evidence);
    report
}

/// For twenty seconds nothing passes on the connections that were open at the beginning, in either direction, though they
/// stay open; new ones work. Then the old ones are reset.
///
/// The recovery is the time from the beginning until as many connections read by blocking as before.
pub(super) async fn half_open(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(proxied(plan)).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    sleep((plan.load / 6).max(Duration::from_secs(1))).await;
    let readers = proxy(&stage).readers();
    let from = clock::now();
    proxy(&stage).swallow_on_open_connections();
    // No shorter than a write may stay unanswered, or the reset would come to the rescue.
    sleep(plan.scaled(Duration::from_secs(20), Duration::from_secs(14))).await;
    proxy(&stage).reset_swallowing();
    let rebuilt = proxy(&stage).readers_since(from);
    sleep_until(end.max(Instant::now() + Duration::from_secs(1))).await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Indeterminate]);
    report.detail("readers", readers);
    report.bound(readers > 0, || "nobody was seen to read".to_owned());
    let last = rebuilt.get(readers.max(1) - 1).map(|at| at - from);
    report.recovers_within(last, BLOCK + Duration::from_secs(2));
    report.keep_if_broken(evidence);
    report
}

/// A way to Redis and back takes 200 ms, and up to 100 ms more or less, all the time.
///
/// The throughput is that of calls that got their value while the load lasted, notifications aside.
pub(super) async fn latency(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(proxied(plan)).await;
    proxy(&stage).delay(Duration::from_millis(100), Duration::from_millis(50));
    stage.start_clients().await;
    let begun = clock::now();
    sleep(plan.load).await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[]);
    report.detail("throughput", account.throughput(begun, evidence.load_ended).round());
    report.detail("latency_p50_ms", account.latency(0.5).map(|micros| micros / 1000));
    report.detail("latency_p99_ms", account.latency(0.99).map(|micros| micros / 1000));
    report.keep_if_broken(evidence);
    report
}
