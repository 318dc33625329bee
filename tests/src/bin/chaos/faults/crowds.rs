//! Very many sessions, and very many calls that time out: what is left of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tests::Process;
use tokio::time::sleep;

use super::Plan;
use crate::clock;
use crate::impatient::Impatience;
use crate::reconcile::{Account, reconcile};
use crate::report::Report;
use crate::service::STREAM;
use crate::stage::{Setup, Stage, ends, resident};

/// How long the inbox of a dead session lives.
const INBOX_TTL: Duration = Duration::from_secs(60);

/// Sessions of one process that only call, and that serve: as many as one process has connections for.
const CLIENTS: u64 = 190;
const WORKERS: u64 = 10;

/// By how much the memory of Redis may differ from before: it counts the connections that it serves, among others.
const NOISE: u64 = 2 << 20;

/// How much memory may be used more than at the beginning.
const MOST_GROWTH: u64 = 32 << 20;

/// What Redis holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holdings {
    keys: BTreeSet<String>,
    consumers: BTreeSet<String>,
    pending: u64,
    memory: u64,
}

/// Sessions by the thousand, each with an inbox and a call under way, some of them workers with calls in hand, get SIGKILL.
///
/// The two workers that stay take over what the dead had in hand. Whatever the dead leave in Redis must be gone within the
/// time to live of an inbox and ten seconds. The recovery is the time from the last SIGKILL until all is as before the first
/// session: the same keys and consumers, nothing pending, and memory within 2 MiB. The killed cannot be answered, so calls
/// that have no ending are no concern here: `sent`, `ok` and `executed` are told, and nothing else is reconciled.
pub(super) async fn sessions_killed(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(Setup {
        workers: 2,
        rate: 50,
        ..plan.setup()
    })
    .await;
    // Some calls first: consumers and their like are there once they have been used.
    stage.start_clients().await;
    sleep(Duration::from_secs(2)).await;
    stage.end_clients(&mut crate::evidence::Evidence::default()).await;
    let before = holdings(&stage).await;
    let wanted = plan.scaled_count(10_000, CLIENTS + WORKERS);
    let (mut killed, mut most) = (0, before.keys.len());
    let mut last_kill = Instant::now();
    while killed < wanted {
        let index = stage.next_number();
        let mut crowd = stage
            .program("crowd", &format!("crowd-{index}"))
            .args(["--url", &stage.redis.url(), "--index", &index.to_string()])
            .args(["--clients", &CLIENTS.to_string(), "--workers", &WORKERS.to_string()])
            .start();
        crowd
            .wait_for_line(Duration::from_secs(60), |line| line == "ready")
            .await;
        crowd.kill();
        last_kill = Instant::now();
        stage.take_logs(&crowd);
        killed += CLIENTS + WORKERS;
        most = most.max(holdings(&stage).await.keys.len());
    }
    let limit = INBOX_TTL + Duration::from_secs(10);
    let mut after = holdings(&stage).await;
    let mut recovered = None;
    // Looked at for longer than allowed, to tell late from never.
    while recovered.is_none() && last_kill.elapsed() < limit + Duration::from_secs(20) {
        sleep(Duration::from_millis(200)).await;
        after = holdings(&stage).await;
        recovered = after.is_like(&before).then(|| last_kill.elapsed().as_micros() as u64);
    }
    let evidence = stage.finish().await;
    let account = reconcile(&evidence.records, &Default::default());
    let mut report = Report::empty(fault);
    tell_counts(&mut report, &account);
    report.log_lines = evidence.logs.warnings.len() as u64;
    report.bound(evidence.problems.is_empty(), || evidence.problems.join("; "));
    report.bound(evidence.logs.panics.is_empty(), || evidence.logs.panics.join("; "));
    report.bound(most > before.keys.len() + CLIENTS as usize / 2, || {
        "the sessions left no inboxes".to_owned()
    });
    report.detail("sessions", killed);
    report.detail("most_keys", most);
    report.detail(
        "memory_kib_before_and_after",
        [before.memory / 1024, after.memory / 1024],
    );
    report.bound(recovered.is_some(), || after.differences(&before));
    report.recovers_within(recovered, limit);
    report.keep_if_broken(evidence);
    report
}

