//! Saying rarely what happens often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How often the same kind of trouble may be reported.
const INTERVAL: Duration = Duration::from_secs(5);

/// One kind of trouble.
#[derive(Debug, Default)]
pub(crate) struct Rarely {
    reported: Mutex<Option<Instant>>,
    unreported: AtomicU64,
}

impl Rarely {
    /// It has happened: how often it has since it was last reported, if it is to be reported now.
    pub(crate) fn due(&self) -> Option<u64> {
        let happened = self.unreported.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|last| now - last < INTERVAL) {
            return None;
        }
        *reported = Some(now);
        self.unreported.fetch_sub(happened, Ordering::Relaxed);
        Some(happened)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_line_with_its_size() {
        let trouble = Rarely::default();
        assert_eq!(trouble.due(), Some(1));
        assert!((0..99).all(|_| trouble.due().is_none()));
        advance(INTERVAL).await;
        assert_eq!(trouble.due(), Some(100));
        assert_eq!(trouble.due(), None);
    }
}
