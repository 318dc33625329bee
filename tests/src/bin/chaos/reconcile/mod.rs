//! Reconciliation: what was sent, what was run, what was answered, and what of it does not go together. No IO in here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::client::client_of;
use crate::clock::Micros;
use crate::journal::{Event, Kind, Outcome, Record, Run};

/// What the journals of all processes say.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Calls and notifications that clients made.
    pub(crate) sent: u64,
    /// Those that ended with a value; notifications: that were accepted.
    pub(crate) ok: u64,
    /// Those that ended with an error other than their deadline's, by its class.
    pub(crate) errors: BTreeMap<Outcome, u64>,
    /// Those that ended by their deadline.
    pub(crate) timeouts: u64,
    /// Those that some worker has begun to run.
    pub(crate) executed: u64,
    /// Those that were begun more than once, and how often they were begun.
    pub(crate) doubled: BTreeMap<u64, u64>,
    /// Those of `doubled` that must not run twice.
    pub(crate) doubled_once: Vec<u64>,
    /// What was accepted, and then forgotten.
    pub(crate) lost: Vec<(u64, Loss)>,
    /// What cannot be if everything works as it should, the journals included.
    pub(crate) contradictions: Vec<String>,
    calls: BTreeMap<u64, Call>,
}

/// How a call was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Loss {
    /// Its caller waited in vain until the deadline, and nobody ran it; or a notification was accepted and not run.
    NeverRun,
    /// It was begun, never finished, and nobody told its caller, or ran it again.
    Abandoned,
    /// It ran to its end, and its caller waited in vain for the answer until the deadline.
    Unanswered,
    /// Its caller was never told anything at all, not even that its time was over.
    Hung,
}

/// What is known of one call.
#[derive(Debug, Default)]
struct Call {
    sent: Option<(Kind, Micros)>,
    ended: Vec<Ending>,
    begun: Vec<(Run, Micros)>,
    finished: Vec<(Run, Micros)>,
}

#[derive(Clone, Copy, Debug)]
struct Ending {
    at: Micros,
    outcome: Outcome,
    by: Option<(u32, u32)>,
}

/// Reconciles the journals.
///
/// `excused` are those whose loss is not one: notifications that became dead letters, and what somebody deleted from Redis
/// on purpose.
pub(crate) fn reconcile(records: &[Record], excused: &HashSet<u64>) -> Account {
    let mut account = Account {
        calls: gather(records),
        ..Account::default()
    };
    let calls = std::mem::take(&mut account.calls);
    for (&id, call) in &calls {
        account.judge(id, call, excused.contains(&id));
    }
    account.calls = calls;
    account
}

fn gather(records: &[Record]) -> BTreeMap<u64, Call> {
    let mut calls: BTreeMap<u64, Call> = BTreeMap::new();
    for &Record { at, event } in records {
        match event {
            Event::Begun(run) => calls.entry(run.id).or_default().begun.push((run, at)),
            Event::Finished(run) => calls.entry(run.id).or_default().finished.push((run, at)),
            Event::Sent { kind, id } => calls.entry(id).or_default().sent = Some((kind, at)),
            Event::Ended { id, outcome, by, .. } => {
                calls.entry(id).or_default().ended.push(Ending { at, outcome, by });
            }
        }
    }
    calls
}

