//! Trouble that lasts, or comes by the thousand: it is reported at once, and then now and then.

use std::time::{Duration, Instant};

/// How often one kind of trouble is reported.
const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of trouble.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    reported: Option<Instant>,
}

impl Lasting {
    /// Whether it is to be reported; then it counts as reported.
    pub(crate) fn is_due(&mut self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&mut self, now: Instant) -> bool {
        let is_due = self.reported.is_none_or(|reported| now - reported >= INTERVAL);
        if is_due {
            self.reported = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_reported_at_once_and_then_once_an_interval() {
        let (mut trouble, begun) = (Lasting::default(), Instant::now());
        assert!(trouble.is_due_at(begun));
        let soon = begun + INTERVAL - Duration::from_nanos(1);
        assert!(!trouble.is_due_at(begun) && !trouble.is_due_at(soon));
        // Counted from the last report, not from the last time it was asked for.
        assert!(trouble.is_due_at(begun + INTERVAL));
        assert!(!trouble.is_due_at(soon + INTERVAL));
        assert!(trouble.is_due_at(begun + 2 * INTERVAL));
    }
}
