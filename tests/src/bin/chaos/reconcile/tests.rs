//! Each rule, and what breaks it.

use super::*;

const WORKER: u32 = 100;
const OTHER: u32 = 200;

/// A journal that is written event by event, a microsecond apart.
#[derive(Default)]
struct Story(Vec<Record>);

impl Story {
    fn tell(mut self, event: Event) -> Self {
        let at = self.0.len() as Micros;
        self.0.push(Record { at, event });
        self
    }

    fn sent(self, kind: Kind, id: u64) -> Self {
        self.tell(Event::Sent { kind, id })
    }

    fn begun(self, kind: Kind, id: u64, pid: u32, attempt: u32) -> Self {
        self.tell(Event::Begun(Run { pid, kind, id, attempt }))
    }

    fn finished(self, kind: Kind, id: u64, pid: u32, attempt: u32) -> Self {
        self.tell(Event::Finished(Run { pid, kind, id, attempt }))
    }

    fn run(self, kind: Kind, id: u64, pid: u32, attempt: u32) -> Self {
        self.begun(kind, id, pid, attempt).finished(kind, id, pid, attempt)
    }

    fn ended(self, kind: Kind, id: u64, outcome: Outcome, by: Option<(u32, u32)>) -> Self {
        let latency = 1;
        self.tell(Event::Ended {
            kind,
            id,
            outcome,
            latency,
            by,
        })
    }

    /// A call that goes as it should.
    fn served(self, kind: Kind, id: u64) -> Self {
        let outcome = if kind == Kind::Fail {
            Outcome::Service
        } else {
            Outcome::Ok
        };
        let by = (kind != Kind::Note).then_some((WORKER, 1));
        self.sent(kind, id)
            .run(kind, id, WORKER, 1)
            .ended(kind, id, outcome, by)
    }

    fn account(&self) -> Account {
        reconcile(&self.0, &HashSet::new())
    }

    fn losses(&self) -> Vec<Loss> {
        self.account().lost.iter().map(|(_, loss)| *loss).collect()
    }
}

#[test]
fn what_goes_as_it_should_is_counted_and_breaks_nothing() {
    let kinds = [Kind::Quick, Kind::Slow, Kind::Once, Kind::Fail, Kind::Note];
    let story = kinds
        .iter()
        .zip(0..)
        .fold(Story::default(), |story, (kind, id)| story.served(*kind, id));
    let account = story.account();
    assert_eq!(
        (account.sent, account.ok, account.executed, account.timeouts),
        (5, 4, 5, 0)
    );
    assert_eq!(account.errors, BTreeMap::from([(Outcome::Service, 1)]));
    assert!(account.doubled.is_empty() && account.lost.is_empty() && account.doubled_once.is_empty());
    assert_eq!(account.contradictions, [""; 0]);
}

#[test]
fn a_call_that_times_out_is_lost_however_far_it_came() {
    let timed_out = |story: Story| story.ended(Kind::Slow, 1, Outcome::Timeout, None);
    let sent = || Story::default().sent(Kind::Slow, 1);
    assert_eq!(timed_out(sent()).losses(), [Loss::NeverRun]);
    assert_eq!(
        timed_out(sent().begun(Kind::Slow, 1, WORKER, 1)).losses(),
        [Loss::Abandoned]
    );
    assert_eq!(
        timed_out(sent().run(Kind::Slow, 1, WORKER, 1)).losses(),
        [Loss::Unanswered]
    );
    assert_eq!(timed_out(sent()).account().timeouts, 1);
}

#[test]
fn a_call_without_any_ending_hangs_and_has_no_excuse() {
    let story = Story::default().sent(Kind::Quick, 1).run(Kind::Quick, 1, WORKER, 1);
    assert_eq!(story.losses(), [Loss::Hung]);
    assert_eq!(reconcile(&story.0, &HashSet::from([1])).lost, [(1, Loss::Hung)]);
}

#[test]
fn an_accepted_notification_must_be_run_to_its_end() {
    let accepted = Story::default()
        .sent(Kind::Note, 1)
        .ended(Kind::Note, 1, Outcome::Ok, None);
    assert_eq!(accepted.losses(), [Loss::NeverRun]);
    assert!(
        reconcile(&accepted.0, &HashSet::from([1])).lost.is_empty(),
        "a dead letter"
    );
    let begun = accepted.begun(Kind::Note, 1, WORKER, 1);
    assert_eq!(begun.losses(), [Loss::Abandoned]);
    assert!(begun.run(Kind::Note, 1, OTHER, 2).losses().is_empty());
    let refused = Story::default()
        .sent(Kind::Note, 1)
        .ended(Kind::Note, 1, Outcome::Overloaded, None);
    assert!(refused.losses().is_empty());
}

