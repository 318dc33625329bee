//! Each bound, and what breaks it.

use super::*;
use crate::journal::{Event, Record, Run};
use crate::reconcile::reconcile;

const POISON: u64 = 1;
const ONCE: u64 = 2;

/// A poison that was run three times, and a call that must not run twice.
fn account(runs_of_once: u64) -> Account {
    let mut events = vec![
        Event::Sent {
            kind: Kind::Poison,
            id: POISON,
        },
        Event::Sent {
            kind: Kind::Once,
            id: ONCE,
        },
    ];
    let run = |kind, id, attempt| {
        Event::Begun(Run {
            pid: 1,
            kind,
            id,
            attempt,
        })
    };
    events.extend((1..=3).map(|attempt| run(Kind::Poison, POISON, attempt)));
    events.extend((0..runs_of_once).map(|_| run(Kind::Once, ONCE, 1)));
    for (kind, id) in [(Kind::Poison, POISON), (Kind::Once, ONCE)] {
        let (outcome, latency, by) = (Outcome::WorkerLost, 1, None);
        events.push(Event::Ended {
            kind,
            id,
            outcome,
            latency,
            by,
        });
    }
    let records: Vec<Record> = events
        .into_iter()
        .zip(1..)
        .map(|(event, at)| Record { at, event })
        .collect();
    reconcile(&records, &HashSet::new())
}

fn broken(evidence: &Evidence, runs_of_once: u64) -> Vec<String> {
    Report::new("test", &account(runs_of_once), evidence).broken
}

#[test]
fn the_general_bounds_hold_and_break() {
    let letters = |dead_letters| Evidence {
        dead_letters,
        ..Evidence::default()
    };
    assert_eq!(broken(&letters(vec![POISON]), 1), [""; 0]);
    assert!(broken(&letters(vec![POISON, ONCE]), 1)[0].contains("dead letters"));
    assert!(broken(&Evidence::default(), 2)[0].contains("must not run twice"));
    let mut panicked = Evidence::default();
    panicked.logs.panics.push("thread panicked at".to_owned());
    assert!(broken(&panicked, 1)[0].contains("panicked"));
    let problems = vec!["a client did not end".to_owned()];
    assert_eq!(
        broken(
            &Evidence {
                problems,
                ..Evidence::default()
            },
            1
        ),
        ["a client did not end"]
    );
    let stats = vec![serde_json::json!({ "in_flight": 1 })];
    assert!(
        broken(
            &Evidence {
                stats,
                ..Evidence::default()
            },
            1
        )[0]
        .contains("still holds")
    );
    let idle = Report::new("test", &Account::default(), &Evidence::default());
    assert!(!idle.pass && idle.broken[0].contains("nothing was called"));
}

#[test]
fn each_bound_of_a_fault_can_be_broken() {
    let account = account(2);
    let deaths = |once, poison| HashMap::from([(ONCE, once), (POISON, poison)]);
    let breaks = |bound: &dyn Fn(&mut Report)| {
        let mut report = Report::empty("test");
        bound(&mut report);
        assert_eq!(report.pass, report.broken.is_empty());
        !report.pass
    };
    assert!(breaks(&|report| report.nothing_doubled(&account)));
    assert!(breaks(&|report| report.nothing_doubled_besides(&account, &deaths(1, 1))));
    assert!(!breaks(
        &|report| report.nothing_doubled_besides(&account, &deaths(1, 2))
    ));
    assert!(breaks(
        &|report| report.no_errors_besides(&account, &[Outcome::Overloaded])
    ));
    assert!(!breaks(
        &|report| report.no_errors_besides(&account, &[Outcome::WorkerLost])
    ));
    assert!(breaks(&|report| report.all_kinds(&account)));
    let second = Duration::from_secs(1);
    assert!(breaks(&|report| report.recovers_within(None, second)));
    assert!(breaks(&|report| report.recovers_within(Some(1_000_001), second)));
    assert!(!breaks(&|report| report.recovers_within(Some(1_000_000), second)));

    let sent = Event::Sent {
        kind: Kind::Quick,
        id: 1,
    };
    let ended = |outcome| Event::Ended {
        kind: Kind::Quick,
        id: 1,
        outcome,
        latency: 1,
        by: None,
    };
    let records = [sent, ended(Outcome::Timeout)].map(|event| Record { at: 1, event });
    let timed_out = reconcile(&records, &HashSet::new());
    assert!(breaks(&|report| report.nothing_lost(&timed_out)));
    assert!(breaks(&|report| report.no_timeouts(&timed_out)));
}

#[test]
fn json_has_the_keys_that_others_read() {
    let report = serde_json::json!(Report::new("test", &account(1), &Evidence::default()));
    for key in [
        "fault",
        "sent",
        "ok",
        "errors",
        "timeouts",
        "executed",
        "doubled",
        "lost",
        "recovery_ms",
        "log_lines",
        "pass",
    ] {
        assert!(report.get(key).is_some(), "{key}");
    }
}
