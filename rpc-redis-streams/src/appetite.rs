//! How much a worker reads at once. No IO in here.

/// How many requests one read takes, about: bounded reads overlap with work, and leave some to the neighbours.
pub(crate) const READ_COUNT: usize = 64;

/// How many it may grow to where a thousand wait: of few bytes only, because Redis has to hold the whole answer in memory.
const MOST_COUNT: usize = 256;
const MUCH: usize = 256 << 10;

/// How many it asks for at the least, if there is room for them.
const LEAST_COUNT: usize = 16;

/// How many entries one read takes at the least, if there is room for the requests in them: what a client has written together is not
/// to be run in turns because one entry has as many requests as a read is to bring.
const LEAST_ENTRIES: usize = 8;

/// What a read asks for: Redis counts entries, of which each may carry several requests.
///
/// Where few requests are under way, small reads are run while Redis serves the next one; where many are, each read costs, and
/// large ones are better. Whether a read is filled tells.
#[derive(Debug)]
pub(crate) struct Appetite {
    /// How many requests a read is to bring.
    requests: usize,
    /// How many requests an entry carries on average, in sixteenths.
    per_entry: usize,
}

impl Appetite {
    /// For clients that may pack so many requests, whatever they do pack: what is read first is not to be more than there is room
    /// for.
    pub(crate) fn new(max_pack: usize) -> Self {
        Self {
            requests: READ_COUNT,
            per_entry: 16 * max_pack.max(1),
        }
    }

    /// How many entries to ask for if there is room for so many requests; at least one.
    pub(crate) fn entries(&self, room: usize) -> usize {
        let filling = |requests: usize| (requests * 16 / self.per_entry).max(1);
        filling(room).min(filling(self.requests).max(LEAST_ENTRIES))
    }

    /// A read for so many entries has brought these, with so many requests and bytes.
    pub(crate) fn note(&mut self, asked: usize, entries: usize, requests: usize, bytes: usize) {
        if let Some(now) = (requests * 16).checked_div(entries) {
            self.per_entry = ((self.per_entry * 7 + now) / 8).max(16);
        }
        let most = if bytes < MUCH { MOST_COUNT } else { READ_COUNT };
        self.requests = if entries >= asked {
            (self.requests + LEAST_COUNT).min(most)
        } else {
            (self.requests * 3 / 4).max(LEAST_COUNT)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: usize = 10_000;

    #[test]
    fn reads_are_large_as_long_as_they_are_filled() {
        let mut appetite = Appetite::new(1);
        (0..10).for_each(|_| appetite.note(64, 1, 1, 100));
        assert_eq!(appetite.entries(PLENTY), LEAST_COUNT);
        (0..20).for_each(|_| appetite.note(64, 64, 64, 100));
        assert_eq!(appetite.entries(PLENTY), MOST_COUNT);
        appetite.note(64, 64, 64, MUCH);
        assert_eq!(appetite.entries(PLENTY), READ_COUNT, "of large ones fewer");
    }

    #[test]
    fn room_for_requests_is_room_for_fewer_packs() {
        let mut appetite = Appetite::new(1);
        assert_eq!(Appetite::new(16).entries(20), 1);
        assert_eq!(appetite.entries(10), 10);
        (0..50).for_each(|_| appetite.note(64, 4, 64, 100));
        assert!((1..=2).contains(&appetite.entries(20)), "{appetite:?}");
        assert_eq!(appetite.entries(1), 1);
        (0..50).for_each(|_| appetite.note(64, 3, 3, 100));
        assert!(appetite.entries(10) >= 8, "{appetite:?}");
        appetite.note(64, 0, 0, 0);
    }

    #[test]
    fn a_few_packs_are_read_at_once_however_full_they_are() {
        let mut appetite = Appetite::new(64);
        (0..50).for_each(|_| appetite.note(64, 1, 64, 100));
        assert_eq!(appetite.entries(PLENTY), LEAST_ENTRIES);
        assert_eq!(appetite.entries(2 * 64), 2, "but none without room");
    }
}
