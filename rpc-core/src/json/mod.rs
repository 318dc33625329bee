//! JSON as `serde_json` writes and reads it, but faster where a value is one long text.
//!
//! `serde_json` looks at a text byte by byte, or by eights, for what is escaped in it, which takes longer than all copies of a
//! large payload together. So a value that is a text is written and read here, and everything else there.

mod read;
mod write;

pub(crate) use read::read;
pub(crate) use write::{Sequence, write};

/// How many bytes are looked at in one go: a few vector registers.
const BLOCK: usize = 64;

/// Whether one of the bytes of a block is not written as it is.
#[inline]
fn has_escaped(block: &[u8; BLOCK]) -> bool {
    // Without a branch, and of a length that is known, so that it is done many bytes at a time.
    block.iter().fold(false, |found, byte| found | is_escaped(*byte))
}

fn is_escaped(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}
