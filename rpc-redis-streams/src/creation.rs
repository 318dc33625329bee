//! Creating the group, for the first time or anew.
//!
//! A group that is destroyed forgets which of its entries were handed out. It is created again where everything before is
//! known to be settled, so nothing is lost; but what lies between there and the end of the stream may have run. The id of
//! that end, the *boundary*, stands in `meta`, written by the very script that creates the group. Whoever reads an entry up
//! to the boundary must know of it before he runs it, and he need not have noticed anything: one worker creates the group
//! between two reads of another one. So each read of the group asks for the boundary in the same write. Asked *after* an
//! entry was handed out, the answer is never too old for it.

use rpc_core::EntryId;

use crate::connection::Connection;
use crate::connector::Connector;
use crate::destination::Destination;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::meta;
use crate::resp::Value;

/// How often to begin anew because the floor has moved meanwhile: it does about once a second.
const TRIES: usize = 5;

/// The field of `meta` that holds the boundary of a group. It is there as long as the group has ever been.
pub(crate) fn boundary_field(group: &str) -> String {
    format!("repeats:{group}")
}

/// The question for the boundary: HGET.
pub(crate) fn ask_boundary(to: &Destination) -> redis::Cmd {
    let mut question = redis::cmd("HGET");
    question.arg(&to.keys.meta).arg(boundary_field(&to.group));
    question
}

/// A group is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creation {
    /// Whether it was not there before.
    pub(crate) created: bool,
    /// Entries up to here may have run before the group was created.
    pub(crate) boundary: EntryId,
}

/// Creates the group, and the stream if need be, unless it exists. It starts at the settled floor; at zero when the stream
/// has none, so that what was sent before the first worker came is run. Never at the end.
///
/// HGET, and EVAL of HGET, XINFO STREAM, XGROUP CREATE and HSET.
pub(crate) async fn create_group(
    connection: &mut Connection,
    connector: &Connector,
    to: &Destination,
) -> Result<Creation, RedisStreamsError> {
    const COMMAND: &str = "EVAL of XGROUP CREATE";
    let mut answer = Value::Nil;
    for _ in 0..TRIES {
        let floor = meta::floor(connection, connector, &to.keys).await?;
        let text = |id: Option<EntryId>| id.map_or_else(String::new, |id| id.to_string());
        let mut create = redis::pipe();
        create
            .cmd("EVAL")
            .arg(CREATE)
            .arg(2)
            .arg(&to.keys.requests)
            .arg(&to.keys.meta);
        create.arg(&to.group).arg(boundary_field(&to.group)).arg(text(floor));
        // A group reads what comes after its start.
        create.arg(text(floor.map(EntryId::previous)));
        answer = connector
            .ask(connection, COMMAND, &create)
            .await?
            .pop()
            .unwrap_or_default();
        let parts = entry::list(answer.clone());
        if let [created, boundary] = &parts[..]
            && let (Some(created), Some(boundary)) = (entry::number(created), entry::id(boundary))
        {
            let created = created == 1;
            return Ok(Creation { created, boundary });
        }
    }
    Err(RedisStreamsError::unexpected(COMMAND, answer))
}

/// Returns nothing if the floor is not what was asked with.
///
/// A floor that lies beyond the end of the stream is that of another stream, which had the same name. Where what lay at the
/// floor, or just before it, is gone, the stream was deleted and not only its group (trimming leaves that alone): it is noted
/// for those whose calls went with it, by an id that is another one each time.
const CREATE: &str = "\
    local function beyond(a, b) \
        local am, as = string.match(a, '(%d+)-(%d+)') \
        local bm, bs = string.match(b, '(%d+)-(%d+)') \
        if am ~= bm then return #am > #bm or #am == #bm and am > bm end \
        return #as > #bs or #as == #bs and as > bs \
    end \
    if (redis.call('HGET', KEYS[2], 'floor') or '') ~= ARGV[3] then return {} end \
    local last, first = '0-0', '0-0' \
    local stream = redis.pcall('XINFO', 'STREAM', KEYS[1]) \
    for i = 1, #stream, 2 do \
        if stream[i] == 'last-generated-id' then last = stream[i + 1] end \
        if stream[i] == 'first-entry' and stream[i + 1] then first = stream[i + 1][1] end \
    end \
    local start = '0-0' \
    if ARGV[4] ~= '' and not beyond(ARGV[4], last) then start = ARGV[4] end \
    local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM') \
    if created.err then \
        if not string.find(created.err, 'BUSYGROUP', 1, true) then return created end \
        redis.call('HSETNX', KEYS[2], ARGV[2], '0-0') \
        return {0, redis.call('HGET', KEYS[2], ARGV[2])} \
    end \
    local known = redis.call('HGET', KEYS[2], ARGV[2]) \
    redis.call('HSET', KEYS[2], ARGV[2], known and last or '0-0') \
    if known and (first == '0-0' or ARGV[3] ~= '' and beyond(first, ARGV[3])) then \
        local now = redis.call('TIME') \
        redis.call('HSET', KEYS[2], 'began', first ~= '0-0' and first or now[1] .. '-' .. now[2]) \
    end \
    return {1, redis.call('HGET', KEYS[2], ARGV[2])}";
