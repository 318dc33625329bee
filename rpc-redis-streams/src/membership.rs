//! Joining a stream and leaving it: the inbox, the group, the registration.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rpc_core::io::Endpoint;
use rpc_core::{EntryId, Mode, Peer, ServiceDescriptor};
use tokio::time::timeout;

use crate::connection::Connection;
use crate::creation::create_group;
use crate::entry;
use crate::error::RedisStreamsError;
use crate::extent::last_id;
use crate::heartbeat::{Heartbeat, Pulse, Troubles};
use crate::meta::{self, Agreement};
use crate::pieces::Pieces;
use crate::registry::{self, Registration};
use crate::shared::{Server, Shared};
use crate::takeover::{HAND_BACK, HANDED_BACK, REMOVE_DEAD_CONSUMER, Sweeper};
use crate::trim::Trimmer;
use crate::wire;

/// How long the inbox outlives its session.
pub(crate) const INBOX_TTL: Duration = Duration::from_secs(60);

impl Shared {
    /// Creates the inbox; returns the id from which it is to be read.
    pub(crate) async fn open_inbox(&self, connection: &mut Connection) -> Result<EntryId, RedisStreamsError> {
        let inbox = self.destination.inbox();
        let mut open = redis::pipe();
        open.cmd("XADD")
            .arg(&inbox)
            .arg("*")
            .arg(wire::FIELD)
            .arg(Vec::from(Pieces::written(|out| wire::hello(out, self.session()))));
        open.cmd("PEXPIRE").arg(&inbox).arg(INBOX_TTL.as_millis() as u64);
        let answers = self.connector.ask(connection, "open the inbox", &open).await?;
        let answer = answers.into_iter().next().unwrap_or_default();
        entry::id(&answer).ok_or_else(|| RedisStreamsError::unexpected("XADD to the inbox", answer))
    }

    /// Sets the clock by Redis's.
    pub(crate) async fn sync_clock(&self, connection: &mut Connection) -> Result<(), RedisStreamsError> {
        let mut time = redis::pipe();
        time.cmd("TIME");
        let asked = Instant::now();
        let answer = self.connector.ask(connection, "TIME", &time).await?.pop();
        if let Some(now_ms) = answer.and_then(entry::time_ms) {
            self.clock.set(now_ms, asked);
        }
        Ok(())
    }

    pub(crate) async fn last_id(&self, connection: &mut Connection, key: &str) -> Result<EntryId, RedisStreamsError> {
        last_id(connection, &self.connector, key).await
    }

