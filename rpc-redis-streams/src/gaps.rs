//! What a broadcast subscriber has missed, because it was trimmed before it could be read. No IO in here.

use rpc_core::EntryId;

use crate::extent::Extent;

/// How far a subscriber has read, as a number: the entries of a stream are counted from its first one on, gone or not.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// `None` where that is not known (before Redis 7.0, say).
    position: Option<u64>,
    /// Where the cursor stood when a gap of unknown size was found behind it.
    counted_at: Option<EntryId>,
}

/// How many requests were missed since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    Exactly(u64),
    AtLeast(u64),
}

impl Gaps {
    /// A subscriber that starts behind `cursor`. What is gone by then is not missed.
    pub(crate) fn new(cursor: EntryId, extent: &Extent) -> Self {
        let position = if cursor >= extent.last {
            extent.added
        } else if cursor == EntryId::ZERO {
            extent.gone()
        } else {
            None
        };
        Self {
            position,
            counted_at: None,
        }
    }

    /// A subscriber to a stream that was created anew: all of it was written after what it has read.
    pub(crate) fn of_new_stream() -> Self {
        Self {
            position: Some(0),
            counted_at: None,
        }
    }

    /// So many entries were read.
    pub(crate) fn read(&mut self, entries: usize) {
        if let Some(position) = &mut self.position {
            *position += entries as u64;
        }
    }

    /// Compares what was read with what the stream holds, while nothing is read; `cursor` is the last entry that was.
    pub(crate) fn look(&mut self, cursor: EntryId, extent: &Extent) -> Missed {
        let has_read_all = cursor >= extent.last;
        // Else some of what was read is still there, and nothing behind it has been trimmed since the cursor passed.
        let has_read_none = !has_read_all && extent.first.is_none_or(|first| first > cursor);
        let expected = match (has_read_all, has_read_none) {
            (true, _) => extent.added,
            (false, true) => extent.gone(),
            (false, false) => return Missed::Exactly(0),
        };
        match (self.position, expected) {
            (Some(position), Some(expected)) if extent.added >= Some(position) => {
                self.position = Some(expected.max(position));
                Missed::Exactly(expected.saturating_sub(position))
            }
            // Not known before, or another stream under the same name.
            (_, expected) => {
                self.position = expected;
                let counted = self.counted_at == Some(cursor);
                if has_read_all || counted || cursor == EntryId::ZERO {
                    return Missed::Exactly(0);
                }
                // Redis cuts in strides: that it has cut exactly behind the last entry that was read is not likely.
                self.counted_at = Some(cursor);
                Missed::AtLeast(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    /// Of a stream to which `added` entries have been added, each a millisecond after the other, and that holds the last
    /// `length` of them.
    fn extent(added: u64, length: u64) -> Extent {
        Extent {
            length,
            added: Some(added),
            first: (length > 0).then(|| id(added - length + 1)),
            last: id(added),
        }
    }

    fn before_redis_7(extent: Extent) -> Extent {
        Extent { added: None, ..extent }
    }

    #[test]
    fn who_keeps_up_misses_nothing() {
        let mut gaps = Gaps::new(id(50), &extent(50, 10));
        gaps.read(7);
        assert_eq!(gaps.look(id(57), &extent(57, 10)), Missed::Exactly(0));
        // Behind, but nothing unread is gone.
        assert_eq!(gaps.look(id(57), &extent(66, 10)), Missed::Exactly(0));
        assert_eq!(gaps.look(id(57), &extent(67, 10)), Missed::Exactly(0));
    }

    #[test]
    fn what_is_trimmed_unread_is_counted_before_and_after_it_is_passed() {
        for notices_before_reading in [true, false] {
            let mut gaps = Gaps::new(id(50), &extent(50, 10));
            let mut missed = Vec::new();
            if notices_before_reading {
                missed.push(gaps.look(id(50), &extent(75, 10)));
                missed.push(gaps.look(id(50), &extent(75, 10)));
            }
            gaps.read(10);
            missed.push(gaps.look(id(75), &extent(75, 10)));
            missed.push(gaps.look(id(75), &extent(75, 0)));
            let counted: Vec<_> = missed.into_iter().filter(|m| *m != Missed::Exactly(0)).collect();
            assert_eq!(counted, [Missed::Exactly(15)]);
        }
    }

    #[test]
    fn a_stream_that_was_emptied_unread_is_missed_as_a_whole() {
        let mut gaps = Gaps::new(id(50), &extent(50, 10));
        assert_eq!(gaps.look(id(50), &extent(60, 0)), Missed::Exactly(10));
    }

    #[test]
    fn what_was_gone_at_the_beginning_is_not_missed() {
        let mut gaps = Gaps::new(EntryId::ZERO, &extent(50, 10));
        assert_eq!(gaps.look(EntryId::ZERO, &extent(50, 10)), Missed::Exactly(0));
        gaps.read(10);
        assert_eq!(gaps.look(id(50), &extent(50, 10)), Missed::Exactly(0));
        let mut never = Gaps::new(EntryId::ZERO, &Extent::default());
        assert_eq!(never.look(EntryId::ZERO, &Extent::default()), Missed::Exactly(0));
    }

    #[test]
    fn another_stream_under_the_name_is_counted_anew() {
        let mut gaps = Gaps::new(id(50), &extent(50, 10));
        let replaced = Extent {
            added: Some(3),
            length: 3,
            first: Some(id(90)),
            last: id(92),
        };
        gaps.read(3);
        assert_eq!(gaps.look(id(92), &replaced), Missed::Exactly(0));
        gaps.read(1);
        let later = Extent {
            added: Some(6),
            last: id(95),
            ..replaced
        };
        assert_eq!(gaps.look(id(95), &later), Missed::Exactly(2));
        let mut rewound = Gaps::of_new_stream();
        assert_eq!(rewound.look(EntryId::ZERO, &extent(30, 10)), Missed::Exactly(20));
    }

    #[test]
    fn before_redis_7_a_gap_counts_as_one() {
        let start = before_redis_7(extent(50, 10));
        let mut gaps = Gaps::new(id(50), &start);
        assert_eq!(gaps.look(id(50), &start), Missed::Exactly(0));
        let cut = before_redis_7(extent(75, 10));
        assert_eq!(gaps.look(id(50), &cut), Missed::AtLeast(1));
        assert_eq!(gaps.look(id(50), &cut), Missed::Exactly(0), "counted once");
        gaps.read(10);
        assert_eq!(gaps.look(id(75), &cut), Missed::Exactly(0));
    }
}
