//! Who serves the stream: what a server writes about itself, and how others read it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use redis::{Cmd, Pipeline};
use rpc_core::io::Peer;
use rpc_core::{Mode, SessionId};
use serde::{Deserialize, Serialize};

use crate::connection::Connection;
use crate::connector::Connector;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::keys::Keys;
use crate::patience::PatientConnection;
use crate::resp::Value;
use crate::takeover::HANDED_BACK;

/// How long the registry outlives the last server.
const REGISTRY_TTL: Duration = Duration::from_secs(3600);

/// How long a subscriber is listed after its death. A dead worker stays until its pending entries have been taken over.
const DEAD_SUBSCRIBER_TTL: Duration = Duration::from_secs(60);

/// What a server says of itself: the JSON in the hash of servers, under its session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Registration {
    session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<String>,
    services: Vec<String>,
    version: String,
}

impl Registration {
    pub(crate) fn new(session: SessionId, mode: Mode, group: &str, consumer: &str, services: Vec<String>) -> Self {
        let in_group = |name: &str| (mode == Mode::Group).then(|| name.to_owned());
        Self {
            session,
            group: in_group(group),
            consumer: in_group(consumer),
            services,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The name under which it beats: the session is unique, but the consumer is what others find in the group.
    pub(crate) fn name(&self) -> String {
        self.consumer.clone().unwrap_or_else(|| self.session.to_string())
    }

    /// The sorted set in which its beats are.
    pub(crate) fn beats(&self, keys: &Keys) -> String {
        match &self.group {
            Some(group) => keys.workers(group),
            None => keys.subscribers.clone(),
        }
    }

    /// The question for the last beat under its name: ZSCORE.
    pub(crate) fn ask_last_beat(&self, keys: &Keys) -> Cmd {
        let mut question = redis::cmd("ZSCORE");
        question.arg(self.beats(keys)).arg(self.name());
        question
    }

    /// The commands of one beat, at `now_ms` on Redis's clock: ZADD, HSET, and two PEXPIRE.
    pub(crate) fn beat(&self, keys: &Keys, now_ms: u64) -> redis::Pipeline {
        let (beats, name) = (self.beats(keys), self.name());
        // Plain strings and numbers: this has a JSON form.
        let record = serde_json::to_string(self).unwrap_or_default();
        let mut beat = redis::pipe();
        beat.cmd("ZADD").arg(&beats).arg(now_ms).arg(&name);
        beat.cmd("HSET")
            .arg(&keys.servers)
            .arg(self.session.to_string())
            .arg(record);
        for key in [&beats, &keys.servers] {
            beat.cmd("PEXPIRE").arg(key).arg(REGISTRY_TTL.as_millis() as u64);
        }
        beat
    }

    /// Adds the commands by which it leaves. A worker that has handed back what it had stays on the list of beats, as one whose
    /// entries others may take over at once.
    pub(crate) fn leave(&self, keys: &Keys, leave: &mut redis::Pipeline) {
        leave.cmd("HDEL").arg(&keys.servers).arg(self.session.to_string());
        let beats = self.beats(keys);
        match &self.consumer {
            // In place of the last beat: where Redis takes no more memory that stays, and others wait for the death time.
            Some(consumer) => leave.cmd("ZADD").arg(beats).arg(HANDED_BACK).arg(consumer),
            None => leave.cmd("ZREM").arg(beats).arg(self.name()),
        };
    }
}

/// Takes subscribers off the list that have been silent for long: nothing of theirs is left to be taken over.
pub(crate) fn sweep_subscribers(
    connection: &mut PatientConnection,
    keys: &Keys,
    now_ms: u64,
    death_time: Duration,
) -> redis::RedisResult<()> {
    let listed = death_time + DEAD_SUBSCRIBER_TTL;
    let dead_since = now_ms.saturating_sub(listed.as_millis() as u64);
    let dead: Vec<String> = redis::cmd("ZRANGEBYSCORE")
        .arg(&keys.subscribers)
        .arg("-inf")
        .arg(dead_since)
        .query(connection)?;
    if dead.is_empty() {
        return Ok(());
    }
    redis::pipe()
        .cmd("ZREM")
        .arg(&keys.subscribers)
        .arg(&dead)
        .cmd("HDEL")
        .arg(&keys.servers)
        .arg(&dead)
        .exec(connection)
}

/// Takes a dead worker's description off the list. HGETALL, HDEL: workers are listed by session, and only their consumer
/// name is known here.
pub(crate) fn remove_registration(
    connection: &mut PatientConnection,
    keys: &Keys,
    group: &str,
    consumer: &str,
) -> redis::RedisResult<()> {
    let servers: Value = redis::cmd("HGETALL").arg(&keys.servers).query(connection)?;
    for (field, record) in entry::by_name(servers) {
        let registration = entry::text(&record).and_then(|record| serde_json::from_str::<Registration>(&record).ok());
        if registration.is_some_and(|r| r.group.as_deref() == Some(group) && r.consumer.as_deref() == Some(consumer)) {
            redis::cmd("HDEL").arg(&keys.servers).arg(field).exec(connection)?;
        }
    }
    Ok(())
}

/// How the questions for the servers are called in errors.
pub(crate) const LIST_SERVERS: &str = "list the servers";

/// The servers of the stream; they are alive unless they have been silent for `death_time`.
///
/// HGETALL, TIME and, for each group and for the subscribers, ZRANGE: two round trips.
pub(crate) async fn peers(
    connection: &mut Connection,
    connector: &Connector,
    keys: &Keys,
    death_time: Duration,
) -> Result<Vec<Peer>, RedisStreamsError> {
    let answers = connector
        .ask(connection, LIST_SERVERS, &Servers::question(keys))
        .await?;
    let servers = Servers::read(answers);
    let beats = servers.beats_question(keys);
    Ok(servers.peers(keys, connector.ask(connection, LIST_SERVERS, &beats).await?, death_time))
}

/// What the registry says, before it is known who of them lives.
pub(crate) struct Servers {
    servers: Vec<Registration>,
    now_ms: u64,
}

impl Servers {
    /// The first question: who is registered, and what time it is.
    pub(crate) fn question(keys: &Keys) -> Pipeline {
        let mut questions = redis::pipe();
        questions.cmd("HGETALL").arg(&keys.servers);
        questions.cmd("TIME");
        questions
    }

    pub(crate) fn read(answers: Vec<Value>) -> Self {
        let mut answers = answers.into_iter();
        let servers = entry::by_name(answers.next().unwrap_or_default());
        Self {
            now_ms: answers.next().and_then(entry::time_ms).unwrap_or(0),
            servers: servers
                .values()
                .filter_map(|record| serde_json::from_str(&entry::text(record)?).ok())
                .collect(),
        }
    }

    /// The second question: when they beat. Empty if nobody is registered.
    pub(crate) fn beats_question(&self, keys: &Keys) -> Pipeline {
        let mut questions = redis::pipe();
        for list in self.lists(keys) {
            questions.cmd("ZRANGE").arg(list).arg(0).arg(-1).arg("WITHSCORES");
        }
        questions
    }

    /// The sorted sets in which they beat.
    fn lists(&self, keys: &Keys) -> BTreeSet<String> {
        self.servers.iter().map(|server| server.beats(keys)).collect()
    }

    /// The answers to both questions together.
    pub(crate) fn peers(self, keys: &Keys, beats: Vec<Value>, death_time: Duration) -> Vec<Peer> {
        let mut last_beats: HashMap<(String, String), u64> = HashMap::new();
        for (list, answer) in self.lists(keys).into_iter().zip(beats) {
            let beats = scores(answer).into_iter();
            last_beats.extend(beats.map(|(name, beat)| ((list.clone(), name), beat)));
        }
        let peer = |server: Registration| {
            let beat = *last_beats.get(&(server.beats(keys), server.name()))?;
            let mut peer = Peer::new(server.session, server.services);
            peer.consumer = server.group.zip(server.consumer);
            peer.version = server.version;
            peer.age = Duration::from_millis(self.now_ms.saturating_sub(beat));
            peer.alive = is_recent(beat, self.now_ms, death_time);
            Some(peer)
        };
        let mut peers: Vec<Peer> = self.servers.into_iter().filter_map(peer).collect();
        peers.sort_by_key(|peer| peer.session);
        peers
    }
}

/// Whether a beat is that of somebody who lives. Redis's clock may have gone back: one that is far ahead of it says nothing.
pub(crate) fn is_recent(beat_ms: u64, now_ms: u64, death_time: Duration) -> bool {
    let death_ms = death_time.as_millis() as u64;
    now_ms.saturating_sub(beat_ms) < death_ms && beat_ms <= now_ms.saturating_add(death_ms)
}

/// The command that counts those of the list `beats` who live at `now_ms`.
pub(crate) fn count_live(beats: &str, now_ms: u64, death_time: Duration) -> Cmd {
    let mut count = redis::cmd("ZCOUNT");
    let dead_since = now_ms.saturating_sub(death_time.as_millis() as u64);
    // Redis's clock may have gone back: what is far ahead of it says nothing.
    let future = now_ms.saturating_add(death_time.as_millis() as u64);
    count.arg(beats).arg(format!("({dead_since}")).arg(future);
    count
}

/// A flat list of members and scores.
pub(crate) fn scores(answer: Value) -> Vec<(String, u64)> {
    let mut values = entry::list(answer).into_iter();
    std::iter::from_fn(|| {
        let (member, beat) = (values.next()?, values.next()?);
        Some((entry::text(&member)?, beat_ms(&beat)?))
    })
    .collect()
}

/// A beat, from its score.
pub(crate) fn beat_ms(score: &Value) -> Option<u64> {
    // Scores are doubles; times in ms fit exactly.
    let score: f64 = entry::text(score)?.parse().ok()?;
    Some(score as u64)
}
