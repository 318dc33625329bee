//! What happens to workers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Plan;
use crate::clock::{Micros, SECOND};
use crate::journal::{Kind, Outcome};
use crate::reconcile::{Account, percentile, reconcile};
use crate::report::{MAX_DELIVERIES, Report};
use crate::stage::{RESTART, Stage, Stop, ends};

/// How long a worker must be silent to be dead.
const DEATH: Duration = Duration::from_secs(5);

/// How much later than the death time the last of the recovered calls may be answered.
const SLACK: Duration = Duration::from_secs(2);

/// How often a worker is killed.
const KILLS: Duration = Duration::from_secs(5);

/// Nothing happens.
pub(super) async fn none(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    sleep(plan.load).await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[]);
    report.keep_if_broken(evidence);
    report
}

/// SIGKILL to one worker after the other; each is replaced after a second.
///
/// The recovery is that of the calls that the killed had in hand, not settled: from the kill to their answer, the 99th
/// percentile. A call that was in the hands of several is measured from the last kill. `WorkerLost` is an answer to a call
/// that must not run twice, and to one that was in the hands of three: it counts as poison.
pub(super) async fn killed(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    // In a short run there is one kill, in the middle.
    let mut next = Instant::now() + KILLS.min(plan.load / 2);
    let mut kills = Vec::new();
    while next < end {
        sleep_until(next).await;
        let victim = kills.len() % stage.worker_count();
        kills.push(stage.kill_worker(victim).await);
        sleep_until(next + RESTART).await;
        stage.replace_worker(victim);
        next += KILLS;
    }
    sleep_until(end).await;
    let mut evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let deaths = deaths(&account, &kills);
    let often = deaths.iter().filter(|(_, deaths)| **deaths >= MAX_DELIVERIES);
    evidence.may_be_dead.extend(often.map(|(id, _)| *id));
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::WorkerLost]);
    report.worker_lost_is_deserved(&account, &deaths);
    report.nothing_doubled_besides(&account, &deaths);

    // The last death counts. What was answered before it (notifications are, when they are accepted) does not wait any more;
    // of what was never answered the other bounds speak.
    let last_deaths: HashMap<u64, Micros> = kills
        .iter()
        .flat_map(|kill| in_hand(&account, kill).into_iter().map(|id| (id, kill.at)))
        .collect();
    let recoveries = last_deaths.iter();
    let recoveries = recoveries.filter_map(|(id, at)| account.answered_at(*id)?.checked_sub(*at));
    let mut recoveries: Vec<Micros> = recoveries.collect();
    report.detail("kills", kills.len());
    report.detail("interrupted", recoveries.len());
    report.detail("recovery_max_ms", recoveries.iter().max().map(|micros| micros / 1000));
    report.recovers_within(percentile(&mut recoveries, 0.99), DEATH + SLACK);
    report.keep_if_broken(evidence);
    report
}

/// SIGSTOP to one worker for longer than the death time, then SIGCONT.
///
/// What it had begun and not finished must be answered before it goes on. The recovery is the longest time from the SIGSTOP
/// to such an answer. That what it finishes late changes no answer is among the general bounds: a call ends once, and by a
/// run that has finished.
pub(super) async fn paused(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    sleep(Duration::from_secs(2).min(plan.load / 4)).await;
    let stop = stage.pause_worker(0).await;
    // What its blocked read still takes is in its name, too; all that is not settled when it wakes up may run twice.
    sleep(DEATH + SLACK + Duration::from_secs(1)).await;
    let woken = crate::clock::now();
    stage.worker(0).resume();
    sleep_until(end).await;
    // It must live and work again: it is given time to show it, also in a short run.
    sleep(Duration::from_secs(3)).await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::WorkerLost]);
    let once: HashSet<u64> = account.of_kind(Kind::Once).into_iter().collect();
    let told = account.having(Outcome::WorkerLost);
    let innocent = told.iter().filter(|id| !once.contains(id)).count();
    report.bound(innocent == 0, || {
        format!("{innocent} calls that may run twice ended as WorkerLost")
    });
    let interrupted = account.interrupted(stop.pid, stop.at);
    report.detail("interrupted", interrupted.len());
    let longest = interrupted
        .iter()
        .map(|id| account.answered_at(*id).map(|at| at.saturating_sub(stop.at)))
        .max();
    let late = interrupted
        .iter()
        .filter(|id| account.answered_at(**id).is_none_or(|at| at >= woken))
        .count();
    report.bound(late == 0, || {
        format!("{late} calls waited for the frozen worker to wake up")
    });
    report.recovers_within(longest.flatten(), DEATH + SLACK);
    // It may have been handed more after the SIGSTOP, by a read that was blocked: that never ran there before it was
    // taken over, or ran there when it woke up.
    let again: Vec<u64> = account.doubled.keys().copied().collect();
    let unexplained = again.iter().filter(|id| !account.ran_in(**id, stop.pid)).count();
    report.bound(unexplained == 0, || {
        format!("{unexplained} calls ran twice that the frozen worker never had")
    });
    let more_often = account.doubled.values().filter(|begun| **begun > 2).count();
    report.bound(more_often == 0, || format!("{more_often} calls ran more than twice"));
    let after = account.begun_in(stop.pid, woken + SECOND);
    report.detail("begun_after_waking", after);
    report.bound(after > 0, || {
        "the worker that was frozen does not work any more".to_owned()
    });
    report.keep_if_broken(evidence);
    report
}

/// SIGTERM to all workers in turn, each of which is replaced as soon as it has ended; again and again while there is load.
///
/// The grace period (10 s) is longer than any handler runs (0.4 s), so nothing may fail or run twice. The recovery is the
/// longest time that a worker took to end.
pub(super) async fn rolling_restart(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    let (mut restarts, mut slowest, mut failed) = (0, Duration::ZERO, 0);
    while Instant::now() < end || restarts < stage.worker_count() {
        let index = restarts % stage.worker_count();
        let asked = Instant::now();
        stage.worker(index).terminate();
        let ended = ends(stage.worker(index), Duration::from_secs(20)).await;
        let stats = stage
            .worker(index)
            .stdout()
            .iter()
            .any(|line| line.starts_with("stats "));
        failed += usize::from(!ended || !stats);
        slowest = slowest.max(asked.elapsed());
        stage.replace_worker(index);
        stage.worker_is_ready(index).await;
        restarts += 1;
        sleep(plan.load / 20).await;
    }
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[]);
    report.detail("restarts", restarts);
    report.recovery_ms = Some(slowest.as_secs_f64() * 1000.0);
    report.bound(failed == 0, || format!("{failed} workers did not end as they should"));
    report.keep_if_broken(evidence);
    report
}

/// In the hands of how many of these each call was.
pub(super) fn deaths(account: &Account, stops: &[Stop]) -> HashMap<u64, u64> {
    let mut deaths = HashMap::new();
    for id in stops.iter().flat_map(|stop| in_hand(account, stop)) {
        *deaths.entry(id).or_insert(0) += 1;
    }
    deaths
}

/// What was handed to a worker and not settled, or begun by it and not finished, when it was stopped.
fn in_hand(account: &Account, stop: &Stop) -> BTreeSet<u64> {
    let mut calls = account.interrupted(stop.pid, stop.at);
    calls.extend(&stop.unsettled);
    calls
}
