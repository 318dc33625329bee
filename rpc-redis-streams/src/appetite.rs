//! How much a worker reads at once. No IO in here.

/// How many requests one read takes, about: bounded reads overlap with work, and leave some to the neighbours.
pub(crate) const READ_COUNT: usize = 64;

/// How many it may grow to where a thousand wait: of few bytes only, because Redis has to hold the whole answer in memory.
const MOST_COUNT: usize = 256;
const MUCH: usize = 256 << 10;

/// How many it asks for at the least, if there is room for them.
const LEAST_COUNT: usize = 16;

/// How many requests an entry carries, on average: room is counted in requests, and Redis counts entries.
#[derive(Debug)]
pub(crate) struct PackSize {
    /// In sixteenths.
    average: usize,
}

impl PackSize {
    /// Of a client that may pack so many, whatever it does pack: what is read first is not to be more than there is room for.
    pub(crate) fn new(max_pack: usize) -> Self {
        Self {
            average: 16 * max_pack.max(1),
        }
    }

    pub(crate) fn note(&mut self, requests: usize, entries: usize) {
        if let Some(now) = (requests * 16).checked_div(entries) {
            self.average = ((self.average * 7 + now) / 8).max(16);
        }
    }

    /// How many entries are likely to fill `room`; at least one.
    pub(crate) fn entries(&self, room: usize) -> usize {
        (room * 16 / self.average).max(1)
    }
}

/// How many requests a read asks for. Where few are under way, small reads are run while Redis serves the next one; where many
/// are, each read costs, and large ones are better. Whether a read is filled tells.
#[derive(Debug)]
pub(crate) struct Appetite {
    pub(crate) requests: usize,
}

impl Appetite {
    pub(crate) fn new() -> Self {
        Self { requests: READ_COUNT }
    }

    /// A read has brought so many bytes, and all that it asked for if it was `filled`.
    pub(crate) fn note(&mut self, filled: bool, bytes: usize) {
        let most = if bytes < MUCH { MOST_COUNT } else { READ_COUNT };
        self.requests = match filled {
            true => (self.requests + LEAST_COUNT).min(most),
            false => (self.requests * 3 / 4).max(LEAST_COUNT),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_large_as_long_as_they_are_filled() {
        let mut appetite = Appetite::new();
        (0..10).for_each(|_| appetite.note(false, 100));
        assert_eq!(appetite.requests, LEAST_COUNT);
        (0..20).for_each(|_| appetite.note(true, 100));
        assert_eq!(appetite.requests, MOST_COUNT);
        appetite.note(true, MUCH);
        assert_eq!(appetite.requests, READ_COUNT, "of large ones fewer");
    }

    #[test]
    fn room_for_requests_is_room_for_fewer_packs() {
        let mut size = PackSize::new(1);
        assert_eq!(PackSize::new(16).entries(20), 1);
        assert_eq!(size.entries(10), 10);
        (0..50).for_each(|_| size.note(64, 4));
        assert!((1..=2).contains(&size.entries(20)), "{size:?}");
        assert_eq!(size.entries(1), 1);
        (0..50).for_each(|_| size.note(3, 3));
        assert!(size.entries(10) >= 8, "{size:?}");
        size.note(0, 0);
    }
}
