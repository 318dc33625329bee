//! A broker inside the process: no server needed, and the same rules.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cancellation::GivenUp;
use crate::dedupe::Keys;
use crate::descriptor::ServiceDescriptor;
use crate::error::IoError;
use crate::id::{CallId, EntryId, SessionId};
use crate::io::{ChannelSettings, Claim, Endpoint, KeyedRun, Mode, Outgoing, Peer, RpcIo, SendFailure};
use crate::message::{Delivery, Kind, Origin, Request, Target};

/// One stream inside the process; a cheap clone.
///
/// For tests, and for programs that want services without a server. What is in it ends with the process.
#[derive(Clone)]
pub struct MemoryBroker {
    mode: Mode,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    members: HashMap<SessionId, Member>,
    groups: HashMap<String, Group>,
    /// Sent before there was a group: the first one inherits it.
    unclaimed: VecDeque<Delivery>,
    keys: Keys,
    /// For servers to come.
    given_up: GivenUp,
    last_entry: u64,
}

#[derive(Clone)]
struct Member {
    endpoint: Arc<dyn Endpoint>,
    group: String,
    services: Vec<String>,
    draining: bool,
}

#[derive(Clone, Default)]
struct Group {
    waiting: Arc<Mutex<VecDeque<Delivery>>>,
    arrived: Arc<Notify>,
}

/// What a worker was handed and has not acknowledged; `None` when it has been given back, and nothing is taken any more.
type Held = Arc<Mutex<Option<BTreeMap<EntryId, Delivery>>>>;

