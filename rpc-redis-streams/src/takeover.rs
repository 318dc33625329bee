//! Taking over what dead workers leave behind: who is dead is found by the heartbeat, their work is taken by the group's
//! reader when it has room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::RedisResult;
use rpc_core::liveness::Liveness;

use crate::entry;
use crate::keys::Keys;
use crate::patience::PatientConnection;
use crate::registry::remove_registration;
use crate::resp::Value;

/// How long a consumer that never registered (a foreign one, or one that was swept too early) may sit on an entry.
const FOREIGN_IDLE: Duration = Duration::from_secs(600);

/// What one dead consumer has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Estate {
    pub(crate) consumer: String,
    /// Its last beat: if it has beaten since, it lives after all. None if it never registered.
    pub(crate) beat: Option<u64>,
    /// How long an entry must have been idle to be taken.
    pub(crate) min_idle: Duration,
}

impl Estate {
    /// Whether its consumer has said that it leaves it to others.
    pub(crate) fn is_handed_back(&self) -> bool {
        self.beat == Some(HANDED_BACK)
    }
}

/// Between the heartbeat, which knows who is dead, and the reader, which takes over.
#[derive(Debug, Default)]
pub(crate) struct Estates {
    open: Mutex<Vec<Estate>>,
    /// All workers of the group that count as dead, whether or not they have left anything.
    dead: Mutex<Vec<String>>,
    /// The client id of the connection that blocks in XREADGROUP; zero when not known.
    reader: AtomicU64,
}

impl Estates {
    pub(crate) fn open(&self) -> Vec<Estate> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing is known of the dead any more: the observer itself may have been cut off.
    pub(crate) fn clear(&self) {
        self.set(Vec::new());
        self.set_dead(Vec::new());
    }

    /// The workers of the group that count as dead.
    pub(crate) fn dead(&self) -> Vec<String> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_dead(&self, dead: Vec<String>) {
        *self.dead.lock().unwrap_or_else(PoisonError::into_inner) = dead;
    }

    fn set(&self, open: Vec<Estate>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
    }

    pub(crate) fn set_reader(&self, client_id: u64) {
        self.reader.store(client_id, Ordering::Release);
    }

    /// The client id of the reader's connection, if it is known.
    pub(crate) fn reader(&self) -> Option<u64> {
        Some(self.reader.load(Ordering::Acquire)).filter(|id| *id != 0)
    }
}

/// Finds the dead of one group, and removes them when nothing of theirs is left.
#[derive(Debug)]
pub(crate) struct Sweeper {
    keys: Keys,
    group: String,
    own: String,
    death_time: Duration,
    /// How long a dead worker's read may still block in Redis and take an entry.
    linger: Duration,
    /// Since when the dead have been seen without pending entries.
    settled: Vec<(String, Instant)>,
    deaths: Deaths,
    looked_for_foreign: Option<Instant>,
    /// Whether the last look found any; then it is looked again at each beat.
    found_foreign: bool,
}

impl Sweeper {
    pub(crate) fn new(keys: Keys, group: String, own: String, death_time: Duration, block_timeout: Duration) -> Self {
        Self {
            keys,
            group,
            own,
            death_time,
            linger: block_timeout + Duration::from_secs(1),
            settled: Vec::new(),
            deaths: Deaths::default(),
            looked_for_foreign: None,
            found_foreign: false,
        }
    }

