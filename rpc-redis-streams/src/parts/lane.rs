//! The way that parts take: a connection of their own, so that nothing else has to wait until one of them is through.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{self, Semaphore};
use tokio::time::Instant;

use crate::commands::Commands;
use crate::connection::{Broken, Connection, WRITE_LIMIT};
use crate::give_way::GiveWay;
use crate::lent::Lent;
use crate::outbox::Outbox;
use crate::resp::Value;
use crate::shared::Shared;

/// How many payloads are on their way at once, each way: the others wait, so that these come in time and little memory is held by
/// halves.
const AT_ONCE: usize = 2;

/// How many parts of one payload are carried before it is another's turn.
const RUN: usize = 16;

/// How many parts are under way at once: Redis finds the next one when it is done with one.
const WINDOW: usize = 2;

/// The same where Redis has never answered sooner than that: it is the way that takes the time.
const WINDOW_FAR: usize = 16;
const FAR: Duration = Duration::from_millis(5);

/// How often others have their turn after each piece of work. What small calls need takes a few, on their way there and back, and they
/// are to be through before the next piece.
const TURNS: usize = 12;

/// The same where nothing else was sent for a while. There may still be other processes.
const TURNS_ALONE: usize = 4;
const ALONE: Duration = Duration::from_millis(1);

/// How long payloads are sent whole after Redis has not taken one in parts.
const WHOLE: Duration = Duration::from_secs(5);

/// How the parts of one channel are carried.
pub(crate) struct Lane {
    /// Held by each payload that is on its way to Redis, or from there.
    pub(super) writing: Semaphore,
    pub(super) fetching: Semaphore,
    /// Opened when it is first needed, and held by whoever has parts under way.
    connection: sync::Mutex<Option<Connection>>,
    /// Held by whoever lets others go first, so that no two pieces of work follow each other.
    way: sync::Mutex<Way>,
    /// The shortest time in which Redis has answered something small, in microseconds.
    nearest: AtomicU64,
    /// When Redis has last refused one: an ACL may forbid it, say.
    refused: Mutex<Option<Instant>>,
    lent: Mutex<Lent>,
}

/// How others go first.
#[derive(Default)]
struct Way {
    give_way: GiveWay,
    /// How many messages there had been, and since when there were no others.
    appended: u64,
    since: Option<Instant>,
}

impl Way {
    /// How often others are to have their turn, after so many messages.
    fn turns(&mut self, appended: u64, now: Instant) -> usize {
        let since = match self.since.filter(|_| appended == self.appended) {
            Some(since) => since,
            None => *self.since.insert(now),
        };
        self.appended = appended;
        if now - since < ALONE { TURNS } else { TURNS_ALONE }
    }
}

/// How far the parts of a payload have come.
pub(super) struct Carried {
    /// The first one for which nothing was asked.
    pub(super) asked: usize,
    /// The first one that was not taken.
    pub(super) done: usize,
    pub(super) end: Option<End>,
}

/// Why not all parts were carried.
pub(super) enum End {
    /// It was not to go on.
    Unwanted,
    /// What Redis has answered.
    Refused(String),
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            writing: Semaphore::new(AT_ONCE),
            fetching: Semaphore::new(AT_ONCE),
            connection: sync::Mutex::default(),
            way: sync::Mutex::default(),
            nearest: AtomicU64::new(u64::MAX),
            refused: Mutex::default(),
            lent: Mutex::default(),
        }
    }
}

/// A connection, however long it takes; or why there is none.
async fn connect(io: &Shared, may_go_whole: bool) -> Result<Connection, String> {
    match io.connector.connect_again("parts").await {
        Ok(connection) => Ok(connection),
        Err(error) if may_go_whole && !io.connector.is_missing("writer") => Err(error.to_string()),
        Err(_) => Ok(io.connector.reconnect("parts").await),
    }
}

impl Lane {
    /// Asks for the next of these parts, as many as there are in a run, what `command` says, in order, and has `take` take the answers, until one of them says that
    /// it is not to go on.
    ///
    /// For as long as it takes: what was not answered is asked again when the connection is lost. Unless they `may_go_whole`: then not if
    /// no connection is to be had, although there is one for everything else (`maxclients`, say).
    pub(super) async fn carry(
        &self,
        io: &Shared,
        may_go_whole: bool,
        parts: Range<usize>,
        command: impl Fn(usize) -> Option<Commands>,
        mut take: impl FnMut(Value) -> bool,
    ) -> Carried {
        let mut slot = self.connection.lock().await;
        // Taken out while in use: whoever is dropped in here leaves none behind that could give his answers to another.
        let mut carried = Carried {
            asked: parts.start,
            done: parts.start,
            end: None,
        };
        let mut held = slot.take();
        let until = parts.end.min(parts.start + RUN);
        loop {
            let mut connection = match held.take() {
                Some(connection) => connection,
                None => match connect(io, may_go_whole).await {
                    Ok(connection) => connection,
                    Err(why) => {
                        carried.end = Some(End::Refused(why));
                        return carried;
                    }
                },
            };
            let run = self.run(&io.outbox, &mut connection, until, &mut carried, &command, &mut take);
            match run.await {
                // What refuses to write may have become a replica: another server is to be found behind the address.
                Ok(()) if matches!(carried.end, Some(End::Refused(_))) => return carried,
                Ok(()) => {
                    *slot = Some(connection);
                    return carried;
                }
                Err(broken) => tracing::debug!(%broken, "the connection for parts is lost"),
            }
            if carried.end.is_some() {
                return carried;
            }
        }
    }

