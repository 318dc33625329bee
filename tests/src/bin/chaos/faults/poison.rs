//! A call that kills every worker that runs it.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Plan;
use crate::client::{self, Caller, first_id};
use crate::clock;
use crate::journal::{Journal, Kind, Outcome};
use crate::reconcile::reconcile;
use crate::report::{MAX_DELIVERIES, Report};
use crate::stage::{RESTART, Stage, Stop};

/// How long one poison may take to be a dead letter: the longest time that its caller waits.
const LIMIT: Duration = client::CALL_TIMEOUT;

/// How long it takes until what a dead worker had in hand has been run by others.
const RECOVERY: Duration = Duration::from_secs(7);

/// Poisonous calls, one after the other, among the normal load; workers that die are started again after a second.
///
/// Each must run three times, become a dead letter, and its caller be told `WorkerLost`. Nobody else's call may fail for
/// it, other than those that must not run twice and were running in a worker that died; none may become a dead letter. The
/// recovery is the longest time from a poison's call to its end.
pub(super) async fn poison(fault: &'static str, plan: Plan) -> Report {
    let mut stage = Stage::start(plan.setup()).await;
    stage.start_clients().await;
    let index = stage.next_number();
    let channel = client::open(&stage.url(), false, None).await;
    let journal = Journal::append_to(&stage.journal("poisoner")).expect("open the journal");
    let caller = Caller::new(&channel, journal);
    let end = Instant::now() + plan.load;
    let mut deaths = Vec::new();
    let (mut made, mut slowest) = (0, Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    loop {
        let id = first_id(index) + made;
        made += 1;
        let (caller, called) = (caller.clone(), Instant::now());
        let call = tokio::spawn(async move { caller.call(Kind::Poison, id, 0).await });
        while !call.is_finished() {
            raise_the_dead(&mut stage, &mut deaths).await;
            sleep(Duration::from_millis(10)).await;
        }
        slowest = slowest.max(called.elapsed());
        // Another one is made only if there is time for it, and for what the last has interrupted: a call that is in the hands
        // of workers that die of both counts as poison itself.
        if Instant::now() + RECOVERY + LIMIT > end {
            break;
        }
        sleep(RECOVERY).await;
    }
    raise_the_dead(&mut stage, &mut deaths).await;
    // Those that were interrupted last are still to be recovered; calls go on meanwhile.
    sleep(end.saturating_duration_since(Instant::now())).await;
    raise_the_dead(&mut stage, &mut deaths).await;
    let evidence = stage.finish().await;
    channel.close().await;

    let account = reconcile(&evidence.records, &HashSet::new());
    let mut report = Report::new(fault, &account, &evidence);
    report.all_kinds(&account);
    let poisons = account.of_kind(Kind::Poison);
    for id in &poisons {
        let (runs, outcome) = (account.runs(*id), account.outcome(*id));
        report.bound(runs as u64 == MAX_DELIVERIES, || format!("a poison ran {runs} times"));
        report.bound(outcome == Some(Outcome::WorkerLost), || {
            format!("a poison's caller was told {outcome:?}")
        });
        let letters = evidence.dead_letters.iter().filter(|letter| *letter == id).count();
        report.bound(letters == 1, || format!("a poison became {letters} dead letters"));
    }
    report.nothing_lost(&account);
    report.no_timeouts(&account);
    report.no_errors_besides(&account, &[Outcome::WorkerLost]);
    let in_hand = super::workers::deaths(&account, &deaths);
    report.worker_lost_is_deserved(&account, &in_hand);
    report.nothing_doubled_besides(&account, &in_hand);
    report.detail("poisons", poisons.len());
    report.detail("deaths", deaths.len());
    report.recovers_within(Some(slowest.as_micros() as u64), LIMIT);
    report.keep_if_broken(evidence);
    report
}

/// Replaces the workers that have died, a second after that is noticed.
async fn raise_the_dead(stage: &mut Stage, deaths: &mut Vec<Stop>) {
    for index in 0..stage.worker_count() {
        if !stage.worker(index).is_running() {
            deaths.push(stage.stopped(index, clock::now()).await);
            sleep(RESTART).await;
            stage.replace_worker(index);
        }
    }
}
