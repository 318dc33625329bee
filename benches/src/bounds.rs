//! What has to hold, as issue 4 states it: medians of one run, default settings, nothing else going on on the machine.

use anyhow::bail;

use crate::contender::Contender;
use crate::measurement::Point;
use crate::row::Row;
use crate::scaling::{IDLE_SESSIONS, LARGE_BESIDE, LARGE_WITHIN};

const CALLERS: [usize; 5] = [1, 16, 64, 256, 1024];
const SMALL: usize = 32;

/// A figure and what it has to be.
#[derive(Debug)]
struct Bound {
    what: String,
    /// None if it was not measured.
    figure: Option<f64>,
    limit: Limit,
    must: f64,
    aim: f64,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    AtLeast,
    AtMost,
}

impl Bound {
    fn holds(&self, bound: f64) -> bool {
        match self.limit {
            Limit::AtLeast => self.figure.is_some_and(|figure| figure >= bound),
            Limit::AtMost => self.figure.is_some_and(|figure| figure <= bound),
        }
    }
}

/// Who has to be measured, at which points, and in which scenarios.
pub(crate) fn needed() -> anyhow::Result<(Vec<Contender>, Vec<Point>, Vec<String>)> {
    let contenders = vec![
        Contender::Floor,
        // Sets no bound, but shows what one caller can get at all.
        Contender::FloorBlocking,
        Contender::Group,
        Contender::Unpacked,
        #[cfg(feature = "peers")]
        Contender::Nats,
    ];
    for contender in &contenders {
        if let Some(why) = contender.missing() {
            bail!("{} is needed: {why}", contender.name());
        }
    }
    let point = |(callers, payload)| Point { callers, payload };
    let small = CALLERS.map(|callers| (callers, SMALL)).into_iter();
    let points = small
        .chain([(16, 4096), (64, 4096), (16, 262_144)])
        .map(point)
        .collect();
    let scenarios = [IDLE_SESSIONS, LARGE_BESIDE, LARGE_WITHIN].map(str::to_owned).to_vec();
    Ok((contenders, points, scenarios))
}

/// Prints which bounds hold, and by how much, of what was measured and the memory of an idle worker. Says whether all musts do.
pub(crate) fn check(rows: &[Row], idle_kib: u64) -> bool {
    let bounds = bounds(rows, idle_kib);
    let width = bounds.iter().map(|bound| bound.what.chars().count()).max().unwrap_or(0);
    println!();
    for bound in &bounds {
        let verdict = match bound.figure {
            None => "not measured",
            Some(_) if bound.holds(bound.aim) => "aim met",
            Some(_) if bound.holds(bound.must) => "holds",
            Some(_) => "FAILS",
        };
        let figure = bound.figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
        let limit = match bound.limit {
            Limit::AtLeast => "at least",
            Limit::AtMost => "at most",
        };
        let by = bound.figure.map_or(String::new(), |figure| {
            format!("{:+.0} %", (figure / bound.must - 1.0) * 100.0)
        });
        let Bound { what, must, aim, .. } = bound;
        println!("{what:<width$}  {figure:>8}  {limit:<8} {must:>6.2}  aim {aim:>6.2}  {by:>8}  {verdict}");
    }
    bounds.iter().all(|bound| bound.holds(bound.must))
}

fn bounds(rows: &[Row], idle_kib: u64) -> Vec<Bound> {
    let find = |name: &str, callers: usize, payload: usize| {
        let is_it =
            |row: &&Row| (row.scenario, row.name.as_str(), row.callers, row.payload) == (None, name, callers, payload);
        rows.iter().find(is_it)
    };
    let mut bounds = Vec::new();
    let mut add = |what: String, figure, limit, (must, aim)| {
        bounds.push(Bound {
            what,
            figure,
            limit,
            must,
            aim,
        })
    };

    let to_floor = [(1.15, 1.3), (1.2, 1.6), (1.5, 2.2), (1.5, 3.0), (1.5, 3.0)];
    let unpacked = [(1.15, 1.3), (1.0, 1.15), (1.1, 1.4), (1.0, 1.35), (1.0, 1.25)];
    let to_nats = [(1.1, 1.25), (1.1, 1.4), (1.25, 1.8), (1.4, 2.5), (1.4, 2.5)];
    let p99 = [(1.1, 1.0), (1.1, 0.8), (1.0, 0.7), (1.0, 0.7), (1.0, 0.7)];
    for (number, callers) in CALLERS.into_iter().enumerate() {
        let small = |name| find(name, callers, SMALL);
        let group = small("ours/group");
        let at = format!("{callers} callers");
        let ratio = group.and_then(|row| row.ratio);
        add(
            format!("throughput / floor, {at}"),
            ratio,
            Limit::AtLeast,
            to_floor[number],
        );
        let ratio = small("ours/group/unpacked").and_then(|row| row.ratio);
        add(
            format!("the same without packed requests, {at}"),
            ratio,
            Limit::AtLeast,
            unpacked[number],
        );
        let ratio = group.zip(small("nats")).and_then(|(group, nats)| group.ratio_to(nats));
        add(
            format!("throughput / NATS, {at}"),
            ratio,
            Limit::AtLeast,
            to_nats[number],
        );
        let ratio = group.and_then(|row| row.p99_ratio);
        add(format!("p99 / floor, {at}"), ratio, Limit::AtMost, p99[number]);
    }
    for (callers, bound) in [(64, (4.0, 2.5)), (256, (3.0, 1.5))] {
        let cpu = |name| find(name, callers, SMALL).map(|row| row.cpu_us);
        // What the machine takes for the least that can be done: it may be slow.
        let floor = cpu("floor").map_or(String::new(), |cpu| format!(" (the floor's {cpu:.2})"));
        add(
            format!("CPU µs of client and worker, {callers} callers{floor}"),
            cpu("ours/group"),
            Limit::AtMost,
            bound,
        );
    }
    for row in rows
        .iter()
        .filter(|row| row.scenario.is_none() && row.name == "ours/group" && row.payload > SMALL)
    {
        let what = format!("throughput / floor, {} callers, {} bytes", row.callers, row.payload);
        add(what, row.ratio, Limit::AtLeast, (0.95, 1.0));
    }

    let ours = || rows.iter().filter(|row| row.name == "ours/group");
    let largest = |scenario| ours().rev().find(move |row| row.scenario == Some(scenario));
    let ratio = largest(IDLE_SESSIONS).and_then(|row| row.ratio);
    add(
        "throughput beside 1000 idle sessions".to_owned(),
        ratio,
        Limit::AtLeast,
        (0.95, 1.0),
    );
    for scenario in [LARGE_BESIDE, LARGE_WITHIN] {
        let ratio = largest(scenario).and_then(|row| row.p99_ratio);
        add(
            format!("p99 of small calls, {scenario}"),
            ratio,
            Limit::AtMost,
            (3.0, 1.0),
        );
    }
    let loaded = find("ours/group", 64, SMALL);
    let peak = loaded.map(|row| row.worker_peak_kib / 1024.0);
    add(
        "MiB of a worker, 64 callers".to_owned(),
        peak,
        Limit::AtMost,
        (16.0, 16.0),
    );
    let idle = idle_kib as f64 / 1024.0;
    add(
        "MiB of an idle worker (the example calculator)".to_owned(),
        Some(idle),
        Limit::AtMost,
        (5.0, 5.0),
    );
    bounds
}
