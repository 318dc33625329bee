//! Taking over what dead workers leave behind: who is dead is found by the heartbeat, their work is taken by the group's
//! reader when it has room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{RedisResult, Value};
use rpc_core::liveness::Liveness;

use crate::entry;
use crate::keys::Keys;
use crate::registry::{DEATH, remove_registration, scores};

/// How long a consumer that never registered (a foreign one, or one that was swept too early) may sit on an entry.
const FOREIGN_IDLE: Duration = Duration::from_secs(600);

/// Between the heartbeat, which knows who is dead, and the reader, which takes over.
#[derive(Debug, Default)]
pub(crate) struct Estates {
    /// Consumers with pending entries, and how long an entry must have been idle to be taken from them.
    open: Mutex<Vec<(String, Duration)>>,
    /// The client id of the connection that blocks in XREADGROUP; zero when not known.
    reader: AtomicU64,
}

impl Estates {
    pub(crate) fn open(&self) -> Vec<(String, Duration)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, open: Vec<(String, Duration)>) {
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
    /// How long a dead worker's read may still block in Redis and take an entry.
    linger: Duration,
    /// Since when the dead have been seen without pending entries.
    settled: Vec<(String, Instant)>,
    looked_for_foreign: Option<Instant>,
}

impl Sweeper {
    pub(crate) fn new(keys: Keys, group: String, own: String, block_timeout: Duration) -> Self {
        Self {
            keys,
            group,
            own,
            linger: block_timeout + Duration::from_secs(1),
            settled: Vec::new(),
            looked_for_foreign: None,
        }
    }

    /// One look around, after an own beat. ZRANGE; where somebody is dead, and every minute, XINFO CONSUMERS; and what
    /// removing the dead takes.
    pub(crate) fn sweep(
        &mut self,
        connection: &mut redis::Connection,
        liveness: &Liveness,
        estates: &Estates,
    ) -> RedisResult<()> {
        let workers: Value = redis::cmd("ZRANGE")
            .arg(self.keys.workers(&self.group))
            .arg(0)
            .arg(-1)
            .arg("WITHSCORES")
            .query(connection)?;
        let workers = scores(workers);
        let dead = |name: &str| {
            let beat = workers.iter().find(|(worker, _)| worker == name)?.1;
            // A worker that left with work in hand has said so: it beats no more.
            (name != self.own).then(|| beat == HANDED_BACK || liveness.is_dead(beat))
        };
        let any_dead = workers.iter().any(|(name, _)| dead(name) == Some(true));
        let foreign_due = self
            .looked_for_foreign
            .is_none_or(|last| last.elapsed() >= Duration::from_secs(60));
        if !any_dead && !foreign_due {
            self.settled.clear();
            estates.set(Vec::new());
            return Ok(());
        }
        self.looked_for_foreign = Some(Instant::now());
        let consumers: Value = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(&self.keys.requests)
            .arg(&self.group)
            .query(connection)?;
        let consumers: Vec<Consumer> = entry::list(consumers).into_iter().filter_map(Consumer::read).collect();

        let mut open = Vec::new();
        for consumer in consumers.iter().filter(|consumer| consumer.pending > 0) {
            match dead(&consumer.name) {
                Some(true) => open.push((consumer.name.clone(), self.min_idle(&workers, &consumer.name))),
                None if consumer.name != self.own && consumer.idle >= FOREIGN_IDLE => {
                    open.push((consumer.name.clone(), FOREIGN_IDLE));
                }
                _ => {}
            }
        }
        let idle_dead: Vec<String> = workers
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| dead(name) == Some(true) && !open.iter().any(|(busy, _)| busy == name))
            .collect();
        self.bury(connection, idle_dead)?;
        if !open.is_empty()
            && let Some(reader) = estates.reader()
        {
            // It may be blocked, for as long as nothing new comes.
            redis::cmd("CLIENT").arg("UNBLOCK").arg(reader).exec(connection)?;
        }
        estates.set(open);
        Ok(())
    }

    /// Idle for less than that, an entry may have been claimed by a rival just now. What was handed back may be taken at
    /// once.
    fn min_idle(&self, workers: &[(String, u64)], name: &str) -> Duration {
        let handed_back = workers
            .iter()
            .any(|(worker, beat)| worker == name && *beat == HANDED_BACK);
        if handed_back { Duration::ZERO } else { DEATH }
    }

    /// Removes the dead who have had nothing pending for as long as a read of theirs could still block: a frozen worker's
    /// read can take an entry after its consumer was deleted, and recreates it.
    fn bury(&mut self, connection: &mut redis::Connection, idle_dead: Vec<String>) -> RedisResult<()> {
        self.settled.retain(|(name, _)| idle_dead.contains(name));
        for name in idle_dead {
            match self.settled.iter().find(|(settled, _)| *settled == name) {
                None => self.settled.push((name, Instant::now())),
                Some((_, since)) if since.elapsed() >= self.linger => {
                    remove_registration(connection, &self.keys, &self.group, &name)?;
                    redis::cmd("EVAL")
                        .arg(REMOVE_DEAD_CONSUMER)
                        .arg(2)
                        .arg(&self.keys.requests)
                        .arg(self.keys.workers(&self.group))
                        .arg(&self.group)
                        .arg(&name)
                        .exec(connection)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The beat of a worker that has left with entries pending: others may take these at once.
pub(crate) const HANDED_BACK: u64 = 0;

/// Deletes a consumer that has nothing pending, and its beat. In one step: DELCONSUMER destroys what is pending.
pub(crate) const REMOVE_DEAD_CONSUMER: &str = "\
    if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end \
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) \
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
