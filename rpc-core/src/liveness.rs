//! Who counts as dead: plain data, so that pauses and clock jumps can be tested without waiting for them.

use std::time::Duration;

/// What one observer may conclude from the silence of others.
///
/// All times are in milliseconds on one clock, that of whoever keeps the beats. Silence counts only while the observer's
/// own beats succeed: after a pause of the keeper, of the network or of the observer itself, everybody looks silent, and
/// nobody is dead.
#[derive(Clone, Debug)]
pub struct Liveness {
    death_ms: u64,
    /// The longest gap between own beats that is no interruption.
    gap_ms: u64,
    /// Since when own beats have succeeded without interruption, and the last of them.
    own: Option<(u64, u64)>,
}

impl Liveness {
    /// An observer that beats every `beat` and takes a silence of `death` for death.
    #[must_use]
    pub fn new(beat: Duration, death: Duration) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self {
            death_ms: ms(death),
            gap_ms: ms(beat).saturating_mul(2),
            own: None,
        }
    }

    /// An own beat has succeeded at `now_ms`.
    pub fn beat(&mut self, now_ms: u64) {
        let since = match self.own {
            Some((since, last)) if (last..=last.saturating_add(self.gap_ms)).contains(&now_ms) => since,
            _ => now_ms,
        };
        self.own = Some((since, now_ms));
    }

    /// An own beat has failed.
    pub fn missed(&mut self) {
        self.own = None;
    }

    /// Whether someone whose last beat was at `beat_ms` is dead.
    #[must_use]
    pub fn is_dead(&self, beat_ms: u64) -> bool {
        self.own.is_some_and(|(since, now_ms)| {
            // The keeper's clock has gone back since: how long ago that beat was is not known.
            let is_from_the_future = beat_ms > now_ms.saturating_add(self.death_ms);
            let last_sign = if is_from_the_future { since } else { beat_ms.max(since) };
            now_ms.saturating_sub(last_sign) >= self.death_ms
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEAT: Duration = Duration::from_secs(1);
    const DEATH: Duration = Duration::from_secs(5);

    fn observer(beats: impl IntoIterator<Item = u64>) -> Liveness {
        let mut liveness = Liveness::new(BEAT, DEATH);
        beats.into_iter().for_each(|at| liveness.beat(at));
        liveness
    }

    #[test]
    fn five_seconds_of_silence_are_death() {
        let liveness = observer((100..=106).map(|s| s * 1000));
        assert!(liveness.is_dead(101_000));
        assert!(!liveness.is_dead(101_001));
    }

    #[test]
    fn a_pause_kills_nobody() {
        // Redis stood still from 103 to 120, or its clock jumped: everybody's last beat is as old.
        let mut liveness = observer([100_000, 101_000, 102_000, 103_000, 120_000]);
        assert!(!liveness.is_dead(102_900));
        (121..=124).for_each(|s| liveness.beat(s * 1000));
        assert!(!liveness.is_dead(102_900));
        liveness.beat(125_000);
        assert!(
            liveness.is_dead(102_900),
            "those who have not come back are dead after all"
        );
    }

    #[test]
    fn the_dead_do_not_live_on_when_the_clock_goes_back() {
        let mut liveness = observer((100..=104).map(|s| s * 1000));
        // By a minute: who lives beats again within a second, and who does not is dead after five.
        (44..=48).for_each(|s| liveness.beat(s * 1000));
        assert!(!liveness.is_dead(104_000));
        liveness.beat(49_000);
        assert!(liveness.is_dead(104_000));
        assert!(!liveness.is_dead(49_500), "another one's beat may be a little later");
    }

    #[test]
    fn a_missed_beat_starts_the_count_anew() {
        let mut liveness = observer((100..=104).map(|s| s * 1000));
        liveness.missed();
        assert!(!liveness.is_dead(0));
        liveness.beat(105_000);
        assert!(!liveness.is_dead(0));
    }

    proptest! {
        /// Whatever the beats: nobody is dead who has beaten within the death time, or before the observer has watched
        /// for that long without interruption.
        #[test]
        fn the_living_are_never_dead(gaps in proptest::collection::vec(0..8_000_u64, 1..40), beat in 0..400_000_u64) {
            let mut liveness = Liveness::new(BEAT, DEATH);
            let (mut now, mut watched) = (100_000, 0);
            liveness.beat(now);
            for gap in gaps {
                now += gap;
                watched = if gap <= 2_000 { watched + gap } else { 0 };
                liveness.beat(now);
                if liveness.is_dead(beat) {
                    // A beat from far ahead is from before the clock went back.
                    let silent = now.saturating_sub(beat) >= 5_000 || beat > now + 5_000;
                    prop_assert!(silent && watched >= 5_000);
                }
            }
        }
    }
}
