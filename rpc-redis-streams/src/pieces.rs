//! Bytes that are written in one go, from where they are: what is small is copied together, what is large is referred to.

use std::io::IoSlice;

use bytes::Bytes;

/// From so many bytes on, a reference costs less than a copy.
const LARGE: usize = 2 << 10;

/// How much memory is kept: that of a flush.
const KEPT: usize = 256 << 10;

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    small: Vec<u8>,
    /// Each with the number of small bytes in front of it.
    large: Vec<(usize, Bytes)>,
    /// The bytes of all large ones.
    large_bytes: usize,
}

impl Pieces {
    /// What `write` writes.
    pub(crate) fn written(write: impl FnOnce(&mut Self)) -> Self {
        let mut pieces = Self::default();
        write(&mut pieces);
        pieces
    }

    /// Makes room for so many more small bytes.
    pub(crate) fn reserve(&mut self, small: usize) {
        self.small.reserve(small);
    }

    /// Forgets everything, and keeps memory for what is small.
    pub(crate) fn clear(&mut self) {
        self.small.clear();
        // Not what was needed once and may never be again.
        self.small.shrink_to(KEPT);
        self.large.clear();
        self.large_bytes = 0;
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.small.push(byte);
    }

    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// Adds bytes that may be many.
    pub(crate) fn extend_from_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() < LARGE {
            self.small.extend_from_slice(bytes);
        } else {
            self.large.push((self.small.len(), bytes.clone()));
            self.large_bytes += bytes.len();
        }
    }

    /// Adds all of `other`.
    pub(crate) fn append(&mut self, other: &Self) {
        let before = self.small.len();
        self.small.extend_from_slice(&other.small);
        let large = other.large.iter();
        self.large.extend(large.map(|(at, bytes)| (before + at, bytes.clone())));
        self.large_bytes += other.large_bytes;
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    /// All bytes in order, in slices that are not empty.
    pub(crate) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.large.len() + 1);
        let mut written = 0;
        for (at, bytes) in &self.large {
            slices.extend([&self.small[written..*at], bytes]);
            written = *at;
        }
        slices.push(&self.small[written..]);
        let filled = slices.into_iter().filter(|slice| !slice.is_empty());
        filled.map(IoSlice::new).collect()
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(small: Vec<u8>) -> Self {
        Self {
            small,
            ..Self::default()
        }
    }
}

/// Copies what is large.
impl From<Pieces> for Vec<u8> {
    fn from(pieces: Pieces) -> Self {
        if pieces.large.is_empty() {
            return pieces.small;
        }
        let mut bytes = Self::with_capacity(pieces.len());
        for slice in pieces.slices() {
            bytes.extend_from_slice(&slice);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_and_what_is_large_is_not_copied() {
        let large = Bytes::from(vec![b'x'; LARGE]);
        let mut inner = Pieces::default();
        inner.extend_from_bytes(&large);
        inner.extend_from_slice(b"b");
        inner.extend_from_bytes(&Bytes::from_static(b"c"));
        inner.extend_from_bytes(&large);
        let mut pieces = Pieces::from(b"a".to_vec());
        pieces.append(&inner);
        pieces.push(b'd');

        let slices = pieces.slices();
        let lengths: Vec<usize> = slices.iter().map(|slice| slice.len()).collect();
        assert_eq!(lengths, [1, LARGE, 2, LARGE, 1]);
        assert_eq!(slices[1].as_ptr(), large.as_ptr());
        assert_eq!(pieces.len(), 2 * LARGE + 4);
        let expected = [b"a", &large[..], b"bc", &large, b"d"].concat();
        assert_eq!(Vec::from(pieces), expected);
        assert!(Pieces::default().slices().is_empty());
    }

    #[test]
    fn what_is_cleared_holds_little_memory_and_nobody_elses() {
        let large = Bytes::from(vec![b'x'; LARGE]);
        let mut pieces = Pieces::default();
        pieces.extend_from_bytes(&large);
        pieces.extend_from_slice(&vec![b'y'; 2 * KEPT]);
        pieces.clear();
        assert!(pieces.slices().is_empty() && pieces.len() == 0);
        assert!(large.is_unique());
        assert!((1..=KEPT).contains(&pieces.small.capacity()));
    }
}
