//! Watching who serves the stream: to refuse calls that nobody could run, and to end refused ones that nobody can answer
//! any more.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::descriptor::service_of;
use crate::id::SessionId;
use crate::io::{Mode, Peer};
use crate::roster::{Roster, Servers, Standing, Verdict};
use crate::shared::Shared;

/// How long refusals are collected before the registry is asked: under overload they come by the hundred.
const JUDGE_PAUSE: Duration = Duration::from_millis(20);

/// How soon the registry is asked again while refused broadcast calls wait for an answer.
const JUDGE_INTERVAL: Duration = Duration::from_secs(1);

/// How often the registry is looked at while calls are made to services that somebody serves.
const CALM: Duration = Duration::from_secs(2);

/// How often while calls wait for a server.
const ANXIOUS: Duration = Duration::from_millis(250);

impl Shared {
    fn roster(&self) -> MutexGuard<'_, Roster> {
        // Plain data that no panic leaves half changed.
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is known whether somebody serves `method`'s service; false if nobody does.
    ///
    /// At once for a service that was served when last seen.
    pub(crate) async fn is_served(&self, method: &str) -> bool {
        let (service, made) = (service_of(method), Instant::now());
        loop {
            // Registered before the roster is asked, so that no look falls between the two.
            let mut looked = std::pin::pin!(self.looked.notified());
            looked.as_mut().enable();
            let verdict = self.roster().judge(service, made, Instant::now());
            match verdict {
                Verdict::Served => return true,
                Verdict::NoWorkers => return false,
                Verdict::Unknown => {
                    self.wanted.notify_one();
                    looked.await;
                }
            }
        }
    }

    /// Whether `method`'s service was served when last seen, and that was not long before `now`.
    pub(crate) fn is_served_now(&self, method: &str, now: Instant) -> bool {
        self.roster().judge(service_of(method), now, now) == Verdict::Served
    }

    /// Asks for a look, without waiting for it, if the last one says nothing any more.
    pub(crate) fn want_look(&self) {
        if self.roster().is_outdated(Instant::now()) {
            self.wanted.notify_one();
        }
    }

    /// What is known of those who serve `method`, for a person.
    pub(crate) fn standing(&self, method: &str) -> Standing {
        self.roster().standing(service_of(method), Instant::now())
    }

    /// The services that somebody serves, for a person.
    pub(crate) fn served(&self) -> Vec<String> {
        self.roster().services()
    }

    /// Looks at the registry while calls are made.
    pub(crate) async fn watch_servers(self: Arc<Self>) {
        let mut calls = 0;
        loop {
            let pause = if self.roster().is_missing_any() { ANXIOUS } else { CALM };
            // Then the next call asks for a look: a process may have a thousand channels that do nothing.
            let rests = self.in_flight.len() == 0 && self.roster().is_outdated(Instant::now());
            tokio::select! {
                () = self.wanted.notified() => {}
                () = sleep(pause), if !rests => {
                    let made = self.counters.calls.get();
                    let idle = made == calls && self.in_flight.len() == 0;
                    calls = made;
                    if idle {
                        self.roster().failed();
                        continue;
                    }
                }
                () = self.closed.cancelled() => return,
            }
            self.look().await;
            // Whoever waits wants the next look at once.
            let _ = timeout(ANXIOUS / 2, self.closed.cancelled()).await;
        }
    }

    async fn look(&self) {
        let (peers, backlog) = (self.io.peers().await, self.io.backlog().await);
        let now = Instant::now();
        match peers {
            Ok(peers) => {
                let mut servers = Servers::default();
                for peer in peers.iter().filter(|peer| peer.alive && self.would_hear(peer)) {
                    for service in &peer.services {
                        *servers.entry(service.clone()).or_insert(0) += 1;
                    }
                }
                self.roster().looked(servers, backlog.ok().flatten(), now);
            }
            Err(error) => {
                tracing::debug!(%error, "who serves the stream is not known");
                self.roster().failed();
            }
        }
        self.looked.notify_waiters();
    }

    /// Whether `peer` is sent the calls of this channel: a subscriber is not sent what it sent itself.
    fn would_hear(&self, peer: &Peer) -> bool {
        self.io.mode() == Mode::Group || peer.session != self.io.session() || self.settings.receive_own
    }

    /// Whether `peer` may still answer a call to `service` that `refused` have declined.
    fn can_answer(&self, peer: &Peer, peers: &[Peer], service: &str, refused: &[SessionId]) -> bool {
        if !peer.alive || !peer.services.iter().any(|name| name == service) {
            return false;
        }
        match group_of(peer) {
            None => self.would_hear(peer) && !refused.contains(&peer.session),
            // One worker of each group has the call: if that one has declined, its group has.
            Some(own) => !peers
                .iter()
                .any(|p| refused.contains(&p.session) && group_of(p) == Some(own)),
        }
    }

    /// Ends refused calls as soon as no live server is left that could answer.
    pub(crate) async fn judge_refusals(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = self.refused.notified() => {}
                () = self.closed.cancelled() => return,
            }
            // Peers may die or come while calls wait, so one look is not enough.
            while !self.closed.is_cancelled() {
                sleep(JUDGE_PAUSE).await;
                let hopeful = match self.io.peers().await {
                    Ok(peers) => self.in_flight.judge(|method, refused| {
                        let service = service_of(method);
                        !peers.iter().any(|peer| self.can_answer(peer, &peers, service, refused))
                    }),
                    // The connection is down: the calls go on waiting, until their deadline at most.
                    Err(_) => 1,
                };
                if hopeful == 0 {
                    break;
                }
                let _ = timeout(JUDGE_INTERVAL, self.refused.notified()).await;
            }
        }
    }
}

fn group_of(peer: &Peer) -> Option<&str> {
    peer.consumer.as_ref().map(|(group, _)| group.as_str())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::Caller;
    use crate::channel::RpcChannel;
    use crate::io::ChannelSettings;
    use crate::message::{Fault, FaultKind, Outcome, Reply};
    use crate::testing::{METHODS, Noted};

    fn peer() -> Peer {
        Peer::new(SessionId::generate(), vec!["unit".to_owned()])
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_no_flood_of_questions() {
        let io = Noted::new(Mode::Broadcast, ChannelSettings::default(), vec![peer(), peer()]);
        let channel = RpcChannel::open(Arc::clone(&io)).await.unwrap();
        let call = tokio::spawn(Caller::from(&channel).call::<(), _>(&METHODS[0], &()));
        let endpoint = io.endpoint.get().unwrap();
        for _ in 0..500 {
            sleep(Duration::from_millis(1)).await;
            let outcome = Outcome::Fault(Fault::new(FaultKind::Overloaded, "full"));
            let reply = Reply {
                sequence: 1,
                outcome,
                handler_time: Duration::ZERO,
            };
            endpoint.reply(io.peers[0].session, vec![reply]);
        }
        assert!(!call.is_finished());
        let asked = io.peers_asked.load(Ordering::SeqCst);
        assert!((1..=30).contains(&asked), "{asked}");
    }
}