impl MemoryBroker {
    /// An empty stream that its servers read in `mode`.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            state: Arc::default(),
        }
    }

    /// The IO of one more channel on this stream.
    #[must_use]
    pub fn connect(&self) -> MemoryIo {
        MemoryIo {
            broker: self.clone(),
            session: SessionId::generate(),
            group: "rpc-workers".to_owned(),
            settings: ChannelSettings::default(),
            held: Arc::new(Mutex::new(Some(BTreeMap::new()))),
            reading: CancellationToken::new(),
            reader_done: CancellationToken::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn member(&self, session: SessionId) -> Option<Arc<dyn Endpoint>> {
        self.state().members.get(&session).map(|member| member.endpoint.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Only plain collections are changed under these locks; a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// The IO of one channel on a [`MemoryBroker`].
#[derive(Debug)]
pub struct MemoryIo {
    broker: MemoryBroker,
    session: SessionId,
    group: String,
    settings: ChannelSettings,
    held: Held,
    /// Cancelled when no more requests are to be read.
    reading: CancellationToken,
    reader_done: CancellationToken,
}

impl MemoryIo {
    /// Works in `group`, instead of `rpc-workers`: each group gets every request.
    #[must_use]
    pub fn in_group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// Uses other bounds and defaults.
    #[must_use]
    pub fn with_settings(mut self, settings: ChannelSettings) -> Self {
        self.settings = settings;
        self
    }

    fn request(&self, target: Target, request: Request) {
        let (sequence, kind) = (request.sequence, request.kind);
        match self.route(target, request) {
            Ok(()) if kind == Kind::Notification => self.tell_self(|own| own.accepted(sequence)),
            Ok(()) => {}
            Err(failure) => self.tell_self(|own| own.failed(sequence, target, failure)),
        }
    }

    /// Gives what this worker had to the others of its group, in its old place; what it had begun is at its next attempt.
    fn hand_back(&self, endpoint: &dyn Endpoint) {
        let held = lock(&self.held).take().unwrap_or_default();
        let group = self.broker.state().groups.get(&self.group).cloned();
        let Some(group) = group.filter(|_| !held.is_empty()) else {
            return;
        };
        let begun = endpoint.hand_back();
        let mut waiting = lock(&group.waiting);
        for (entry, mut delivery) in held.into_iter().rev() {
            if begun.contains(&entry) {
                delivery.requests.iter_mut().for_each(|request| request.attempt += 1);
            }
            waiting.push_front(delivery);
        }
        drop(waiting);
        group.arrived.notify_one();
    }

    /// Who runs what was read so: one worker of the group, or each session.
    fn reader(&self, origin: Origin) -> String {
        match origin {
            Origin::Group => self.group.clone(),
            Origin::Broadcast | Origin::Direct => self.session.to_string(),
        }
    }

    fn tell_self(&self, tell: impl FnOnce(&dyn Endpoint)) {
        if let Some(own) = self.broker.member(self.session) {
            tell(&*own);
        }
    }

    fn route(&self, target: Target, request: Request) -> Result<(), SendFailure> {
        let mut state = self.broker.state();
        state.last_entry += 1;
        let mut delivery = Delivery {
            entry: EntryId {
                ms: state.last_entry,
                seq: 0,
            },
            origin: Origin::Direct,
            caller: self.session,
            requests: vec![request],
            forgotten: false,
        };
        // Endpoints are told after the lock is released: they may send at once.
        match (target, self.broker.mode) {
            (Target::Session(session), _) => {
                let member = state.members.get(&session).cloned().ok_or(SendFailure::SessionGone)?;
                drop(state);
                if member.draining {
                    return Err(SendFailure::Overloaded("the session is closing".to_owned()));
                }
                member.endpoint.deliver(vec![delivery]);
            }
            (Target::Stream, Mode::Broadcast) => {
                delivery.origin = Origin::Broadcast;
                let subscribers: Vec<_> = state
                    .members
                    .values()
                    .filter(|m| !m.services.is_empty())
                    .cloned()
                    .collect();
                drop(state);
                for subscriber in subscribers {
                    subscriber.endpoint.deliver(vec![delivery.clone()]);
                }
            }
            (Target::Stream, Mode::Group) => {
                delivery.origin = Origin::Group;
                let bound = self.settings.max_backlog;
                let has_room =
                    |waiting: &mut VecDeque<Delivery>| waiting.len() < bound || forget_expired(waiting) < bound;
                let full = state
                    .groups
                    .iter()
                    .find(|(_, group)| !has_room(&mut lock(&group.waiting)));
                if let Some((group, full)) = full {
                    let waiting = lock(&full.waiting).len();
                    return Err(SendFailure::Overloaded(format!(
                        "{waiting} requests wait for the group `{group}`, and `max_backlog` is {bound}"
                    )));
                }
                if !has_room(&mut state.unclaimed) {
                    return Err(SendFailure::Overloaded(format!(
                        "{} requests wait for a first worker, and `max_backlog` is {bound}",
                        state.unclaimed.len()
                    )));
                }
                if state.groups.is_empty() {
                    state.unclaimed.push_back(delivery);
                    return Ok(());
                }
                for group in state.groups.values() {
                    lock(&group.waiting).push_back(delivery.clone());
                    group.arrived.notify_one();
                }
            }
        }
        Ok(())
    }
}

/// Hands the requests of a group to one worker, as many as it has room for.
async fn work(group: Group, endpoint: Arc<dyn Endpoint>, held: Held) {
    loop {
        let arrived = group.arrived.notified();
        let room = tokio::select! {
            biased;
            room = endpoint.room() => room,
            () = std::future::ready(()) => {
                // What this worker was notified of, one that has room must hear.
                group.arrived.notify_one();
                endpoint.room().await
            }
        };
        let mut left = room;
        while left > 0 {
            let delivery = {
                let mut held = lock(&held);
                let Some(held) = held.as_mut() else { return };
                let Some(delivery) = lock(&group.waiting).pop_front() else {
                    break;
                };
                held.insert(delivery.entry, delivery.clone());
                delivery
            };
            left = left.saturating_sub(delivery.requests.len());
            endpoint.deliver(vec![delivery]);
        }
        // A worker that has taken something may have no room any more, and is not to wait for more before it has.
        if left == room {
            arrived.await;
        }
    }
}

/// Drops what nobody waits for any more; returns how much is left.
fn forget_expired(waiting: &mut VecDeque<Delivery>) -> usize {
    let now = Instant::now();
    waiting.retain(|delivery| !delivery.requests.iter().all(|request| request.is_expired(now)));
    waiting.len()
}

#[async_trait]
impl RpcIo for MemoryIo {
    fn session(&self) -> SessionId {
        self.session
    }

    fn stream(&self) -> &str {
        "memory"
    }

    fn mode(&self) -> Mode {
        self.broker.mode
    }

    fn settings(&self) -> ChannelSettings {
        self.settings
    }

    async fn open(&self, endpoint: Arc<dyn Endpoint>, services: &[&'static ServiceDescriptor]) -> Result<(), IoError> {
        let mut state = self.broker.state();
        let member = Member {
            endpoint: endpoint.clone(),
            group: self.group.clone(),
            services: services.iter().map(|service| service.name().to_owned()).collect(),
            draining: false,
        };
        state.members.insert(self.session, member);
        for (call, until) in state.given_up.iter() {
            endpoint.cancelled(call, Some(until));
        }
        if services.is_empty() || self.broker.mode == Mode::Broadcast {
            self.reader_done.cancel();
            return Ok(());
        }
        let unclaimed = std::mem::take(&mut state.unclaimed);
        let group = state.groups.entry(self.group.clone()).or_default().clone();
        lock(&group.waiting).extend(unclaimed);
        let (reading, done) = (self.reading.clone(), self.reader_done.clone());
        let held = Arc::clone(&self.held);
        tokio::spawn(async move {
            reading.run_until_cancelled(work(group.clone(), endpoint, held)).await;
            // What it was notified of, another worker must hear.
            group.arrived.notify_one();
            done.cancel();
        });
        Ok(())
    }

    fn send(&self, message: Outgoing) {
        match message {
            Outgoing::Request { target, request } => self.request(target, request),
            Outgoing::Settle {
                caller,
                reply,
                acknowledge,
                record,
            } => {
                if let Some(record) = record {
                    let reader = self.reader(record.run.origin);
                    let mut state = self.broker.state();
                    state.keys.record(reader, self.session, *record, Instant::now());
                }
                if let (Some(reply), Some(endpoint)) = (reply, self.broker.member(caller)) {
                    endpoint.reply(self.session, vec![reply]);
                }
                if let Some(entry) = acknowledge {
                    if let Some(held) = lock(&self.held).as_mut() {
                        held.remove(&entry);
                    }
                    self.tell_self(|own| own.confirmed(entry));
                }
            }
            Outgoing::DeadLetter {
                caller,
                reply,
                entry,
                acknowledge,
                reason,
                ..
            } => {
                // Kept nowhere: what is in this broker ends with the process anyway.
                tracing::error!(%entry, reason, "a dead letter is discarded");
                self.send(Outgoing::Settle {
                    caller,
                    reply,
                    acknowledge: acknowledge.then_some(entry),
                    record: None,
                });
            }
            Outgoing::Cancel {
                target,
                sequence,
                deadline,
            } => {
                let session = self.session;
                let told: Vec<_> = match target {
                    Target::Session(session) => self.broker.member(session).into_iter().collect(),
                    Target::Stream => {
                        let mut state = self.broker.state();
                        let call = CallId { session, sequence };
                        state.given_up.insert(call, deadline, Instant::now());
                        state.members.values().map(|member| member.endpoint.clone()).collect()
                    }
                };
                for endpoint in told {
                    endpoint.cancelled(CallId { session, sequence }, deadline);
                }
            }
            Outgoing::SignalClose => {
                let others: Vec<_> = self
                    .broker
                    .state()
                    .members
                    .iter()
                    .filter(|(session, _)| **session != self.session)
                    .map(|(_, member)| member.endpoint.clone())
                    .collect();
                for other in others {
                    other.close_requested();
                }
            }
        }
    }

    async fn peers(&self) -> Result<Vec<Peer>, IoError> {
        let state = self.broker.state();
        let servers = state.members.iter().filter(|(_, member)| !member.services.is_empty());
        Ok(servers
            .map(|(session, member)| {
                let mut peer = Peer::new(*session, member.services.clone());
                if self.broker.mode == Mode::Group {
                    peer.consumer = Some((member.group.clone(), session.to_string()));
                }
                peer
            })
            .collect())
    }

    async fn backlog(&self) -> Result<Option<u64>, IoError> {
        if self.broker.mode == Mode::Broadcast {
            return Ok(None);
        }
        let state = self.broker.state();
        let waiting = state.groups.values().map(|group| lock(&group.waiting).len());
        let most = waiting.max().unwrap_or(state.unclaimed.len());
        Ok(Some(most as u64))
    }

    async fn claim(&self, run: &KeyedRun) -> Result<Claim, IoError> {
        let reader = self.reader(run.origin);
        let mut state = self.broker.state();
        let State { keys, members, .. } = &mut *state;
        let lives = |session| members.contains_key(&session);
        Ok(keys.claim(reader, self.session, run, lives, Instant::now()))
    }

    async fn drain(&self) {
        // A subscriber is fed by whoever sends; without services it gets nothing more.
        if let Some(member) = self.broker.state().members.get_mut(&self.session) {
            member.services.clear();
            member.draining = true;
        }
        self.reading.cancel();
        self.reader_done.cancelled().await;
    }

    async fn close(&self) {
        self.abort();
    }

    fn abort(&self) {
        self.reading.cancel();
        // Dropped after the lock is released: with it may go the last handle of another channel.
        let member = self.broker.state().members.remove(&self.session);
        if let Some(member) = member {
            self.hand_back(&*member.endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::channel::RpcChannel;
    use crate::testing::{METHODS, Script, Unit};
    use crate::{CallError, Caller};

    async fn worker(io: MemoryIo) -> RpcChannel {
        let builder = RpcChannel::builder(io).serve(Unit::new(Script::Fail(0)).0);
        builder.unwrap().start().await.unwrap()
    }

    /// A paused clock advances only when every task waits: with a worker that spins, this would never end.
    #[tokio::test(start_paused = true)]
    async fn an_idle_worker_waits() {
        let broker = MemoryBroker::new(Mode::Group);
        let _worker = worker(broker.connect()).await;
        let client = RpcChannel::open(broker.connect()).await.unwrap();
        let call: Result<(), CallError> = Caller::from(&client).call(&METHODS[0], &()).await;
        assert_eq!(call, Ok(()));
        sleep(Duration::from_secs(3600)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_in_a_group_without_workers_takes_no_room() {
        let broker = MemoryBroker::new(Mode::Group);
        let _healthy = worker(broker.connect()).await;
        worker(broker.connect().in_group("deserted")).await.close().await;
        let settings = ChannelSettings {
            max_backlog: 1000,
            ..ChannelSettings::default()
        };
        let client = RpcChannel::open(broker.connect().with_settings(settings))
            .await
            .unwrap();
        let caller = Caller::from(&client).with_timeout(Duration::from_secs(1));
        for _ in 0..1000 {
            caller.notify(&METHODS[1], &()).await.unwrap();
        }
        let full: Result<(), CallError> = caller.call(&METHODS[0], &()).await;
        assert!(matches!(full, Err(CallError::Overloaded { .. })), "{full:?}");
        sleep(Duration::from_secs(2)).await;
        assert_eq!(caller.call(&METHODS[0], &()).await, Ok(()));
    }
}
