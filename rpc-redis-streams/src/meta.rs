//! What all users of a stream must agree on: one stream, one mode.

use std::collections::HashMap;

use redis::Pipeline;
use rpc_core::{EntryId, Mode};

use crate::config::Config;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::keys::Keys;
use crate::resp::Value;
use crate::retention::Retention;

/// The version of the wire format.
pub(crate) const WIRE_VERSION: u32 = 1;

/// The oldest Redis that has all that is used (XADD NOMKSTREAM, MINID).
const OLDEST_REDIS: (u64, u64) = (6, 2);

/// The field that changes when the stream was deleted.
pub(crate) const BEGAN: &str = "began";

/// What the users of a stream have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreement {
    pub(crate) retention: Retention,
    /// Whether a server has claimed the stream; until then, one may still claim it for something else.
    pub(crate) claimed: bool,
    /// The first entry of the stream when it was last found to have been deleted and begun anew.
    pub(crate) began: Option<EntryId>,
}

/// Looks whether the server and the stream can be used as configured.
///
/// INFO, TYPE, HGETALL.
pub(crate) async fn check(
    connection: &mut Connection,
    connector: &Connector,
    config: &Config,
    keys: &Keys,
) -> Result<Agreement, RedisStreamsError> {
    let mut questions = redis::pipe();
    questions.cmd("INFO").arg("server");
    questions.cmd("TYPE").arg(&keys.requests);
    questions.cmd("HGETALL").arg(&keys.meta);
    let mut answers = connector.ask_raw(connection, "connect", &questions).await?.into_iter();
    let (info, kind, meta) = (
        answers.next().unwrap_or_default(),
        answers.next().unwrap_or_default(),
        answers.next().unwrap_or_default(),
    );
    check_version(&info, connector)?;
    check_type(&kind, keys, connector)?;
    agree(meta, config)
}

/// Looks again whether the stream is used as configured. HGETALL.
pub(crate) async fn look(
    connection: &mut Connection,
    connector: &Connector,
    config: &Config,
    keys: &Keys,
) -> Result<Agreement, RedisStreamsError> {
    let mut question = redis::pipe();
    question.cmd("HGETALL").arg(&keys.meta);
    let meta = connector
        .ask(connection, "HGETALL of the stream's meta", &question)
        .await?
        .pop();
    agree(meta.unwrap_or_default(), config)
}

/// Claims the stream for `config`'s mode and retention, unless it has been claimed.
pub(crate) async fn claim(
    connection: &mut Connection,
    connector: &Connector,
    config: &Config,
    keys: &Keys,
) -> Result<Agreement, RedisStreamsError> {
    let retention = Retention::new(config.mode(), config.max_len());
    let mut claim = redis::pipe();
    add_claim(&mut claim, keys, config.mode(), retention);
    claim.cmd("HGETALL").arg(&keys.meta);
    let meta = connector.ask(connection, "claim the stream", &claim).await?.pop();
    agree(meta.unwrap_or_default(), config)
}

/// Adds the commands by which a stream is claimed, unless it is: HSETNX, three times. Of two servers at the same time, one
/// finds the other's word.
pub(crate) fn add_claim(pipeline: &mut Pipeline, keys: &Keys, mode: Mode, retention: Retention) {
    for (field, value) in [
        ("version", WIRE_VERSION.to_string()),
        ("mode", mode.to_string()),
        ("retention", retention.to_meta()),
    ] {
        pipeline.cmd("HSETNX").arg(&keys.meta).arg(field).arg(value);
    }
}

fn check_version(info: &Value, connector: &Connector) -> Result<(), RedisStreamsError> {
    let Some(info) = entry::text(info) else {
        // An ACL may forbid INFO; what is missing will be named by the command that needs it.
        return Ok(());
    };
    let Some(version) = info.lines().find_map(|line| line.strip_prefix("redis_version:")) else {
        return Ok(());
    };
    let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST_REDIS {
        return Err(RedisStreamsError::TooOld {
            address: connector.address().to_owned(),
            version: version.to_owned(),
        });
    }
    Ok(())
}

fn check_type(kind: &Value, keys: &Keys, connector: &Connector) -> Result<(), RedisStreamsError> {
    if let Some((code, answer)) = entry::error(kind) {
        return Err(match code {
            "NOAUTH" => RedisStreamsError::Authentication {
                address: connector.address().to_owned(),
                reason: answer,
            },
            _ => RedisStreamsError::CommandRefused {
                command: "TYPE",
                answer,
            },
        });
    }
    match entry::text(kind).as_deref() {
        Some("stream" | "none") => Ok(()),
        Some(found) => Err(RedisStreamsError::WrongType {
            key: keys.requests.clone(),
            found: found.to_owned(),
        }),
        None => Err(RedisStreamsError::unexpected("TYPE", kind)),
    }
}

/// Compares what the stream is used for with what is configured; an unclaimed stream agrees with everything.
fn agree(meta: Value, config: &Config) -> Result<Agreement, RedisStreamsError> {
    if let Some((_, answer)) = entry::error(&meta) {
        let command = "HGETALL of the stream's meta";
        return Err(RedisStreamsError::CommandRefused { command, answer });
    }
    let meta: HashMap<String, String> = entry::by_name(meta)
        .into_iter()
        .filter_map(|(field, value)| Some((field, entry::text(&value)?)))
        .collect();
    let stream = || config.stream().to_owned();
    if let Some(found) = meta.get("version")
        && *found != WIRE_VERSION.to_string()
    {
        return Err(RedisStreamsError::WireVersion {
            stream: stream(),
            found: found.clone(),
            known: WIRE_VERSION,
        });
    }
    if let Some(found) = meta.get("mode")
        && *found != config.mode().to_string()
    {
        return Err(RedisStreamsError::ModeMismatch {
            stream: stream(),
            found: found.clone(),
            wanted: config.mode(),
        });
    }
    let wanted = Retention::new(config.mode(), config.max_len());
    let began = meta.get(BEGAN).and_then(|id| id.parse().ok());
    let agreed = |retention, claimed| {
        Ok(Agreement {
            retention,
            claimed,
            began,
        })
    };
    match meta.get("retention").map(|text| (text, Retention::from_meta(text))) {
        None => agreed(wanted, false),
        // Who asks for nothing follows the stream.
        Some((_, Some(found))) if found == wanted || config.max_len().is_none() => agreed(found, true),
        Some((found, _)) => Err(RedisStreamsError::RetentionMismatch {
            stream: stream(),
            found: found.clone(),
            wanted: wanted.to_meta(),
        }),
    }
}

/// The settled floor, where a group that joins later starts: whatever is before it may be trimmed.
pub(crate) async fn floor(
    connection: &mut Connection,
    connector: &Connector,
    keys: &Keys,
) -> Result<Option<EntryId>, RedisStreamsError> {
    let mut question = redis::pipe();
    question.cmd("HGET").arg(&keys.meta).arg("floor");
    let answer = connector
        .ask(connection, "HGET of the settled floor", &question)
        .await?
        .pop();
    Ok(answer.as_ref().and_then(entry::id))
}
