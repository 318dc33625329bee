//! Giving way to Redis, or whoever else has to share a CPU with this process.
//!
//! Who waits on a socket is woken in the place of whoever writes to it: Redis, which has only begun with what it was sent,
//! waits while its first answers are looked at, and another CPU may have nothing to do meanwhile. Whoever lets it go on
//! first finds more in the next answer, and is woken less often. Not in a runtime of several threads: there, it is the other
//! threads of this process that would go on.

use std::thread::yield_now;
use std::time::{Duration, Instant};

use crate::turns::{is_one_thread, let_others_run};

/// With more entries of requests at once Redis has more to do than it takes to switch to it and back. Packed requests are
/// not as many.
const FEW: usize = 32;

/// Longer than Redis and those take whom it wakes. Whoever counts on is stopped by a tick of the clock, every 4 ms as a rule.
const LONG: Duration = Duration::from_millis(2);

/// How often not to give way after it took long: it may take several milliseconds each time, and saves some microseconds.
const PAUSE: u32 = 1000;

/// Gives way as long as the CPU goes to somebody who does not keep it.
#[derive(Debug, Default)]
pub(crate) struct GiveWay {
    /// How many times more not to.
    pause: u32,
}

impl GiveWay {
    /// Lets Redis go on, if it is likely to have much to do: with so many entries of requests. Blocks this thread while the CPU
    /// is somebody else's.
    pub(crate) fn let_redis_run(&mut self, entries: usize) {
        if self.is_worth_it(entries) && is_one_thread() {
            self.let_other_processes_run();
        }
    }

    /// Gives everybody as many turns who has something to do, in this runtime and on this CPU.
    pub(crate) async fn give_turns(&mut self, turns: usize) {
        for _ in 0..turns {
            if is_one_thread() {
                if self.is_due() {
                    self.let_other_processes_run();
                }
                // Unlike `let_others_run`, it has the runtime look for IO.
                tokio::task::yield_now().await;
            } else {
                let_others_run().await;
            }
        }
    }

    fn let_other_processes_run(&mut self) {
        let since = Instant::now();
        yield_now();
        self.note(since.elapsed());
    }

    fn is_worth_it(&mut self, entries: usize) -> bool {
        entries > FEW && self.is_due()
    }

    fn is_due(&mut self) -> bool {
        let is_paused = self.pause > 0;
        self.pause = self.pause.saturating_sub(1);
        !is_paused
    }

    fn note(&mut self, took: Duration) {
        if took > LONG {
            self.pause = PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_entries_are_not_worth_it() {
        let mut way = GiveWay::default();
        assert!(!way.is_worth_it(FEW));
        assert!(way.is_worth_it(FEW + 1));
    }

    #[test]
    fn whoever_keeps_the_cpu_is_not_given_it_again_soon() {
        let mut way = GiveWay::default();
        way.note(LONG);
        assert!(way.is_due());
        way.note(LONG + Duration::from_nanos(1));
        let paused = (0..2 * PAUSE).take_while(|_| !way.is_due()).count();
        assert_eq!(paused, PAUSE as usize);
        assert!(way.is_due());
    }
}
