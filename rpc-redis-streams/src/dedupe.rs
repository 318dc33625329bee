//! Idempotency keys in Redis: who runs the call of a key, and what it has returned.
//!
//! A key is a hash with a field for each who runs the call once: a group, or a session. The field holds
//! `running <owner> <entry>.<index>`, or the reply as it went over the wire.

use std::time::Duration;

use redis::Cmd;
use rpc_core::io::{Claim, KeyedRun, Record, UNBOUNDED_RUN};
use rpc_core::message::{Origin, Reply};
use tokio::time::Instant;

use crate::commands::ttl_ms;
use crate::destination::Destination;
use crate::error::RedisStreamsError;
use crate::pieces::Pieces;
use crate::resp::Value;
use crate::wire::{self, Decoded, Written};

/// How a claim is called in errors.
pub(crate) const COMMAND: &str = "EVAL of a claim to an idempotency key";

/// Claims a key: the reply, if there is one; 1 if the key is the caller's now; nothing if somebody who lives has it.
///
/// One step, because two may come at the same moment. A holder lives while it beats, unless the caller knows it as dead.
const CLAIM: &str = "\
    local held = redis.call('HGET', KEYS[1], ARGV[1]) \
    if held then \
        local owner, run = string.match(held, '^running (%S+) (%S+)$') \
        if not owner then return held end \
        if owner == ARGV[2] then \
            if run ~= ARGV[3] then return false end \
        else \
            local beat = redis.call('ZSCORE', KEYS[2], owner) \
            local lives = beat and tonumber(beat) > 0 \
            for i = 5, #ARGV do lives = lives and ARGV[i] ~= owner end \
            if lives then return false end \
        end \
    end \
    redis.call('HSET', KEYS[1], ARGV[1], 'running ' .. ARGV[2] .. ' ' .. ARGV[3]) \
    redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[4]), redis.call('PTTL', KEYS[1]))) \
    return 1";

/// Records a result under a key, unless another one is there already; without one, gives the key up if it is the run's.
const RECORD: &str = "\
    local held = redis.call('HGET', KEYS[1], ARGV[1]) \
    local own = 'running ' .. ARGV[2] .. ' ' .. ARGV[3] \
    if ARGV[5] == '' then \
        if held == own then redis.call('HDEL', KEYS[1], ARGV[1]) end \
    elseif not held or string.sub(held, 1, 8) == 'running ' then \
        redis.call('HSET', KEYS[1], ARGV[1], ARGV[5]) \
        local ttl = tonumber(ARGV[4]) \
        if redis.call('HLEN', KEYS[1]) > 1 then ttl = math.max(ttl, redis.call('PTTL', KEYS[1])) end \
        redis.call('PEXPIRE', KEYS[1], ttl) \
    end \
    return 1";

/// The command that claims the key of a run; `dead` are those who are known not to live.
pub(crate) fn claim(to: &Destination, run: &KeyedRun, dead: &[String]) -> Cmd {
    let left = run.deadline.map_or(UNBOUNDED_RUN, |deadline| {
        deadline.saturating_duration_since(Instant::now())
    });
    let mut command = redis::cmd("EVAL");
    command.arg(CLAIM).arg(2);
    command
        .arg(to.keys.dedupe(run.method, &run.key))
        .arg(to.keys.workers(&to.group));
    let Owner { field, name, run: id } = Owner::of(to, run);
    command.arg(field).arg(name).arg(id);
    command.arg(ttl_ms(left.min(UNBOUNDED_RUN).saturating_add(run.window)));
    command.arg(dead);
    command
}

/// What the answer to a claim says.
pub(crate) fn read(answer: Value) -> Result<Claim, RedisStreamsError> {
    match answer {
        Value::Nil => Ok(Claim::Taken),
        Value::Int(1) => Ok(Claim::Granted),
        Value::Bulk(reply) => match wire::decode([(wire::FIELD, reply)], Written::now()) {
            Ok(Decoded::Replies { mut replies, .. }) if replies.len() == 1 => {
                Ok(Claim::Done(replies.remove(0).outcome))
            }
            other => Err(RedisStreamsError::unexpected(COMMAND, other)),
        },
        other => Err(RedisStreamsError::unexpected(COMMAND, other)),
    }
}

/// The command that records how a run has ended.
pub(crate) fn record(to: &Destination, record: &Record) -> Cmd {
    let Record { run, result } = record;
    let value = result.as_ref().map(|outcome| {
        let reply = Reply {
            sequence: 0,
            outcome: outcome.clone(),
            handler_time: Duration::ZERO,
        };
        let entry = Pieces::written(|out| wire::replies(out, to.session, wire::form_of(&reply), [&reply]));
        Vec::from(entry)
    });
    let mut command = redis::cmd("EVAL");
    command.arg(RECORD).arg(1).arg(to.keys.dedupe(run.method, &run.key));
    let Owner { field, name, run: id } = Owner::of(to, run);
    command.arg(field).arg(name).arg(id).arg(ttl_ms(run.window));
    command.arg(value.unwrap_or_default());
    command
}

/// In whose name a run holds its key.
struct Owner<'a> {
    field: String,
    name: &'a str,
    run: String,
}

impl<'a> Owner<'a> {
    fn of(to: &'a Destination, run: &KeyedRun) -> Self {
        Self {
            field: match run.origin {
                Origin::Group => to.group.clone(),
                Origin::Broadcast | Origin::Direct => to.session.to_string(),
            },
            name: &to.consumer,
            run: format!("{}.{}", run.entry, run.index),
        }
    }
}
