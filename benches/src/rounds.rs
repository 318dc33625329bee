//! Measures everything, interleaved: in each round all points, at each point all contenders in turn, so that a machine
//! that gets slower or faster meanwhile does so for all.

use std::collections::HashMap;

use crate::contender::Contender;
use crate::measurement::{Point, Settings};
use crate::row::Row;
use crate::sample::Sample;

/// One row per point and contender.
pub(crate) async fn run(
    settings: &Settings,
    contenders: &[Contender],
    points: &[Point],
    rounds: usize,
) -> anyhow::Result<Vec<Row>> {
    let mut samples: HashMap<(Point, Contender), Vec<Sample>> = HashMap::new();
    for round in 0..rounds {
        for point in points {
            // Whoever comes first in one round doesn't do so in the next.
            let (before, after) = contenders.split_at(round % contenders.len());
            for contender in after.iter().chain(before) {
                let Point { callers, payload } = point;
                let name = contender.name();
                eprintln!(
                    "round {}/{rounds}: {name}, {callers} callers, {payload} bytes",
                    round + 1
                );
                let sample = settings.measure(*contender, *point).await?;
                samples.entry((*point, *contender)).or_default().push(sample);
            }
        }
    }
    let of = |point: &Point, contender: &Contender| samples.get(&(*point, *contender)).map_or(&[][..], Vec::as_slice);
    let row = |point: &Point, contender: &Contender| {
        Row::new(*contender, *point, of(point, contender), of(point, &Contender::Floor))
    };
    Ok(points
        .iter()
        .flat_map(|point| contenders.iter().map(move |contender| row(point, contender)))
        .collect())
}
