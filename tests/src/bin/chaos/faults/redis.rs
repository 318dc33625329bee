//! What happens to Redis.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Plan;
use crate::client::CALL_TIMEOUT;
use crate::clock::{self, Micros};
use crate::journal::Outcome;
use crate::reconcile::{Account, reconcile};
use crate::report::Report;
use crate::service::{GROUP, STREAM};
use crate::stage::Stage;

/// How long Redis is paused in a run of a minute, and at least: longer than the death time, or it would prove nothing.
const PAUSE: Duration = Duration::from_secs(10);
const LEAST_PAUSE: Duration = Duration::from_millis(6_500);

/// Redis stands still, and goes on: first by SIGSTOP, then by CLIENT PAUSE.
///
/// Nobody may be declared dead: nothing runs twice, no call ends as `WorkerLost`, all consumers stay. The recovery is the
/// longer of the two times from the end of a pause until every client has the value of a call made since.
pub(super) async fn paused(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    let (pause, between) = (
        plan.scaled(PAUSE, LEAST_PAUSE),
        (plan.load / 6).max(Duration::from_secs(1)),
    );
    sleep(between).await;
    let consumers = stage.consumers().await;
    stage.redis.pause();
    sleep(pause).await;
    stage.redis.resume();
    let mut resumed = vec![clock::now()];
    sleep(between).await;
    stage
        .redis
        .command(&["CLIENT", "PAUSE", &pause.as_millis().to_string()])
        .await;
    sleep(pause).await;
    resumed.push(clock::now());
    sleep_until(end.max(Instant::now() + between)).await;
    // As long as it would take to notice a death.
    sleep(LEAST_PAUSE).await;
    let still = stage.consumers().await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[]);
    report.bound(still == consumers, || {
        format!("the consumers were {consumers:?} and are {still:?}")
    });
    report.detail("paused_ms", pause.as_millis() as u64);
    // How soon is not promised; but it must be, for every client.
    report.recovers_within(slowest_recovery(&account, &resumed), CALL_TIMEOUT);
    report.keep_if_broken(evidence);
    report
}

/// SIGKILL to Redis, which is started again after a second; four times in a minute.
///
/// It keeps all that it has acknowledged (AOF, fsync always). A request whose fate is unknown may be sent again, and run
/// twice, unless it must not. The recovery is the longest time from when Redis answers again until every client has the
/// value of a call made since.
pub(super) async fn killed(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let end = Instant::now() + plan.load;
    let mut up_again = Vec::new();
    loop {
        sleep((plan.load / 5).clamp(Duration::from_secs(2), Duration::from_secs(13))).await;
        stage.redis.kill();
        sleep(Duration::from_secs(1)).await;
        stage.redis.restart().await;
        up_again.push(clock::now());
        if Instant::now() + Duration::from_secs(15) > end {
            break;
        }
    }
    sleep_until(end.max(Instant::now() + Duration::from_secs(3))).await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Indeterminate]);
    report.detail("kills", up_again.len());
    report.recovers_within(slowest_recovery(&account, &up_again), Duration::from_secs(2));
    report.keep_if_broken(evidence);
    report
}

/// Somebody runs FLUSHALL, then deletes the stream, then destroys the group.
///
/// What Redis alone had (accepted, not begun) is gone after the first two, and is not missed; but its callers must be told.
/// After the third nothing is gone. The recovery is the longest time from the command's answer until every client has the
/// value of a call made since.
pub(super) async fn keys_lost(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let between = (plan.load / 4).max(Duration::from_secs(3));
    let commands: [&[&str]; 3] = [&["FLUSHALL"], &["DEL", STREAM], &["XGROUP", "DESTROY", STREAM, GROUP]];
    let mut done = Vec::new();
    for command in commands {
        sleep(between).await;
        stage.redis.command(command).await;
        done.push(clock::now());
    }
    sleep(between).await;
    let evidence = stage.finish().await;
    let known = reconcile(&evidence.records, &HashSet::new());
    let excused: HashSet<u64> = done[..2].iter().flat_map(|at| known.unread(*at)).collect();
    let account = reconcile(&evidence.records, &excused);
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Indeterminate]);
    report.detail("excused", known.lost.len() - account.lost.len());
    let recoveries = done
        .iter()
        .map(|at| slowest_recovery(&account, &[*at]).map(|micros| micros / 1000));
    report.detail("recoveries_ms", recoveries.collect::<Vec<_>>());
    report.bound(report.log_lines < 20, || {
        format!("{} lines were logged", evidence.logs.warnings.len())
    });
    report.recovers_within(slowest_recovery(&account, &done), Duration::from_secs(1));
    report.keep_if_broken(evidence);
    report
}

/// Redis refuses all writes for want of memory, for ten seconds.
///
/// Also in a short run it lasts longer than the death time, because workers cannot write their beats, either. Nothing that
/// was accepted may be lost: no entry is settled without its reply. Callers are told at once, and rightly (`Overloaded`).
/// The recovery is the time from the end of the shortage until every client has the value of a call made since.
pub(super) async fn out_of_memory(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let around = (plan.load / 4).max(Duration::from_secs(1));
    let end = Instant::now() + plan.load;
    sleep(around).await;
    let consumers = stage.consumers().await;
    stage
        .redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    stage.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    sleep(plan.scaled(Duration::from_secs(10), LEAST_PAUSE + Duration::from_secs(1))).await;
    stage.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let over = clock::now();
    sleep_until(end.max(Instant::now() + around)).await;
    let still = stage.consumers().await;
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::Overloaded]);
    let told = account.having(Outcome::Overloaded).len();
    report.bound(told > 0, || "no caller was told that Redis is out of memory".to_owned());
    report.bound(still == consumers, || {
        format!("the consumers were {consumers:?} and are {still:?}")
    });
    report.recovers_within(slowest_recovery(&account, &[over]), Duration::from_secs(2));
    report.keep_if_broken(evidence);
    report
}

/// The longest of the times from each of these until every client has the value of a call made since; none if that never
/// happened after one of them.
pub(super) fn slowest_recovery(account: &Account, ends: &[Micros]) -> Option<Micros> {
    let recoveries: Option<BTreeSet<Micros>> = ends
        .iter()
        .map(|end| account.served_again(*end).map(|success| success - end))
        .collect();
    recoveries?.last().copied()
}
