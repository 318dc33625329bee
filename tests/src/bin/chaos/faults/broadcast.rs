//! A subscriber that is cut off for a while.

use std::time::Duration;

use tests::Process;
use tokio::time::sleep;

use super::Plan;
use crate::client::Mix;
use crate::clock;
use crate::evidence::Evidence;
use crate::journal::{Event, Record};
use crate::reconcile::reconcile;
use crate::report::Report;
use crate::stage::{Setup, Stage, ends};

/// About how many entries the stream keeps.
const KEPT: u64 = 2_000;

/// How long the subscriber is cut off.
const AWAY: Duration = Duration::from_secs(3);

/// Notifications a second: in three seconds fewer than are kept, and many more.
const FEW: u64 = 200;
const MANY: u64 = 1_500;

/// One of two subscribers is cut off for three seconds, twice: its connection is reset, and it cannot connect again.
///
/// At first fewer notifications are sent meanwhile than the stream keeps (2000): both must get all. Then many more: each must
/// have counted as missed exactly as many as it did not get; that may be a few of the other one, too, where the machine is
/// too busy for it to keep up. `executed`,
/// `doubled` and `lost` are those of the first, while few are sent. The recovery is the longer time from the end of the
/// cut until it runs something that was sent since.
pub(super) async fn subscriber_away(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(Setup {
        workers: 0,
        broadcast: true,
        proxied: true,
        ..plan.setup()
    })
    .await;
    let mut away = subscriber(&stage, "away", &stage.url()).await;
    let mut steady = subscriber(&stage, "steady", &stage.redis.url()).await;
    let (begun, mut ends_of_cuts) = (clock::now(), Vec::new());
    for rate in [FEW, MANY] {
        let url = stage.redis.url();
        stage
            .start_client(&url, Mix::Notes, &["--rate", &rate.to_string()])
            .await;
        sleep((plan.load / 4).max(Duration::from_secs(2))).await;
        cut_off(&stage).await;
        ends_of_cuts.push(clock::now());
        // To catch up, before the load changes.
        sleep((plan.load / 4).max(Duration::from_secs(4))).await;
        let mut of_clients = Evidence::default();
        stage.end_clients(&mut of_clients).await;
        stage.falls_silent(&["away", "steady"]).await;
        ends_of_cuts.push(clock::now());
    }
    let (between, over) = (ends_of_cuts[1], ends_of_cuts[3]);
    let (away_pid, steady_pid) = (away.pid(), steady.pid());
    let mut counted = Evidence::default();
    for process in [&mut away, &mut steady] {
        process.terminate();
        let ended = ends(process, Duration::from_secs(20)).await;
        counted.take_stats(process);
        stage.take_logs(process);
        if !ended {
            counted.problems.push("a subscriber did not end".to_owned());
        }
    }
    let mut evidence = stage.finish().await;
    evidence.problems.append(&mut counted.problems);

    let early = |record: &&Record| {
        record.at < between && !matches!(record.event, Event::Begun(run) | Event::Finished(run) if run.pid != away_pid)
    };
    let few: Vec<Record> = evidence.records.iter().filter(early).copied().collect();
    let account = reconcile(&few, &Default::default());
    let mut report = Report::new(fault, &account, &evidence);
    report.nothing_lost(&account);
    report.nothing_doubled(&account);
    report.no_errors_besides(&account, &[]);
    let all = reconcile(&evidence.records, &Default::default());
    report.detail("sent_in_all", all.sent);
    let missed_early = all.unheard(steady_pid, begun, between).len();
    report.bound(missed_early == 0, || {
        format!("the other subscriber missed {missed_early}")
    });
    let mut all_missed = Vec::new();
    for (who, pid, stats) in [("subscriber", away_pid, 0), ("other subscriber", steady_pid, 1)] {
        let missed = all.unheard(pid, begun, over).len() as u64;
        let said = counted.stats.get(stats).and_then(|stats| stats["missed"].as_u64());
        report.bound(said == Some(missed), || {
            format!("the {who} missed {missed}, and counted {said:?}")
        });
        all_missed.push(missed);
    }
    report.bound(all_missed[0] > 0, || {
        "nothing was trimmed while the subscriber was away".to_owned()
    });
    report.detail("missed", all_missed);
    let again = |at: u64| all.first_begun_after(away_pid, at).map(|begun| begun - at);
    let recoveries: Option<Vec<u64>> = [ends_of_cuts[0], ends_of_cuts[2]].into_iter().map(again).collect();
    report.recovers_within(recoveries.and_then(|all| all.into_iter().max()), Duration::from_secs(3));
    report.keep_if_broken(evidence);
    report
}

async fn subscriber(stage: &Stage, name: &str, url: &str) -> Process {
    let mut subscriber = stage
        .program("worker", name)
        .args(["--url", url, "--max-len", &KEPT.to_string()])
        .start();
    subscriber
        .wait_for_line(Duration::from_secs(30), |line| line == "ready")
        .await;
    subscriber
}

async fn cut_off(stage: &Stage) {
    let proxy = stage.proxy.as_ref().expect("this run has a proxy");
    proxy.refuse(true);
    sleep(AWAY).await;
    proxy.refuse(false);
}
