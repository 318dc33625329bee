//! Measures everything, interleaved: in each round all groups, in each group all cases in turn, so that a machine that
//! gets slower or faster meanwhile does so for all.

use crate::measurement::{Case, Settings};
use crate::sample::Sample;

/// A case and what it is called while it runs.
pub(crate) type Named = (String, Case);

/// The samples of each case of each group, one per round.
pub(crate) async fn run(
    settings: &Settings,
    groups: &[Vec<Named>],
    rounds: usize,
) -> anyhow::Result<Vec<Vec<Vec<Sample>>>> {
    let mut samples: Vec<Vec<Vec<Sample>>> = groups.iter().map(|cases| vec![Vec::new(); cases.len()]).collect();
    for round in 0..rounds {
        for (cases, samples) in groups.iter().zip(&mut samples) {
            // Whoever comes first in one round doesn't do so in the next.
            for number in (0..cases.len()).map(|number| (number + round) % cases.len()) {
                let (name, case) = &cases[number];
                eprintln!("round {}/{rounds}: {name}", round + 1);
                samples[number].push(settings.measure(*case).await?);
            }
        }
    }
    Ok(samples)
}
