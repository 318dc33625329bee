//! The table: all contenders at each number of callers and size of payload.

use crate::contender::Contender;
use crate::measurement::{Case, Point, Settings, Shape};
use crate::rounds::{self, Named};
use crate::row::Row;

/// One row per point and contender.
pub(crate) async fn run(
    settings: &Settings,
    contenders: &[Contender],
    points: &[Point],
    rounds: usize,
) -> anyhow::Result<Vec<Row>> {
    let named = |point: Point, contender: Contender| {
        let name = format!(
            "{}, {} callers, {} bytes",
            contender.name(),
            point.callers,
            point.payload
        );
        let shape = Shape::default();
        (
            name,
            Case {
                contender,
                point,
                shape,
            },
        )
    };
    let group = |point: &Point| {
        let takes = |contender: &&Contender| contender.takes(point.callers);
        let able = contenders.iter().filter(takes);
        able.map(|contender| named(*point, *contender)).collect()
    };
    let groups: Vec<Vec<Named>> = points.iter().map(group).collect();
    let samples = rounds::run(settings, &groups, rounds).await?;
    let mut rows = Vec::new();
    for (cases, samples) in groups.iter().zip(&samples) {
        let floor = cases.iter().position(|(_, case)| case.contender == Contender::Floor);
        let floor = floor.map_or(&[][..], |floor| &samples[floor]);
        rows.extend(
            cases
                .iter()
                .zip(samples)
                .map(|((_, case), samples)| Row::new(case, samples, floor)),
        );
    }
    Ok(rows)
}