#[test]
fn a_call_that_is_told_an_error_is_not_lost() {
    let told = Story::default()
        .sent(Kind::Once, 1)
        .begun(Kind::Once, 1, WORKER, 1)
        .ended(Kind::Once, 1, Outcome::WorkerLost, None);
    let account = told.account();
    assert!(account.lost.is_empty() && account.contradictions.is_empty());
    assert_eq!(
        (account.error_count(), account.errors_besides(&[Outcome::WorkerLost])),
        (1, 0)
    );
    assert_eq!(account.errors_besides(&[Outcome::Service]), 1);
}

#[test]
fn a_second_beginning_is_a_double_even_if_the_first_has_no_end() {
    for kind in [Kind::Slow, Kind::Once] {
        let account = Story::default()
            .sent(kind, 1)
            .begun(kind, 1, WORKER, 1)
            .run(kind, 1, OTHER, 2)
            .ended(kind, 1, Outcome::Ok, Some((OTHER, 2)))
            .account();
        assert_eq!(account.doubled, BTreeMap::from([(1, 2)]));
        assert_eq!(account.doubled_once.len(), usize::from(kind == Kind::Once));
        assert_eq!(account.executed, 1);
        assert_eq!(account.contradictions, [""; 0]);
        // Each death is good for one more run, and only of what was unsettled then.
        assert_eq!(account.doubled_without_excuse(&HashMap::from([(2, 1)])), [1]);
        assert!(account.doubled_without_excuse(&HashMap::from([(1, 1)])).is_empty());
    }
}

#[test]
fn a_third_run_needs_a_second_excuse() {
    let account = Story::default()
        .served(Kind::Slow, 1)
        .run(Kind::Slow, 1, OTHER, 2)
        .run(Kind::Slow, 1, WORKER, 3)
        .account();
    assert_eq!(account.doubled_without_excuse(&HashMap::from([(1, 1)])), [1]);
    assert!(account.doubled_without_excuse(&HashMap::from([(1, 2)])).is_empty());
}

#[test]
fn contradictions_are_found() {
    let served = || Story::default().served(Kind::Quick, 1);
    let stories = [
        ("nobody made it", Story::default().run(Kind::Quick, 1, WORKER, 1)),
        (
            "ended 2 times",
            served().ended(Kind::Quick, 1, Outcome::Ok, Some((WORKER, 1))),
        ),
        ("had not begun it", served().finished(Kind::Quick, 1, OTHER, 1)),
        (
            "another call's answer",
            Story::default()
                .sent(Kind::Quick, 1)
                .ended(Kind::Quick, 1, Outcome::Wrong, None),
        ),
        (
            "should have failed",
            Story::default()
                .sent(Kind::Fail, 1)
                .run(Kind::Fail, 1, WORKER, 1)
                .ended(Kind::Fail, 1, Outcome::Ok, Some((WORKER, 1))),
        ),
        (
            "its method never does",
            Story::default()
                .sent(Kind::Quick, 1)
                .run(Kind::Quick, 1, WORKER, 1)
                .ended(Kind::Quick, 1, Outcome::Service, Some((WORKER, 1))),
        ),
        (
            "which has not finished it",
            Story::default()
                .sent(Kind::Quick, 1)
                .begun(Kind::Quick, 1, WORKER, 1)
                .ended(Kind::Quick, 1, Outcome::Ok, Some((WORKER, 1))),
        ),
        (
            "which has not finished it",
            Story::default()
                .sent(Kind::Quick, 1)
                .run(Kind::Quick, 1, WORKER, 1)
                .ended(Kind::Quick, 1, Outcome::Ok, Some((WORKER, 2))),
        ),
        (
            "answered by nobody",
            Story::default()
                .sent(Kind::Quick, 1)
                .run(Kind::Quick, 1, WORKER, 1)
                .ended(Kind::Quick, 1, Outcome::Ok, None),
        ),
    ];
    for (what, story) in stories {
        let found = story.account().contradictions;
        assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
    }
}

#[test]
fn what_a_kill_interrupts_is_what_its_victim_had_begun_and_not_finished() {
    let story = Story::default()
        .served(Kind::Slow, 1)
        .sent(Kind::Slow, 2)
        .begun(Kind::Slow, 2, WORKER, 1)
        .sent(Kind::Slow, 3)
        .begun(Kind::Slow, 3, OTHER, 1)
        .sent(Kind::Note, 4)
        .begun(Kind::Note, 4, WORKER, 1);
    let kill = story.0.len() as Micros;
    let later = story
        .run(Kind::Slow, 2, OTHER, 2)
        .ended(Kind::Slow, 2, Outcome::Ok, Some((OTHER, 2)))
        .sent(Kind::Slow, 5)
        .begun(Kind::Slow, 5, WORKER, 1);
    let account = later.account();
    assert_eq!(account.interrupted(WORKER, kill), BTreeSet::from([2]));
    assert_eq!(account.answered_at(2), Some(kill + 2));
    assert_eq!(account.answered_at(3), None);
    assert_eq!((account.outcome(2), account.runs(2)), (Some(Outcome::Ok), 2));
}