    /// Makes this channel a server: claims the stream, creates the group, registers, and starts to beat.
    pub(crate) async fn register(
        &self,
        connection: &mut Connection,
        services: &[&'static ServiceDescriptor],
        endpoint: Arc<dyn Endpoint>,
    ) -> Result<Agreement, RedisStreamsError> {
        let (keys, config) = (&self.destination.keys, &self.config);
        let agreement = meta::claim(connection, &self.connector, config, keys).await?;
        if config.mode() == Mode::Group {
            let creation = create_group(connection, &self.connector, &self.destination).await?;
            if creation.created {
                let (stream, group) = (&keys.requests, &self.destination.group);
                tracing::info!(
                    stream,
                    group,
                    "created the group: it runs every call, as do other groups of the stream"
                );
            }
        }
        let names: Vec<String> = services.iter().map(|service| service.name().to_owned()).collect();
        self.compare_services(connection, &names).await?;
        let registration = Registration::new(
            self.session(),
            config.mode(),
            config.group(),
            &self.destination.consumer,
            names,
        );
        let now_ms = self.clock.now_ms();
        let beat = registration.beat(keys, now_ms);
        self.connector.ask(connection, "register", &beat).await?;
        let heartbeat = Heartbeat::start(Pulse {
            connector: self.connector.clone(),
            interval: config.heartbeat_interval(),
            death_time: config.death_time(),
            keys: keys.clone(),
            registration: registration.clone(),
            last_beat_ms: Some(now_ms),
            mode: config.mode(),
            retention: agreement.retention,
            clock: self.clock.clone(),
            estates: Arc::clone(&self.estates),
            trimmer: Trimmer::new(
                keys.clone(),
                self.destination.group.clone(),
                agreement.retention,
                config.death_time(),
                endpoint,
            ),
            troubles: Troubles::default(),
            sweeper: (config.mode() == Mode::Group).then(|| {
                let (group, own) = (self.destination.group.clone(), self.destination.consumer.clone());
                Sweeper::new(keys.clone(), group, own, config.death_time(), config.block_timeout())
            }),
        })
        .map_err(|error| RedisStreamsError::unexpected("start the heartbeat", error))?;
        *self.server() = Some(Server {
            registration,
            heartbeat,
        });
        Ok(agreement)
    }

    /// Warns when live workers of the same group serve other services: a call goes to any of them, so a part of the calls
    /// to each service would be refused.
    async fn compare_services(&self, connection: &mut Connection, own: &[String]) -> Result<(), RedisStreamsError> {
        let peers = registry::peers(
            connection,
            &self.connector,
            &self.destination.keys,
            self.config.death_time(),
        )
        .await?;
        let same_group = |peer: &&Peer| {
            peer.consumer
                .as_ref()
                .is_some_and(|(group, _)| *group == self.destination.group)
        };
        let differs = |peer: &&Peer| {
            let missing = |theirs: &[String], ours: &[String]| ours.iter().any(|name| !theirs.contains(name));
            peer.alive && (missing(&peer.services, own) || missing(own, &peer.services))
        };
        if let Some(other) = peers.iter().filter(same_group).find(differs) {
            tracing::warn!(
                group = self.destination.group,
                ?own,
                others = ?other.services,
                "workers of one group serve different services: a part of their calls will be refused as \
                 `MethodNotFound`; give each set of services a stream of its own"
            );
        }
        Ok(())
    }

    /// Ends a read that blocks, by CLIENT UNBLOCK, so that a drain need not wait it out.
    pub(crate) async fn unblock_group_reader(&self) {
        while !self.group_drained.is_cancelled() {
            if let Some(id) = self.estates.reader() {
                let mut unblock = redis::pipe();
                unblock.cmd("CLIENT").arg("UNBLOCK").arg(id);
                let answer = self
                    .manage(async |connection| self.connector.ask_raw(connection, "CLIENT UNBLOCK", &unblock).await)
                    .await;
                if let Err(error) = answer {
                    tracing::debug!(%error, "the group's reader cannot be unblocked; its read is waited out");
                    return;
                }
            }
            // Again, because the reader may have been between two reads.
            let _ = timeout(Duration::from_millis(50), self.group_drained.cancelled()).await;
        }
    }

    /// Adds the command by which what has not begun keeps its attempt.
    fn hand_back(&self, leave: &mut redis::Pipeline) {
        let to = &self.destination;
        let endpoint = self.endpoint().clone();
        // Before the first look, what is pending was handed to a process of this name that has died.
        let Some(endpoint) = endpoint.filter(|_| self.inherited.load(Ordering::Acquire)) else {
            return;
        };
        leave.cmd("EVAL").arg(HAND_BACK).arg(1).arg(&to.keys.requests);
        leave.arg(&to.group).arg(&to.consumer);
        for begun in endpoint.hand_back() {
            leave.arg(begun.to_string());
        }
    }

    /// Leaves the registry and takes its own keys along.
    pub(crate) async fn deregister(&self) -> Result<(), RedisStreamsError> {
        let (to, server) = (&self.destination, self.server().take());
        let mut leave = redis::pipe();
        if let Some(Server {
            registration,
            heartbeat,
        }) = server
        {
            // It may block for as long as a beat does.
            let _ = tokio::task::spawn_blocking(move || heartbeat.stop()).await;
            if self.config.mode() == Mode::Group {
                // Before it is said to have left, or others would take it over as it is.
                self.hand_back(&mut leave);
            }
            registration.leave(&to.keys, &mut leave);
            // Removed if nothing is pending, unless a read may still be served: then others remove it later.
            if self.config.mode() == Mode::Group && self.group_drained.is_cancelled() {
                leave.cmd("EVAL").arg(REMOVE_DEAD_CONSUMER).arg(2);
                leave
                    .arg(&to.keys.requests)
                    .arg(to.keys.workers(&to.group))
                    .arg(&to.group)
                    .arg(&to.consumer)
                    .arg(HANDED_BACK);
            }
        }
        leave.cmd("DEL").arg(to.inbox());
        self.manage(async |connection| self.connector.ask_raw(connection, "deregister", &leave).await)
            .await
            .map(|_| ())
    }
}
