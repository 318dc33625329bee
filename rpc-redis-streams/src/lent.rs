//! Memory of a large value that is had again when nobody holds the value any more. New memory costs nothing until its pages are
//! touched, and then more than all that is done with what is in them.

use std::mem;

use bytes::{Bytes, BytesMut};

/// How much is kept for the next value.
const KEPT: usize = 2 << 20;

/// How many times its own size the memory of a value may have: whoever holds it holds all of that.
pub(crate) const SPACIOUS: usize = 4;

/// The largest value of late.
#[derive(Debug, Default)]
pub(crate) struct Lent(Bytes);

impl Lent {
    /// Memory for a value of `length` bytes, if there is some that suits, and nobody holds it.
    pub(crate) fn take(&mut self, length: usize) -> Option<BytesMut> {
        let suits = length..=length.saturating_mul(SPACIOUS);
        self.0 = match mem::take(&mut self.0).try_into_mut() {
            Ok(mut memory) if suits.contains(&memory.capacity()) => {
                memory.clear();
                return Some(memory);
            }
            Ok(memory) => memory.freeze(),
            Err(lent) => lent,
        };
        None
    }

    /// The value that was written to `memory`, which is kept if it is not too much.
    pub(crate) fn lend(&mut self, memory: BytesMut) -> Bytes {
        let is_kept = memory.capacity() <= KEPT && memory.len() >= self.0.len();
        let value = memory.freeze();
        if is_kept {
            self.0 = value.clone();
        }
        value
    }
}