#[test]
fn a_deadline_is_no_answer() {
    let story = Story::default()
        .sent(Kind::Slow, 1)
        .ended(Kind::Slow, 1, Outcome::Timeout, None);
    assert_eq!(story.account().answered_at(1), None);
}

#[test]
fn service_is_back_when_every_client_has_the_value_of_a_call_made_since() {
    let other = crate::client::first_id(1);
    let story = Story::default().sent(Kind::Slow, 1);
    let end = story.0.len() as Micros;
    let story = story
        .run(Kind::Slow, 1, WORKER, 1)
        .ended(Kind::Slow, 1, Outcome::Ok, Some((WORKER, 1)))
        .served(Kind::Note, 2)
        .served(Kind::Fail, 3);
    assert_eq!(
        story.account().served_again(end),
        None,
        "an older call, a notification, an error"
    );
    let at = story.0.len() as Micros;
    let story = story.served(Kind::Quick, 4);
    assert_eq!(story.account().served_again(end), Some(at + 3));
    let story = story.served(Kind::Quick, 5).sent(Kind::Quick, other);
    assert_eq!(story.account().served_again(end), None, "the other client waits");
    let at = story.0.len() as Micros;
    let story = story.served(Kind::Quick, other + 1);
    assert_eq!(story.account().served_again(end), Some(at + 3));
}

#[test]
fn throughput_counts_values_of_calls() {
    let story = Story::default()
        .served(Kind::Quick, 1)
        .served(Kind::Note, 2)
        .served(Kind::Fail, 3)
        .served(Kind::Once, 4);
    let per_second = story.account().throughput(0, 16);
    assert!((per_second - 2.0 / 16e-6).abs() < 1.0, "{per_second}");
}

#[test]
fn unread_is_what_was_sent_and_not_begun() {
    let story = Story::default().served(Kind::Quick, 1).sent(Kind::Quick, 2);
    let at = story.0.len() as Micros - 1;
    let story = story.begun(Kind::Quick, 2, WORKER, 1).sent(Kind::Quick, 3);
    assert_eq!(story.account().unread(at), HashSet::from([2]));
    assert_eq!(story.account().of_kind(Kind::Quick), [1, 2, 3]);
}

#[test]
fn each_process_that_should_hear_is_asked_by_itself() {
    let story = Story::default().served(Kind::Note, 1).sent(Kind::Note, 2);
    let story = story
        .begun(Kind::Note, 2, WORKER, 1)
        .ended(Kind::Note, 2, Outcome::Ok, None);
    let from = story.0.len() as Micros;
    let story = story
        .served(Kind::Note, 3)
        .sent(Kind::Note, 4)
        .ended(Kind::Note, 4, Outcome::Io, None);
    let to = story.0.len() as Micros;
    let account = story.served(Kind::Note, 5).account();
    assert_eq!(account.unheard(OTHER, 0, from), [1, 2], "run by another");
    assert_eq!(account.unheard(WORKER, 0, from), [2], "begun is not heard");
    assert_eq!(
        account.unheard(OTHER, from, to),
        [3],
        "what was not accepted is not missed"
    );
    assert_eq!(account.first_begun_after(WORKER, from), Some(from + 1));
    assert_eq!(account.first_begun_after(OTHER, from), None);
}

#[test]
fn what_a_process_ran_and_when_is_known() {
    let story = Story::default().served(Kind::Slow, 1);
    let at = story.0.len() as Micros;
    let account = story.served(Kind::Slow, 2).account();
    assert!(account.ran_in(1, WORKER) && !account.ran_in(1, OTHER) && !account.ran_in(3, WORKER));
    assert_eq!(
        (
            account.begun_in(WORKER, 0),
            account.begun_in(WORKER, at),
            account.begun_in(OTHER, 0)
        ),
        (2, 1, 0)
    );
    assert_eq!(
        (account.having(Outcome::Ok), account.having(Outcome::Timeout)),
        (vec![1, 2], vec![])
    );
}

#[test]
fn latency_is_that_of_answered_calls() {
    let story = Story::default()
        .served(Kind::Slow, 1)
        .served(Kind::Note, 2)
        .sent(Kind::Slow, 3);
    let story = story
        .served(Kind::Quick, 4)
        .ended(Kind::Slow, 3, Outcome::Timeout, None);
    assert_eq!(story.account().latency(1.0), Some(3));
    assert_eq!(Story::default().account().latency(1.0), None);
}

#[test]
fn percentiles_are_values_that_occur() {
    assert_eq!(percentile(&mut [], 0.99), None);
    assert_eq!(percentile(&mut [7], 0.99), Some(7));
    let mut hundred: Vec<Micros> = (1..=100).rev().collect();
    assert_eq!(percentile(&mut hundred, 0.99), Some(99));
    assert_eq!(percentile(&mut hundred, 0.5), Some(50));
    assert_eq!(percentile(&mut hundred, 1.0), Some(100));
}