    /// One look around, after an own beat, at all `workers` of the group and their last beats.
    ///
    /// Where somebody is dead, and every minute, XINFO CONSUMERS; and what removing the dead takes.
    pub(crate) fn sweep(
        &mut self,
        connection: &mut PatientConnection,
        workers: &[(String, u64)],
        liveness: &Liveness,
        estates: &Estates,
    ) -> RedisResult<()> {
        let dead = |name: &str| {
            let beat = workers.iter().find(|(worker, _)| worker == name)?.1;
            // A worker that left with work in hand has said so: it beats no more.
            (name != self.own).then(|| beat == HANDED_BACK || liveness.is_dead(beat))
        };
        let any_dead = workers.iter().any(|(name, _)| dead(name) == Some(true));
        let foreign_due = self
            .looked_for_foreign
            .is_none_or(|last| last.elapsed() >= Duration::from_secs(60));
        if !any_dead && !foreign_due && !self.found_foreign {
            self.settled.clear();
            estates.clear();
            return Ok(());
        }
        self.looked_for_foreign = Some(Instant::now());
        let consumers: RedisResult<Value> = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(&self.keys.requests)
            .arg(&self.group)
            .query(connection);
        let consumers: Vec<Consumer> = match consumers {
            Ok(consumers) => entry::list(consumers).into_iter().filter_map(Consumer::read).collect(),
            // The stream or the group is gone, and everything in it.
            Err(error) if error.code().is_some() => Vec::new(),
            Err(error) => return Err(error),
        };

        let beat_of = |name: &str| workers.iter().find(|(worker, _)| worker == name).map(|(_, beat)| *beat);
        let mut open = Vec::new();
        self.found_foreign = false;
        self.deaths.forget_unless(workers);
        for consumer in consumers.iter().filter(|consumer| consumer.pending > 0) {
            match (dead(&consumer.name), beat_of(&consumer.name)) {
                (Some(true), Some(beat)) => {
                    // What was handed back may be taken at once.
                    let min_idle = match beat {
                        HANDED_BACK => Duration::ZERO,
                        _ => self
                            .deaths
                            .min_idle(&self.keys.requests, consumer, beat, self.death_time, self.linger),
                    };
                    open.push(Estate {
                        consumer: consumer.name.clone(),
                        beat: Some(beat),
                        min_idle,
                    });
                }
                // Nobody counts as unregistered before this observer has watched for as long as a death takes.
                (None, None)
                    if consumer.name != self.own && consumer.idle >= FOREIGN_IDLE && liveness.is_dead(HANDED_BACK) =>
                {
                    self.found_foreign = true;
                    open.push(Estate {
                        consumer: consumer.name.clone(),
                        beat: None,
                        min_idle: FOREIGN_IDLE,
                    });
                }
                _ => {}
            }
        }
        let idle_dead: Vec<(String, u64)> = workers
            .iter()
            .filter(|(name, _)| dead(name) == Some(true) && !open.iter().any(|estate| estate.consumer == *name))
            .cloned()
            .collect();
        let reader = estates.reader().filter(|_| !open.is_empty());
        let names = workers.iter().map(|(name, _)| name);
        estates.set_dead(names.filter(|name| dead(name) == Some(true)).cloned().collect());
        // Published before the reader is woken, or it would go back to sleep.
        estates.set(open);
        if let Some(reader) = reader {
            // It may be blocked, for as long as nothing new comes. An ACL may forbid this: then it takes that long.
            let _ = redis::cmd("CLIENT").arg("UNBLOCK").arg(reader).exec(connection);
        }
        // Tidying: it is not worth a beat if Redis refuses it.
        match self.bury(connection, idle_dead) {
            Err(error) if error.code().is_none() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the dead who have had nothing pending for as long as a read of theirs could still block: a frozen worker's
    /// read can take an entry after its consumer was deleted, and recreates it.
    fn bury(&mut self, connection: &mut PatientConnection, idle_dead: Vec<(String, u64)>) -> RedisResult<()> {
        self.settled
            .retain(|(name, _)| idle_dead.iter().any(|(dead, _)| dead == name));
        for (name, beat) in idle_dead {
            match self.settled.iter().find(|(settled, _)| *settled == name) {
                None => self.settled.push((name, Instant::now())),
                Some((_, since)) if since.elapsed() >= self.linger => {
                    let removed: u64 = redis::cmd("EVAL")
                        .arg(REMOVE_DEAD_CONSUMER)
                        .arg(2)
                        .arg(&self.keys.requests)
                        .arg(self.keys.workers(&self.group))
                        .arg(&self.group)
                        .arg(&name)
                        .arg(beat)
                        .query(connection)?;
                    if removed > 0 {
                        remove_registration(connection, &self.keys, &self.group, &name)?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// Who has died with work in hand, their last beats, and since when that is known.
#[derive(Debug, Default)]
struct Deaths(Vec<(String, u64, Instant)>);

impl Deaths {
    /// Forgets those who are not among the workers any more, or have beaten since.
    fn forget_unless(&mut self, workers: &[(String, u64)]) {
        self.0
            .retain(|(name, beat, _)| workers.iter().any(|worker| worker.0 == *name && worker.1 == *beat));
    }

    /// How long what a dead worker has in hand must have been with it, on Redis's clock. That may have gone back, by more than anybody
    /// waits: of who has been known as dead for that time, and for as long as its last read may `linger`, everything may be taken. A death that is
    /// news goes to the log.
    fn min_idle(
        &mut self,
        stream: &str,
        dead: &Consumer,
        beat: u64,
        death_time: Duration,
        linger: Duration,
    ) -> Duration {
        let known = self.0.iter().find(|(name, ..)| *name == dead.name);
        let Some((.., since)) = known else {
            let (worker, entries) = (&dead.name, dead.pending);
            tracing::warn!(
                stream,
                worker,
                entries,
                "a worker has stopped beating and counts as dead; others take over the entries that it held"
            );
            self.0.push((dead.name.clone(), beat, Instant::now()));
            return death_time;
        };
        match since.elapsed() >= death_time + linger {
            true => Duration::ZERO,
            false => death_time,
        }
    }
}

/// The beat of a worker that has left with entries pending: others may take these at once.
pub(crate) const HANDED_BACK: u64 = 0;

/// Takes back the delivery of everything that is pending for a consumer, except for the entries that have begun: whoever
/// takes it over counts as the worker that it was first handed to. By one, not to zero: it may have been delivered, and
/// begun, before it came here. Not to be run twice.
///
/// JUSTID, or Redis would count this as a delivery.
pub(crate) const HAND_BACK: &str = "\
    local begun = {} \
    for i = 3, #ARGV do begun[ARGV[i]] = true end \
    local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000000, ARGV[2]) \
    if pending.err then return 0 end \
    for _, row in ipairs(pending) do \
        if not begun[row[1]] then \
            redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, row[1], \
                'RETRYCOUNT', math.max(row[4] - 1, 0), 'JUSTID') \
        end \
    end \
    return #pending";

/// Deletes a consumer that has nothing pending and has not beaten since, and its beat. In one step: DELCONSUMER destroys
/// what is pending.
pub(crate) const REMOVE_DEAD_CONSUMER: &str = "\
    local beat = redis.call('ZSCORE', KEYS[2], ARGV[2]) \
    if not beat or tonumber(beat) ~= tonumber(ARGV[3]) then return 0 end \
    local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) \
    if not pending.err then \
        if #pending > 0 then return 0 end \
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) \
    end \
    return redis.call('ZREM', KEYS[2], ARGV[2])";

struct Consumer {
    name: String,
    pending: u64,
    idle: Duration,
}

impl Consumer {
    fn read(value: Value) -> Option<Self> {
        let consumer = entry::by_name(value);
        Some(Self {
            name: entry::text(consumer.get("name")?)?,
            pending: entry::number(consumer.get("pending")?)?,
            idle: Duration::from_millis(entry::number(consumer.get("idle")?)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_dead_for_long_has_had_everything_for_as_long() {
        let death_time = Duration::from_millis(5);
        let mut deaths = Deaths::default();
        let dead = Consumer {
            name: "dead".to_owned(),
            pending: 1,
            idle: Duration::ZERO,
        };
        let began = Instant::now();
        assert_eq!(
            deaths.min_idle("calc", &dead, 7, death_time, Duration::ZERO),
            death_time
        );
        while !deaths.min_idle("calc", &dead, 7, death_time, Duration::ZERO).is_zero() {
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        assert!(began.elapsed() >= death_time);
    }
}
