//! Memory of a large value that is had again when nobody holds the value any more. New memory costs nothing until its pages are
//! touched, and then more than all that is done with what is in them.

use std::hint::black_box;
use std::mem;
use std::sync::Once;

use bytes::{Bytes, BytesMut};

/// How much is kept for the next value.
const KEPT: usize = 2 << 20;

/// How many times its own size the memory of a value may have: whoever holds it holds all of that.
pub(crate) const SPACIOUS: usize = 4;

/// From so many bytes on, glibc gives freed memory back to the system.
const GIVEN_BACK: usize = 128 << 10;

/// What is freed at once, so that glibc keeps up to twice as much of what is freed from then on.
const RETAINED: usize = 4 << 20;

/// Has the allocator keep the memory of values that are not ours to lend, such as what a handler is given: long texts.
///
/// The allocator of glibc gives freed memory back to the system, and learns by what it has seen freed, up to 32 MiB, that this is
/// not worth it. By the values alone it learns just too little: the pages of MiB-sized ones were new for each call, which took
/// four times as long as reading and writing them. Other allocators make nothing of it.
pub(crate) fn retain_freed_memory() {
    static RETAIN: Once = Once::new();
    // Nothing touches it, so that it never costs a page.
    RETAIN.call_once(|| drop(black_box(Vec::<u8>::with_capacity(RETAINED))));
}

/// The largest value of late.
#[derive(Debug, Default)]
pub(crate) struct Lent(Bytes);

impl Lent {
    /// Memory for a value of `length` bytes, if there is some that suits, and nobody holds it.
    pub(crate) fn take(&mut self, length: usize) -> Option<BytesMut> {
        if length >= GIVEN_BACK {
            retain_freed_memory();
        }
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
