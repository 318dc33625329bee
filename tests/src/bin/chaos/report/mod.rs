//! What came out of a fault, and which bounds it broke.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::clock::Micros;
use crate::evidence::Evidence;
use crate::journal::{Kind, Outcome};
use crate::reconcile::Account;

/// How many workers may die of a call before it is a dead letter: the default.
pub(crate) const MAX_DELIVERIES: u64 = 3;

/// The result of one fault.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) fault: &'static str,
    /// Calls and notifications that were made.
    pub(crate) sent: u64,
    /// Those that ended in a value, or were accepted.
    pub(crate) ok: u64,
    /// Those that ended in an error, the methods' own among them, but not those that ended by their deadline.
    pub(crate) errors: u64,
    /// Those that ended by their deadline.
    pub(crate) timeouts: u64,
    /// Those that were begun by some worker.
    pub(crate) executed: u64,
    /// Those that were begun more than once.
    pub(crate) doubled: u64,
    /// Those that were accepted and forgotten.
    pub(crate) lost: u64,
    /// How long the service, or the calls concerned, took to recover; what exactly is said where the fault is made.
    pub(crate) recovery_ms: Option<f64>,
    /// Warnings and errors in the logs of workers and clients.
    pub(crate) log_lines: u64,
    /// Whether all bounds held.
    pub(crate) pass: bool,
    /// The bounds that did not, a sentence each.
    pub(crate) broken: Vec<String>,
    /// What else is to be known.
    #[serde(flatten)]
    pub(crate) details: BTreeMap<&'static str, Value>,
}

impl Report {
    /// A report without any figures.
    pub(crate) fn empty(fault: &'static str) -> Self {
        Self {
            fault,
            sent: 0,
            ok: 0,
            errors: 0,
            timeouts: 0,
            executed: 0,
            doubled: 0,
            lost: 0,
            recovery_ms: None,
            log_lines: 0,
            pass: true,
            broken: Vec::new(),
            details: BTreeMap::new(),
        }
    }

    /// The figures of a run, and the bounds that hold whatever the fault: nothing contradicts itself, every call ends,
    /// what must not run twice does not, only poison
    /// becomes a dead letter, nobody panics. A run in which nothing happened proves nothing and fails, too.
    pub(crate) fn new(fault: &'static str, account: &Account, evidence: &Evidence) -> Self {
        let mut report = Self {
            sent: account.sent,
            ok: account.ok,
            errors: account.error_count(),
            timeouts: account.timeouts,
            executed: account.executed,
            doubled: account.doubled.len() as u64,
            lost: account.lost.len() as u64,
            log_lines: evidence.logs.warnings.len() as u64,
            ..Self::empty(fault)
        };
        report.detail("errors_by_class", by_name(&account.errors));
        if !account.lost.is_empty() {
            let losses = account
                .losses()
                .into_iter()
                .map(|(loss, count)| (format!("{loss:?}"), count));
            report.detail("losses", losses.collect::<BTreeMap<_, _>>());
        }
        report.bound(account.sent > 0 && account.executed > 0, || {
            "nothing was called, or nothing ran".to_owned()
        });
        report.bound(account.contradictions.is_empty(), || {
            let (count, first) = (account.contradictions.len(), &account.contradictions[0]);
            format!("{count} contradictions in the journals, such as: {first}")
        });
        report.bound(account.doubled_once.is_empty(), || {
            format!("calls that must not run twice did: {}", some(&account.doubled_once))
        });
        let hung: Vec<u64> = account
            .lost
            .iter()
            .filter(|lost| lost.1 == crate::reconcile::Loss::Hung)
            .map(|l| l.0)
            .collect();
        report.bound(hung.is_empty(), || format!("calls never ended: {}", some(&hung)));
        let mut may_be_dead = evidence.may_be_dead.clone();
        may_be_dead.extend(account.of_kind(Kind::Poison));
        let letters = evidence.dead_letters.iter().filter(|id| !may_be_dead.contains(id));
        let letters: Vec<u64> = letters.copied().collect();
        report.bound(letters.is_empty(), || {
            format!("became dead letters though they harm nobody: {}", some(&letters))
        });
        report.bound(evidence.logs.panics.is_empty(), || {
            format!("somebody panicked: {}", evidence.logs.panics[0])
        });
        let held = |stats: &&Value| stats["in_flight"] != 0;
        report.bound(!evidence.stats.iter().any(|stats| held(&stats)), || {
            "a client still holds calls at its end".to_owned()
        });
        for problem in &evidence.problems {
            report.bound(false, || problem.clone());
        }
        report
    }

    /// Notes a bound, and how it was broken if it does not hold.
    pub(crate) fn bound(&mut self, holds: bool, broken: impl FnOnce() -> String) {
        if !holds {
            self.pass = false;
            self.broken.push(broken());
        }
    }

    /// Bound: nothing is lost.
    pub(crate) fn nothing_lost(&mut self, account: &Account) {
        self.bound(account.lost.is_empty(), || {
            let ids: Vec<u64> = account.lost.iter().map(|(id, _)| *id).collect();
            format!("lost: {:?}: {}", account.losses(), some(&ids))
        });
    }