impl Account {
    fn judge(&mut self, id: u64, call: &Call, excused: bool) {
        if !call.begun.is_empty() {
            self.executed += 1;
        }
        let Some((kind, _)) = call.sent else {
            self.contradictions
                .push(format!("call {id} was run or answered, and nobody made it"));
            return;
        };
        self.sent += 1;
        if call.begun.len() > 1 {
            self.doubled.insert(id, call.begun.len() as u64);
            if kind == Kind::Once {
                self.doubled_once.push(id);
            }
        }
        self.find_contradictions(id, kind, call);
        let loss = match call.ended.first() {
            None => Some(Loss::Hung),
            Some(ending) => {
                self.count(ending.outcome);
                match ending.outcome {
                    Outcome::Timeout => Some(match (call.begun.is_empty(), call.finished.is_empty()) {
                        (true, true) => Loss::NeverRun,
                        (false, true) => Loss::Abandoned,
                        (_, false) => Loss::Unanswered,
                    }),
                    Outcome::Ok if kind == Kind::Note && call.finished.is_empty() => {
                        Some(match call.begun.is_empty() {
                            true => Loss::NeverRun,
                            false => Loss::Abandoned,
                        })
                    }
                    _ => None,
                }
            }
        };
        // Whoever hangs is never excused: every call ends.
        self.lost.extend(
            loss.filter(|loss| !excused || *loss == Loss::Hung)
                .map(|loss| (id, loss)),
        );
    }

    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Timeout => self.timeouts += 1,
            error => *self.errors.entry(error).or_default() += 1,
        }
    }

    fn find_contradictions(&mut self, id: u64, kind: Kind, call: &Call) {
        let mut contradiction = |what: String| self.contradictions.push(format!("{kind} call {id} {what}"));
        if call.ended.len() > 1 {
            contradiction(format!("ended {} times", call.ended.len()));
        }
        for (run, _) in &call.finished {
            if !call.begun.iter().any(|(begun, _)| begun == run) {
                contradiction(format!("was finished by process {} that had not begun it", run.pid));
            }
        }
        for ending in &call.ended {
            match (kind, ending.outcome) {
                (_, Outcome::Wrong) => contradiction("was answered with another call's answer".to_owned()),
                (Kind::Fail, Outcome::Ok) => contradiction("should have failed".to_owned()),
                (Kind::Fail, Outcome::Service) => {}
                (_, Outcome::Service) => contradiction("failed, and its method never does".to_owned()),
                _ => {}
            }
            if let Some((pid, attempt)) = ending.by {
                let of_answer = |run: &Run| (run.pid, run.attempt) == (pid, attempt);
                if !call.finished.iter().any(|(run, _)| of_answer(run)) {
                    contradiction(format!(
                        "was answered by attempt {attempt} in process {pid}, which has not finished it"
                    ));
                }
            } else if matches!(ending.outcome, Outcome::Ok | Outcome::Service) && kind != Kind::Note {
                contradiction("was answered by nobody".to_owned());
            }
        }
    }

    /// All errors, whatever their class.
    pub(crate) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// The errors of other classes than these.
    pub(crate) fn errors_besides(&self, expected: &[Outcome]) -> u64 {
        let others = self.errors.iter().filter(|(class, _)| !expected.contains(class));
        others.map(|(_, count)| count).sum()
    }

    /// How many were lost in each way.
    pub(crate) fn losses(&self) -> BTreeMap<Loss, usize> {
        let mut losses = BTreeMap::new();
        for (_, loss) in &self.lost {
            *losses.entry(*loss).or_default() += 1;
        }
        losses
    }

    /// Those that were begun more often than can be excused: `excuses` says how often each was unsettled at a death.
    pub(crate) fn doubled_without_excuse(&self, excuses: &HashMap<u64, u64>) -> Vec<u64> {
        let excused = |id: &u64| excuses.get(id).copied().unwrap_or(0);
        let doubled = self.doubled.iter().filter(|(id, begun)| **begun > 1 + excused(id));
        doubled.map(|(id, _)| *id).collect()
    }

    /// What `pid` had begun before `at` and not finished by then, notifications aside: what a kill interrupts.
    pub(crate) fn interrupted(&self, pid: u32, at: Micros) -> BTreeSet<u64> {
        let of_process = |runs: &[(Run, Micros)]| runs.iter().any(|(run, when)| run.pid == pid && *when <= at);
        let calls = self.calls.iter().filter(|(_, call)| {
            let waited_for = call.sent.is_some_and(|(kind, _)| kind != Kind::Note);
            waited_for && of_process(&call.begun) && !of_process(&call.finished)
        });
        calls.map(|(id, _)| *id).collect()
    }

    /// When a call got an answer of any kind but its deadline's.
    pub(crate) fn answered_at(&self, id: u64) -> Option<Micros> {
        let ending = self.calls.get(&id)?.ended.first()?;
        (ending.outcome != Outcome::Timeout).then_some(ending.at)
    }

    /// How a call ended.
    pub(crate) fn outcome(&self, id: u64) -> Option<Outcome> {
        self.calls.get(&id)?.ended.first().map(|ending| ending.outcome)
    }

    /// The calls that ended in this way.
    pub(crate) fn having(&self, outcome: Outcome) -> Vec<u64> {
        let ended = |call: &Call| call.ended.first().is_some_and(|ending| ending.outcome == outcome);
        self.calls
            .iter()
            .filter(|(_, call)| ended(call))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Whether a call was begun by this process.
    pub(crate) fn ran_in(&self, id: u64, pid: u32) -> bool {
        self.calls
            .get(&id)
            .is_some_and(|call| call.begun.iter().any(|(run, _)| run.pid == pid))
    }

    /// How many calls this process began after `at`.
    pub(crate) fn begun_in(&self, pid: u32, at: Micros) -> usize {
        let begun = |call: &&Call| call.begun.iter().any(|(run, when)| run.pid == pid && *when > at);
        self.calls.values().filter(begun).count()
    }

    /// How often a call was begun.
    pub(crate) fn runs(&self, id: u64) -> usize {
        self.calls.get(&id).map_or(0, |call| call.begun.len())
    }

    /// When every client had the value of a call that it made after `at`: the service works again, for all of them.
    /// Notifications say nothing of the workers, and do not count. None if one of the clients calls in vain, or none calls.
    pub(crate) fn served_again(&self, at: Micros) -> Option<Micros> {
        let mut clients: BTreeMap<u64, Option<Micros>> = BTreeMap::new();
        for (id, call) in &self.calls {
            let Some((kind, sent)) = call.sent else { continue };
            // What fails by itself shows nothing, either.
            if sent < at || matches!(kind, Kind::Note | Kind::Fail | Kind::Poison) {
                continue;
            }
            let served: &mut Option<Micros> = clients.entry(client_of(*id)).or_default();
            let ok = call.ended.first().filter(|ending| ending.outcome == Outcome::Ok);
            *served = served.iter().copied().chain(ok.map(|ending| ending.at)).min();
        }
        let served: Option<Vec<Micros>> = clients.into_values().collect();
        served?.into_iter().max()
    }

    /// Calls that got their value between these two times, per second; notifications don't count.
    pub(crate) fn throughput(&self, from: Micros, to: Micros) -> f64 {
        let answered = |call: &&Call| {
            let answer = call.ended.first().filter(|ending| ending.outcome == Outcome::Ok);
            let called = call.sent.is_some_and(|(kind, _)| kind != Kind::Note);
            called && answer.is_some_and(|ending| (from..to).contains(&ending.at))
        };
        let seconds = to.saturating_sub(from).max(1) as f64 / crate::clock::SECOND as f64;
        self.calls.values().filter(answered).count() as f64 / seconds
    }

    /// The time from call to answer that this share of the answered calls did not exceed; notifications don't count.
    pub(crate) fn latency(&self, share: f64) -> Option<Micros> {
        let answered = |call: &Call| {
            let (kind, sent) = call.sent?;
            let ending = call.ended.first()?;
            (kind != Kind::Note && ending.outcome != Outcome::Timeout).then(|| ending.at.saturating_sub(sent))
        };
        let mut latencies: Vec<Micros> = self.calls.values().filter_map(answered).collect();
        percentile(&mut latencies, share)
    }

    /// The notifications that were accepted between these two times and that this process did not run.
    pub(crate) fn unheard(&self, pid: u32, from: Micros, to: Micros) -> Vec<u64> {
        let unheard = |call: &Call| {
            let accepted = call.ended.first().filter(|ending| ending.outcome == Outcome::Ok);
            let wanted = call
                .sent
                .is_some_and(|(kind, at)| kind == Kind::Note && (from..to).contains(&at));
            wanted && accepted.is_some() && !call.finished.iter().any(|(run, _)| run.pid == pid)
        };
        self.calls
            .iter()
            .filter(|(_, call)| unheard(call))
            .map(|(id, _)| *id)
            .collect()
    }

    /// When this process first began a call that was made after `at`.
    pub(crate) fn first_begun_after(&self, pid: u32, at: Micros) -> Option<Micros> {
        let since = self
            .calls
            .values()
            .filter(|call| call.sent.is_some_and(|(_, sent)| sent >= at));
        let begun = since
            .flat_map(|call| call.begun.iter())
            .filter(|(run, _)| run.pid == pid);
        begun.map(|(_, when)| *when).min()
    }

    /// The calls of this kind that were made.
    pub(crate) fn of_kind(&self, wanted: Kind) -> Vec<u64> {
        let of_kind = |call: &Call| call.sent.is_some_and(|(kind, _)| kind == wanted);
        self.calls
            .iter()
            .filter(|(_, call)| of_kind(call))
            .map(|(id, _)| *id)
            .collect()
    }

    /// What was accepted before `at` and had not been begun by then: all there is to know about what was in Redis alone.
    pub(crate) fn unread(&self, at: Micros) -> HashSet<u64> {
        let unread = |call: &Call| {
            let sent = call.sent.is_some_and(|(_, sent)| sent <= at);
            sent && !call.begun.iter().any(|(_, begun)| *begun <= at)
        };
        self.calls
            .iter()
            .filter(|(_, call)| unread(call))
            .map(|(id, _)| *id)
            .collect()
    }
}

/// The value that `share` (0 to 1) of these do not exceed.
pub(crate) fn percentile(values: &mut [Micros], share: f64) -> Option<Micros> {
    values.sort_unstable();
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.max(1) - 1).copied()
}