    /// The same on this connection, up to the part `until`; fails if the connection is lost.
    async fn run(
        &self,
        outbox: &Outbox,
        connection: &mut Connection,
        until: usize,
        carried: &mut Carried,
        command: impl Fn(usize) -> Option<Commands>,
        mut take: impl FnMut(Value) -> bool,
    ) -> Result<(), Broken> {
        let (mut next, mut answered) = (carried.done, carried.done);
        loop {
            while carried.end.is_none() && next < until.min(answered + self.window()) {
                let Some(commands) = command(next) else {
                    carried.end = Some(End::Unwanted);
                    break;
                };
                next += 1;
                carried.asked = carried.asked.max(next);
                connection.send(commands.pieces(), WRITE_LIMIT).await?;
                self.let_others_go_first(outbox).await;
            }
            if answered == next {
                return Ok(());
            }
            for answer in connection.receive(1, WRITE_LIMIT).await? {
                answered += 1;
                // The others are received all the same: the connection is to be used again.
                if carried.end.is_none() {
                    carried.end = match answer {
                        Value::Error(why) => Some(End::Refused(why)),
                        part => (!take(part)).then_some(End::Unwanted),
                    };
                    carried.done += usize::from(carried.end.is_none());
                }
            }
            self.let_others_go_first(outbox).await;
        }
    }

    /// To be called between pieces of work that take long.
    pub(super) async fn let_others_go_first(&self, outbox: &Outbox) {
        let mut way = self.way.lock().await;
        let turns = way.turns(outbox.appended(), Instant::now());
        way.give_way.give_turns(turns).await;
    }

    /// Redis has answered something small that was written `since`.
    pub(crate) fn note_answered(&self, since: Instant) {
        // Most are near, and know that after one look at the clock.
        if u128::from(self.nearest.load(Ordering::Relaxed)) >= FAR.as_micros() {
            let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.nearest.fetch_min(took, Ordering::Relaxed);
        }
    }

    fn window(&self) -> usize {
        let nearest = self.nearest.load(Ordering::Relaxed);
        match nearest != u64::MAX && u128::from(nearest) >= FAR.as_micros() {
            true => WINDOW_FAR,
            false => WINDOW,
        }
    }

    pub(super) fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused().is_some_and(|last| last.elapsed() < WHOLE)
    }

    pub(super) fn refuse(&self) {
        *self.refused() = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_parts_are_under_way_unless_redis_is_far() {
        let (lane, since) = (Lane::default(), Instant::now());
        assert_eq!(lane.window(), WINDOW, "not known");
        tokio::time::advance(2 * FAR).await;
        lane.note_answered(since);
        assert_eq!(lane.window(), WINDOW_FAR);
        lane.note_answered(Instant::now());
        lane.note_answered(since);
        assert_eq!(lane.window(), WINDOW);
    }

    /// What is asked of a Redis that answers so, and how far it comes.
    async fn carried(lane: &Lane, connection: &mut Connection, answers: &[u8], redis: &mut DuplexStream) -> Carried {
        redis.write_all(answers).await.unwrap();
        let mut carried = Carried {
            asked: 0,
            done: 0,
            end: None,
        };
        let get = |number: usize| {
            let mut get = Commands::default();
            get.command("GET", 1).arg(number.to_string());
            Some(get)
        };
        let take = |part: Value| part != Value::Nil;
        let outbox = Outbox::default();
        let run = lane.run(&outbox, connection, 4, &mut carried, get, take).await;
        assert!(run.is_ok());
        carried
    }

    #[tokio::test]
    async fn what_ends_a_run_leaves_no_answer_behind() {
        let (lane, (socket, mut redis)) = (Lane::default(), duplex(1 << 10));
        let mut connection = Connection::new(Box::new(socket));
        let all = carried(&lane, &mut connection, &b"$1\r\nx\r\n".repeat(4), &mut redis).await;
        assert!(matches!((all.asked, all.done, all.end), (4, 4, None)));

        let answers = b"$1\r\nx\r\n-LOADING it\r\n$1\r\nx\r\n";
        let refused = carried(&lane, &mut connection, answers, &mut redis).await;
        assert_eq!((refused.asked, refused.done), (3, 1));
        assert!(matches!(refused.end, Some(End::Refused(why)) if why == "LOADING it"));

        let gone = carried(&lane, &mut connection, b"$-1\r\n$1\r\nx\r\n", &mut redis).await;
        assert!(matches!((gone.asked, gone.done, gone.end), (2, 0, Some(End::Unwanted))));
        let all = carried(&lane, &mut connection, &b"$1\r\nx\r\n".repeat(4), &mut redis).await;
        assert_eq!(all.done, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn others_have_more_turns_until_none_have_been_about_for_a_while() {
        let mut way = Way::default();
        let begun = Instant::now();
        assert_eq!(way.turns(7, begun), TURNS, "not known");
        assert_eq!(way.turns(7, begun + ALONE), TURNS_ALONE);
        assert_eq!(way.turns(8, begun + ALONE), TURNS);
        assert_eq!(way.turns(8, begun + ALONE + ALONE / 2), TURNS);
        assert_eq!(way.turns(8, begun + 2 * ALONE), TURNS_ALONE);
    }
}