fn tell_counts(report: &mut Report, account: &Account) {
    (report.sent, report.ok, report.executed) = (account.sent, account.ok, account.executed);
    report.doubled = account.doubled.len() as u64;
    report.bound(account.executed > 0, || "nothing ran".to_owned());
    report.bound(account.doubled_once.is_empty(), || {
        "calls that must not run twice did".to_owned()
    });
}

async fn holdings(stage: &Stage) -> Holdings {
    let keys = redis::from_redis_value(stage.redis.command(&["KEYS", "*"]).await).expect("a list of keys");
    let info = stage.observer().await.stream_info().await.expect("ask redis");
    Holdings {
        keys,
        pending: info.groups.iter().map(|group| group.pending).sum(),
        consumers: stage.consumers().await,
        memory: stage.info("used_memory").await,
    }
}

impl Holdings {
    fn is_like(&self, before: &Self) -> bool {
        self.keys.is_subset(&before.keys)
            && self.consumers.is_subset(&before.consumers)
            && self.pending == 0
            && self.memory <= before.memory + NOISE
    }

    fn differences(&self, before: &Self) -> String {
        let keys: Vec<_> = self.keys.difference(&before.keys).take(5).collect();
        let consumers: Vec<_> = self.consumers.difference(&before.consumers).take(5).collect();
        format!(
            "left in `{STREAM}`: keys such as {keys:?}, consumers such as {consumers:?}, {} pending entries, {} KiB of \
             memory where there were {}",
            self.pending,
            self.memory / 1024,
            before.memory / 1024
        )
    }
}

/// A million calls that all end by their deadline of 100 ms, a thousand at a time; their handlers would take a minute.
///
/// When all have ended the channel must hold none of them, and the client and its worker must not have grown by 32 MiB since
/// a tenth of the calls was made. There is no recovery.
pub(super) async fn timeouts(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(Setup {
        workers: 1,
        ..plan.setup()
    })
    .await;
    let calls = plan.scaled_count(1_000_000, 10_000);
    let mut client: Process = stage
        .program("impatient", "impatient")
        .args(["--url", &stage.redis.url(), "--calls", &calls.to_string()])
        .start();
    let worker = stage.worker(0).pid();
    let limit = Duration::from_secs(60) + plan.load * 5;
    client.wait_for_line(limit, |line| line == "warm").await;
    let (begun, before) = (clock::now(), (resident(worker), stage.info("used_memory").await));
    let end = client.wait_for_line(limit, |line| line.starts_with("end ")).await;
    let seconds = (clock::now() - begun) as f64 / clock::SECOND as f64;
    let after = (resident(worker), stage.info("used_memory").await);
    let ended = ends(&mut client, Duration::from_secs(30)).await;
    stage.take_logs(&client);
    let evidence = stage.finish().await;

    let mut report = Report::empty(fault);
    let impatience: Impatience = serde_json::from_str(end.trim_start_matches("end ")).expect("what the client says");
    (report.sent, report.timeouts, report.errors) = (calls, impatience.timeouts, impatience.others);
    report.log_lines = evidence.logs.warnings.len() as u64;
    report.bound(ended, || "the client did not end".to_owned());
    report.bound(evidence.problems.is_empty(), || evidence.problems.join("; "));
    report.bound(evidence.logs.panics.is_empty(), || evidence.logs.panics.join("; "));
    report.bound(impatience.timeouts == calls, || {
        format!(
            "{} of {calls} calls timed out, {} ended otherwise",
            impatience.timeouts, impatience.others
        )
    });
    report.bound(impatience.in_flight == 0, || {
        format!("{} calls are still held", impatience.in_flight)
    });
    report.detail("throughput", (calls as f64 * 0.9 / seconds).round());
    let client_grown = impatience.resident.1.saturating_sub(impatience.resident.0);
    let worker_grown = after.0.saturating_sub(before.0);
    report.detail("client_growth_kib", client_grown / 1024);
    report.detail("worker_growth_kib", worker_grown / 1024);
    report.detail("redis_growth_kib", after.1.saturating_sub(before.1) / 1024);
    report.bound(impatience.resident.0 > 0 && before.0 > 0, || {
        "memory cannot be measured here".to_owned()
    });
    for (who, grown) in [("client", client_grown), ("worker", worker_grown)] {
        report.bound(grown < MOST_GROWTH, || {
            format!("the {who} grew by {} KiB", grown / 1024)
        });
    }
    report.keep_if_broken(evidence);
    report
}
