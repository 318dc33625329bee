//! How far a stream has been read.

use std::sync::{Mutex, PoisonError};

use rpc_core::EntryId;

/// The id of the last entry that has been read; set by whoever opens the stream, moved on by whoever reads it.
#[derive(Debug, Default)]
pub(crate) struct Cursor(Mutex<EntryId>);

impl Cursor {
    pub(crate) fn get(&self) -> EntryId {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, id: EntryId) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }
}
