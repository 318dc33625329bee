//! A bounded queue that makes room by dropping its oldest item.

use std::collections::VecDeque;

/// Keeps the newest `capacity` items.
#[derive(Debug)]
pub(crate) struct DropOldest<T> {
    items: VecDeque<T>,
    capacity: usize,
}

impl<T> DropOldest<T> {
    /// A queue of at most `capacity` items, at least one.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            items: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    /// Appends `item`; returns the oldest one if there was no room for both.
    #[must_use]
    pub(crate) fn push(&mut self, item: T) -> Option<T> {
        let dropped = if self.items.len() == self.capacity {
            self.items.pop_front()
        } else {
            None
        };
        self.items.push_back(item);
        dropped
    }

    /// Takes the oldest item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keeps_the_newest_and_returns_each_item_once(capacity in 1..20_usize, pushes in 0..100_usize) {
            let mut queue = DropOldest::new(capacity);
            let mut out: Vec<_> = (0..pushes).filter_map(|n| queue.push(n)).collect();
            prop_assert_eq!(queue.len(), pushes.min(capacity));
            prop_assert_eq!(out.len(), pushes.saturating_sub(capacity));
            out.extend(std::iter::from_fn(|| queue.pop()));
            prop_assert_eq!(out, (0..pushes).collect::<Vec<_>>());
        }
    }
}
