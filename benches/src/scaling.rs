//! How the cost of a call changes with the number of sessions, workers, streams, subscribers, and entries in a stream,
//! and with others that do something else meanwhile. Ratios are to the first row of each table.

use anyhow::ensure;

use crate::contender::Contender;
use crate::measurement::{Case, Handler, Point, Settings, Shape};
use crate::rounds::{self, Named};
use crate::row::Row;

/// One thing that changes while all others stay.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    contenders: &'static [Contender],
    callers: usize,
    values: &'static [usize],
    shape: fn(usize) -> Shape,
}

const OURS: &[Contender] = &[Contender::Group];
const BOTH: &[Contender] = &[Contender::Floor, Contender::Group];

const SCENARIOS: &[Scenario] = &[
    // A client pays for its own replies only.
    Scenario {
        name: "sessions",
        contenders: BOTH,
        callers: 1000,
        values: &[1, 10, 100, 1000],
        shape: |sessions| Shape {
            sessions,
            ..Shape::default()
        },
    },
    Scenario {
        name: "workers that wait",
        contenders: OURS,
        callers: 64,
        values: &[1, 2, 4, 8],
        shape: |workers| Shape {
            workers,
            handler: Handler::Wait,
            ..Shape::default()
        },
    },
    // Bounded by the CPUs of the machine.
    Scenario {
        name: "workers that calculate",
        contenders: OURS,
        callers: 64,
        values: &[1, 2, 4, 8],
        shape: |workers| Shape {
            workers,
            handler: Handler::Calculate,
            ..Shape::default()
        },
    },
    Scenario {
        name: "streams",
        contenders: OURS,
        callers: 64,
        values: &[1, 2, 4, 8],
        shape: |streams| Shape {
            streams,
            sessions: streams,
            ..Shape::default()
        },
    },
    // Every subscriber runs and answers every call.
    Scenario {
        name: "subscribers",
        contenders: &[Contender::Broadcast],
        callers: 64,
        values: &[1, 8, 32],
        shape: |channels| Shape {
            channels,
            ..Shape::default()
        },
    },
    Scenario {
        name: "backlog",
        contenders: OURS,
        callers: 64,
        values: &[0, 10_000, 100_000, 1_000_000],
        shape: |backlog| Shape {
            backlog,
            ..Shape::default()
        },
    },
    Scenario {
        name: IDLE_SESSIONS,
        contenders: OURS,
        callers: 64,
        values: &[0, 100, 1000],
        shape: |bystanders| Shape {
            bystanders,
            ..Shape::default()
        },
    },
    Scenario {
        name: LARGE_BESIDE,
        contenders: BOTH,
        callers: 16,
        values: &[0, 1, 4],
        shape: |large_beside| Shape {
            bystanders: 1,
            large_beside,
            ..Shape::default()
        },
    },
    Scenario {
        name: LARGE_WITHIN,
        contenders: BOTH,
        callers: 16,
        values: &[0, 1, 4],
        shape: |large_within| Shape {
            large_within,
            ..Shape::default()
        },
    },
];

/// Sessions in another process that do nothing.
pub(crate) const IDLE_SESSIONS: &str = "idle sessions";

/// Calls of a MiB at once in another session.
pub(crate) const LARGE_BESIDE: &str = "MiB calls beside";

/// Calls of a MiB at once in the same session.
pub(crate) const LARGE_WITHIN: &str = "MiB calls within";

/// One row per scenario, contender and value; only the scenarios that begin with one of `names`, if there are any.
pub(crate) async fn run(settings: &Settings, names: &[String], rounds: usize) -> anyhow::Result<Vec<Row>> {
    let wanted = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| scenario.name.starts_with(name));
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(wanted).collect();
    let all: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    ensure!(
        !scenarios.is_empty(),
        "there is no such scenario; there are: {}",
        all.join(", ")
    );

    let mut groups: Vec<Vec<Named>> = Vec::new();
    let mut named = Vec::new();
    for scenario in scenarios {
        for contender in scenario.contenders {
            let case = |value: &usize| {
                let case = Case {
                    contender: *contender,
                    point: Point {
                        callers: scenario.callers,
                        payload: 32,
                    },
                    shape: (scenario.shape)(*value),
                };
                (format!("{}, {} = {value}", contender.name(), scenario.name), case)
            };
            groups.push(scenario.values.iter().map(case).collect());
            named.push(scenario);
        }
    }
    let samples = rounds::run(settings, &groups, rounds).await?;
    let mut rows = Vec::new();
    for ((scenario, cases), samples) in named.iter().zip(&groups).zip(&samples) {
        for (((_, case), samples_of_case), value) in cases.iter().zip(samples).zip(scenario.values) {
            let mut row = Row::new(case, samples_of_case, &samples[0]);
            row.scenario = Some(scenario.name);
            row.value = Some(*value);
            rows.push(row);
        }
    }
    Ok(rows)
}
