//! Staying awake for replies that are about to come: to wake a thread, and a CPU that has fallen asleep, can take longer than
//! Redis and a worker take for a call.
//!
//! While few calls are in flight, a task of the channel yields over and over, so that its runtime looks for IO instead of
//! sleeping until there is some. In a runtime of several threads another one would sleep for the IO and be woken all the
//! same, so that nothing is polled there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rpc_core::EntryId;
use rpc_core::io::Endpoint;
use tokio::sync::Mutex;
use tokio::task::yield_now;

use crate::shared::Shared;
use crate::turns::is_one_thread;

/// For how long the replies of so few calls are waited for: several times what a call takes where the server is near.
const PATIENCE: Duration = Duration::from_micros(300);
const FEW: usize = 32;

/// For how long with some more: something comes so often that a short while is enough. With many, the CPU time that polling
/// takes is missed elsewhere.
const SHORT_PATIENCE: Duration = Duration::from_micros(60);
const SOME: usize = 64;

/// So many losses in a row turn it off for 2^7 - 1 waits.
const MOST_LOSSES: u32 = 7;

/// Held by the one channel of this process that polls: one thread that is awake is enough.
static POLLING: Mutex<()> = Mutex::const_new(());

/// Polls whenever it is likely to pay, until the IO is stopped.
pub(crate) async fn run(io: Arc<Shared>, endpoint: Arc<dyn Endpoint>) {
    if !io.config.busy_poll() || !is_one_thread() || !cfg!(target_os = "linux") {
        return;
    }
    let poll = async {
        let mut odds = Odds::default();
        loop {
            io.replies_expected.notified().await;
            if odds.are_good()
                && let Ok(_polling) = POLLING.try_lock()
            {
                poll(&io, &*endpoint, &mut odds).await;
            }
        }
    };
    io.stopped.run_until_cancelled(poll).await;
}

/// Keeps the runtime awake while replies come soon.
async fn poll(io: &Shared, endpoint: &dyn Endpoint, odds: &mut Odds) {
    let begin = || Wait {
        read: io.inbox_cursor.get(),
        since: Instant::now(),
        worked: worked(),
    };
    let mut wait = begin();
    // Without a verdict where nothing is in flight any more: what was waited for has come.
    while let Some(patience) = patience(endpoint.in_flight()) {
        // `yield_now` and not `let_others_run`: it has the runtime look for IO each time.
        yield_now().await;
        // Whoever has nothing to do but wait is not to keep Redis or a worker from this CPU.
        std::thread::yield_now();
        match wait.look(patience, io.inbox_cursor.get(), Instant::now(), worked) {
            Look::Nothing => {}
            Look::Won => {
                odds.won();
                wait = begin();
            }
            // A short while costs little, and says little.
            Look::Lost if patience < PATIENCE => return,
            Look::Lost => return odds.lost(),
        }
    }
}

/// How long to wait for the next replies with so many calls in flight, if at all.
fn patience(in_flight: usize) -> Option<Duration> {
    match in_flight {
        1..=FEW => Some(PATIENCE),
        0 => None,
        _ => (in_flight <= SOME).then_some(SHORT_PATIENCE),
    }
}

/// How much CPU time this thread has taken; always the same where the system does not tell, so that no wait is won.
fn worked() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use nix::time::{ClockId, clock_gettime};
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}

/// One wait for replies.
#[derive(Debug)]
struct Wait {
    /// How far the inbox had been read, when, and after how much CPU time of this thread.
    read: EntryId,
    since: Instant,
    worked: Duration,
}

/// How a wait goes.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    Won,
    Lost,
}

impl Wait {
    /// The inbox has been read up to `read`. The wait is won if that is further than before, and lost if it takes too long, or
    /// others had the CPU for most of it: they need it more, and where nobody sleeps nobody has to be kept awake.
    fn look(&self, patience: Duration, read: EntryId, now: Instant, worked: impl FnOnce() -> Duration) -> Look {
        let waited = now - self.since;
        if read == self.read {
            return if waited < patience { Look::Nothing } else { Look::Lost };
        }
        let ours = worked().saturating_sub(self.worked);
        if 2 * ours >= waited { Look::Won } else { Look::Lost }
    }
}

/// Whether to poll the next time: what is lost more often than it is won is tried ever more rarely, so that it costs next to
/// nothing where replies take their time.
#[derive(Debug, Default)]
struct Odds {
    losses: u32,
    /// How many waits are slept through.
    skipped: u32,
}

impl Odds {
    fn are_good(&mut self) -> bool {
        match self.skipped.checked_sub(1) {
            Some(left) => {
                self.skipped = left;
                false
            }
            None => true,
        }
    }

    fn won(&mut self) {
        self.losses = self.losses.saturating_sub(1);
    }

    fn lost(&mut self) {
        self.losses = MOST_LOSSES.min(self.losses + 1);
        self.skipped = (1 << self.losses) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: EntryId = EntryId { ms: 1, seq: 0 };
    const AFTER: EntryId = EntryId { ms: 1, seq: 1 };

    /// After `waited` microseconds, of which this thread has had the CPU for `worked`.
    fn look(read: EntryId, waited: u64, worked: u64) -> Look {
        let since = Instant::now();
        let wait = Wait {
            read: BEFORE,
            since,
            worked: Duration::from_micros(7),
        };
        let worked = Duration::from_micros(7 + worked);
        wait.look(PATIENCE, read, since + Duration::from_micros(waited), || worked)
    }

    #[test]
    fn a_wait_is_won_by_a_reply_and_lost_by_time_and_by_those_who_need_the_cpu() {
        assert_eq!(look(BEFORE, 299, 299), Look::Nothing);
        assert_eq!(look(BEFORE, 300, 300), Look::Lost);
        assert_eq!(look(AFTER, 100, 100), Look::Won);
        assert_eq!(look(AFTER, 100, 50), Look::Won);
        assert_eq!(look(AFTER, 100, 49), Look::Lost);
        assert_eq!(look(AFTER, 0, 0), Look::Won, "it had come already");
    }

    #[test]
    fn the_more_calls_are_in_flight_the_less_it_is_worth() {
        let patiences = [0, 1, FEW, FEW + 1, SOME, SOME + 1].map(patience);
        let (long, short) = (Some(PATIENCE), Some(SHORT_PATIENCE));
        assert_eq!(patiences, [None, long, long, short, short, None]);
    }

    #[test]
    fn what_is_lost_again_and_again_is_hardly_tried() {
        let mut odds = Odds::default();
        let tries = |odds: &mut Odds, waits| {
            (0..waits)
                .filter(|_| odds.are_good().then(|| odds.lost()).is_some())
                .count()
        };
        assert_eq!(tries(&mut odds, 1 << MOST_LOSSES), 7);
        assert!(tries(&mut odds, 100 << MOST_LOSSES) <= 101);
    }

    #[test]
    fn it_is_tried_each_time_again_when_it_has_been_won_often_enough() {
        let mut odds = Odds::default();
        (0..100).for_each(|_| odds.lost());
        let mut waits = 0;
        while odds.losses > 0 {
            waits += 1;
            if odds.are_good() {
                odds.won();
            }
        }
        assert!(waits < 2 << MOST_LOSSES, "{waits}");
        assert!(odds.are_good());
        odds.lost();
        assert!(!odds.are_good());
        assert!(odds.are_good(), "one loss costs one wait");
    }
}