    /// Bound: nothing runs twice.
    pub(crate) fn nothing_doubled(&mut self, account: &Account) {
        self.bound(account.doubled.is_empty(), || {
            let ids: Vec<u64> = account.doubled.keys().copied().collect();
            format!("ran more than once: {}", some(&ids))
        });
    }

    /// Bound: nothing runs more often than the calls were in the hands of workers that died: `deaths` says how often each.
    pub(crate) fn nothing_doubled_besides(&mut self, account: &Account, deaths: &HashMap<u64, u64>) {
        let doubled = account.doubled_without_excuse(deaths);
        self.detail("unsettled", deaths.values().sum::<u64>());
        self.bound(doubled.is_empty(), || {
            format!("ran again though settled: {}", some(&doubled))
        });
    }

    /// Bound: a call ends as `WorkerLost` only if it must not run twice and its worker died, or if it is poison, or if so
    /// many workers died with it that it counts as poison.
    pub(crate) fn worker_lost_is_deserved(&mut self, account: &Account, deaths: &HashMap<u64, u64>) {
        let once: HashSet<u64> = account.of_kind(Kind::Once).into_iter().collect();
        let poison: HashSet<u64> = account.of_kind(Kind::Poison).into_iter().collect();
        let deserved = |id: &u64| {
            let deaths = deaths.get(id).copied().unwrap_or(0);
            poison.contains(id) || deaths >= MAX_DELIVERIES || (once.contains(id) && deaths > 0)
        };
        let mut told = account.having(Outcome::WorkerLost);
        told.retain(|id| !deserved(id));
        self.bound(told.is_empty(), || {
            format!("ended as WorkerLost without reason: {}", some(&told))
        });
    }

    /// Bound: no call ends by its deadline.
    pub(crate) fn no_timeouts(&mut self, account: &Account) {
        self.bound(account.timeouts == 0, || {
            format!("{} calls timed out", account.timeouts)
        });
    }

    /// Bound: no error but the methods' own, and those of these classes.
    pub(crate) fn no_errors_besides(&mut self, account: &Account, expected: &[Outcome]) {
        let expected = [expected, &[Outcome::Service]].concat();
        self.bound(account.errors_besides(&expected) == 0, || {
            format!("calls failed that should not have: {:?}", by_name(&account.errors))
        });
    }

    /// Bound: the recovery takes no longer than `limit`. A recovery that did not happen breaks it.
    pub(crate) fn recovers_within(&mut self, recovery: Option<Micros>, limit: Duration) {
        self.recovery_ms = recovery.map(|micros| micros as f64 / 1000.0);
        match recovery {
            None => self.bound(false, || {
                "it did not recover, or there was nothing to recover from".to_owned()
            }),
            Some(took) => {
                let took = Duration::from_micros(took);
                self.bound(took <= limit, || {
                    format!("the recovery took {took:.1?}, allowed are {limit:?}")
                });
            }
        }
    }

    /// Bound: all kinds of calls were made.
    pub(crate) fn all_kinds(&mut self, account: &Account) {
        for kind in [Kind::Quick, Kind::Slow, Kind::Once, Kind::Fail, Kind::Note] {
            self.bound(!account.of_kind(kind).is_empty(), || format!("no {kind} call was made"));
        }
    }

    /// Adds what else is to be known.
    pub(crate) fn detail(&mut self, name: &'static str, value: impl Serialize) {
        self.details.insert(name, serde_json::json!(value));
    }

    /// Keeps journals and logs if a bound was broken, and says where.
    pub(crate) fn keep_if_broken(&mut self, evidence: Evidence) {
        if let Some(dir) = evidence.dir.filter(|_| !self.pass) {
            self.detail("kept", dir.keep());
        }
    }

    /// The report for people.
    pub(crate) fn to_text(&self) -> String {
        let verdict = if self.pass { "ok    " } else { "BROKEN" };
        let recovery = self
            .recovery_ms
            .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
        let mut text = format!(
            "{verdict} {:20} sent {}, ok {}, errors {}, timeouts {}, executed {}, doubled {}, lost {}, recovery {recovery}, \
             log lines {}",
            self.fault,
            self.sent,
            self.ok,
            self.errors,
            self.timeouts,
            self.executed,
            self.doubled,
            self.lost,
            self.log_lines
        );
        let details: Vec<String> = self
            .details
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        if !details.is_empty() {
            text += &format!("\n       {}", details.join(", "));
        }
        for broken in &self.broken {
            text += &format!("\n       broken: {broken}");
        }
        text
    }
}

fn by_name(errors: &BTreeMap<Outcome, u64>) -> BTreeMap<String, u64> {
    errors
        .iter()
        .map(|(outcome, count)| (outcome.to_string(), *count))
        .collect()
}

/// How many, and the first few.
fn some(ids: &[u64]) -> String {
    let first: Vec<String> = ids.iter().take(5).map(u64::to_string).collect();
    let dots = if ids.len() > 5 { ", …" } else { "" };
    format!("{} ({}{dots})", ids.len(), first.join(", "))
}
