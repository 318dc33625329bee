//! The delivery rules in random interleavings of everything that can happen to a group: workers that die, freeze, thaw,
//! close, take over from each other, lose answers and beats, while time goes on and deadlines pass.
//!
//! The rules are the real ones ([`Arrival::admit`], [`Ledger`], [`Liveness`]); the group of the stream is a model of what
//! Redis keeps, and the workers do with both what an IO does.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use rpc_core::EntryId;
use rpc_core::delivery::{Admission, Arrival, Ledger};
use rpc_core::liveness::Liveness;
use rpc_core::message::{Kind, Origin};

const WORKERS: usize = 3;
const MAX_DELIVERIES: u32 = 3;
const BEAT: u64 = 1_000;
const DEATH: u64 = 5_000;
/// How long a dead worker's read may still be served.
const LINGER: u64 = 6_000;
/// How long a consumer that nobody knows may sit on an entry.
const FOREIGN_IDLE: u64 = 600_000;
/// The beat of a worker that has left with entries pending.
const HANDED_BACK: u64 = 0;

/// A request as it is sent.
#[derive(Clone, Copy, Debug)]
struct Draft {
    notification: bool,
    at_most_once: bool,
    ttl: Option<u64>,
}

#[derive(Clone, Debug)]
enum Event {
    Send(Vec<Draft>),
    Tick(u64),
    /// A worker reads an entry; its answer may be lost. A frozen one's read may still be served.
    Read(usize, Answer),
    /// It looks for what is pending for it and not held.
    Look(usize),
    /// The first that waits begins.
    Begin(usize),
    /// The first that runs ends, well or not.
    Finish(usize, bool),
    /// What is settled is written.
    Flush(usize),
    Beat(usize),
    MissBeat(usize),
    Claim(usize, Answer),
    Freeze(usize),
    Thaw(usize),
    /// Ends at once; another process takes its place, under another name.
    Die(usize),
    /// The same, in order.
    Close(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Arrives,
    Lost,
}

#[derive(Clone, Debug)]
struct Request {
    id: usize,
    draft: Draft,
    expires: Option<u64>,
    attempt: u32,
}

/// What became of a request in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Executed,
    Expired,
    Refused,
    Buried,
}

/// What is known of a request that was accepted, whatever entries it is in.
#[derive(Clone, Debug)]
struct Life {
    draft: Draft,
    runs: u32,
    fates: Vec<Fate>,
}

#[derive(Clone, Debug)]
struct Pending {
    owner: u32,
    deliveries: u32,
    since: u64,
}

#[derive(Clone, Debug)]
struct Job {
    entry: EntryId,
    index: usize,
    request: Request,
}

#[derive(Clone, Debug)]
struct Settlement {
    request: usize,
    fate: Fate,
    acknowledge: Option<EntryId>,
}

#[derive(Clone, Debug)]
struct Estate {
    owner: u32,
    beat: Option<u64>,
    min_idle: u64,
}

struct Worker {
    name: u32,
    frozen: bool,
    ledger: Ledger,
    liveness: Liveness,
    estates: Vec<Estate>,
    /// The dead without pending entries, and since when.
    bare: BTreeMap<u32, u64>,
    waiting: VecDeque<Job>,
    running: VecDeque<Job>,
    outbox: Vec<Settlement>,
    /// What a read brought while it was frozen.
    mail: Vec<(EntryId, u32)>,
}

struct World {
    now: u64,
    names: u32,
    stream: BTreeMap<EntryId, Vec<Request>>,
    /// The last entry that was read for the first time.
    delivered: EntryId,
    pending: BTreeMap<EntryId, Pending>,
    beats: BTreeMap<u32, u64>,
    workers: Vec<Worker>,
    lives: Vec<Life>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: 1_000_000,
            names: 0,
            stream: BTreeMap::new(),
            delivered: EntryId::ZERO,
            pending: BTreeMap::new(),
            beats: BTreeMap::new(),
            workers: Vec::new(),
            lives: Vec::new(),
        };
        for _ in 0..WORKERS {
            let worker = world.hire();
            world.workers.push(worker);
        }
        world
    }

    /// A new worker, which is registered before it reads.
    fn hire(&mut self) -> Worker {
        self.names += 1;
        self.beats.insert(self.names, self.now);
        Worker {
            name: self.names,
            frozen: false,
            ledger: Ledger::default(),
            liveness: Liveness::new(Duration::from_millis(BEAT), Duration::from_millis(DEATH)),
            estates: Vec::new(),
            bare: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: VecDeque::new(),
            outbox: Vec::new(),
            mail: Vec::new(),
        }
    }

    fn append(&mut self, requests: Vec<Request>) {
        let seq = self.stream.len() as u64;
        self.stream.insert(EntryId { ms: self.now, seq }, requests);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Send(drafts) => self.send(&drafts),
            Event::Tick(ms) => self.now += ms,
            Event::Read(w, answer) => self.read(w, answer),
            Event::Thaw(w) => self.thaw(w),
            Event::Freeze(w) => self.workers[w].frozen = true,
            Event::Die(w) => self.workers[w] = self.hire(),
            // A frozen process does nothing.
            Event::Look(w)
            | Event::Begin(w)
            | Event::Finish(w, _)
            | Event::Flush(w)
            | Event::Beat(w)
            | Event::MissBeat(w)
            | Event::Claim(w, _)
            | Event::Close(w)
                if self.workers[w].frozen => {}
            Event::Look(w) => self.look(w),
            Event::Begin(w) => self.begin(w),
            Event::Finish(w, well) => self.finish(w, well),
            Event::Flush(w) => self.flush(w),
            Event::Beat(w) => self.beat(w),
            Event::MissBeat(w) => {
                self.workers[w].liveness.missed();
                self.workers[w].estates.clear();
            }
            Event::Claim(w, answer) => self.claim(w, answer),
            Event::Close(w) => self.close(w),
        }
    }

    fn send(&mut self, drafts: &[Draft]) {
        let mut requests = Vec::new();
        for draft in drafts {
            requests.push(Request {
                id: self.lives.len(),
                draft: *draft,
                expires: draft.ttl.map(|ttl| self.now + ttl),
                attempt: 1,
            });
            self.lives.push(Life {
                draft: *draft,
                runs: 0,
                fates: Vec::new(),
            });
        }
        self.append(requests);
    }

    /// XREADGROUP of one entry.
    fn read(&mut self, w: usize, answer: Answer) {
        let Some((id, _)) = self.stream.range(self.delivered.next()..).next() else {
            return;
        };
        let (id, name) = (*id, self.workers[w].name);
        self.delivered = id;
        self.pending.insert(
            id,
            Pending {
                owner: name,
                deliveries: 1,
                since: self.now,
            },
        );
        match answer {
            Answer::Lost => {}
            Answer::Arrives if self.workers[w].frozen => self.workers[w].mail.push((id, 1)),
            Answer::Arrives => self.hand_out(w, id, 1),
        }
    }

    fn thaw(&mut self, w: usize) {
        self.workers[w].frozen = false;
        for (id, deliveries) in std::mem::take(&mut self.workers[w].mail) {
            self.hand_out(w, id, deliveries);
        }
    }

    /// XPENDING of its own.
    fn look(&mut self, w: usize) {
        let worker = &self.workers[w];
        let own = self.pending.iter().filter(|(_, pending)| pending.owner == worker.name);
        let lost: Vec<_> = own
            .filter(|(id, _)| !worker.ledger.holds(**id))
            .map(|(id, pending)| (*id, pending.deliveries))
            .collect();
        for (id, deliveries) in lost {
            self.hand_out(w, id, deliveries);
        }
    }

    /// An entry has come to a worker: a pack that was delivered before is split, everything else goes to the channel.
    fn hand_out(&mut self, w: usize, id: EntryId, deliveries: u32) {
        let mut requests = self.stream[&id].clone();
        for request in &mut requests {
            request.attempt += deliveries - 1;
        }
        if deliveries > 1 && requests.len() > 1 && !self.workers[w].ledger.holds(id) {
            return self.split(w, id, requests);
        }
        if !self.workers[w].ledger.take(id, requests.len()) {
            return;
        }
        for (index, request) in requests.into_iter().enumerate() {
            let arrival = Arrival {
                origin: Origin::Group,
                kind: match request.draft.notification {
                    true => Kind::Notification,
                    false => Kind::Call,
                },
                own: false,
                expired: self.is_expired(&request),
                served: true,
                too_large: false,
                at_most_once: request.draft.at_most_once,
                forgotten: false,
                attempt: request.attempt,
                max_attempts: MAX_DELIVERIES,
            };
            let job = Job {
                entry: id,
                index,
                request,
            };
            match arrival.admit() {
                Admission::Run => self.workers[w].waiting.push_back(job),
                Admission::Skip(_) => self.settle(w, &job, Fate::Expired),
                Admission::Refuse(_) => self.settle(w, &job, Fate::Refused),
                Admission::Bury(_) => self.settle(w, &job, Fate::Buried),
            }
        }
    }

    /// The script that splits: only if the pack is still this worker's.
    fn split(&mut self, w: usize, id: EntryId, requests: Vec<Request>) {
        let owner = self.pending.get(&id).map(|pending| pending.owner);
        if owner != Some(self.workers[w].name) {
            return;
        }
        for request in requests {
            if self.is_expired(&request) && !request.draft.notification {
                self.lives[request.id].fates.push(Fate::Expired);
            } else {
                self.append(vec![request]);
            }
        }
        self.pending.remove(&id);
    }

    fn is_expired(&self, request: &Request) -> bool {
        request.expires.is_some_and(|at| at <= self.now)
    }

    fn settle(&mut self, w: usize, job: &Job, fate: Fate) {
        let worker = &mut self.workers[w];
        let last = worker.ledger.settle(job.entry, job.index);
        worker.outbox.push(Settlement {
            request: job.request.id,
            fate,
            acknowledge: last.then_some(job.entry),
        });
    }

    fn begin(&mut self, w: usize) {
        let Some(job) = self.workers[w].waiting.pop_front() else {
            return;
        };
        if self.is_expired(&job.request) {
            return self.settle(w, &job, Fate::Expired);
        }
        if self.workers[w].ledger.begin(job.entry) {
            assert!(job.request.attempt <= MAX_DELIVERIES, "attempt {}", job.request.attempt);
            let life = &mut self.lives[job.request.id];
            life.runs += 1;
            let again = job.request.attempt > 1;
            assert!(
                !life.draft.at_most_once || (life.runs == 1 && !again),
                "request {} runs twice",
                job.request.id
            );
            let running = &mut self.workers[w].running;
            let held = running
                .iter()
                .any(|other| (other.entry, other.index) == (job.entry, job.index));
            assert!(!held, "request {} runs here already", job.request.id);
            running.push_back(job);
        }
    }

    fn finish(&mut self, w: usize, well: bool) {
        let Some(mut job) = self.workers[w].running.pop_front() else {
            return;
        };
        if self.is_expired(&job.request) {
            return self.settle(w, &job, Fate::Expired);
        }
        if well || !job.request.draft.notification {
            // A call that fails is answered, too.
            self.settle(w, &job, Fate::Executed);
        } else if job.request.draft.at_most_once || job.request.attempt == MAX_DELIVERIES {
            self.settle(w, &job, Fate::Buried);
        } else {
            job.request.attempt += 1;
            self.workers[w].waiting.push_back(job);
        }
    }

    /// One transaction of everything that is settled.
    fn flush(&mut self, w: usize) {
        let outbox = std::mem::take(&mut self.workers[w].outbox);
        for settlement in &outbox {
            self.lives[settlement.request].fates.push(settlement.fate);
        }
        for id in outbox.iter().filter_map(|settlement| settlement.acknowledge) {
            for request in &self.stream[&id] {
                let settled = !self.lives[request.id].fates.is_empty();
                assert!(settled, "{id} is acknowledged, and request {} is open", request.id);
            }
            self.pending.remove(&id);
            self.workers[w].ledger.confirm(id);
        }
    }

    fn beat(&mut self, w: usize) {
        let (now, name) = (self.now, self.workers[w].name);
        self.beats.insert(name, now);
        let worker = &mut self.workers[w];
        worker.liveness.beat(now);
        // How long each consumer with entries has been idle.
        let mut owners: BTreeMap<u32, u64> = BTreeMap::new();
        for pending in self.pending.values() {
            let idle = owners.entry(pending.owner).or_insert(u64::MAX);
            *idle = (now - pending.since).min(*idle);
        }
        let dead = |beat: u64| beat == HANDED_BACK || worker.liveness.is_dead(beat);
        worker.estates.clear();
        for (owner, idle) in owners.iter().filter(|(owner, _)| **owner != name) {
            let beat = self.beats.get(owner).copied();
            let min_idle = match beat {
                Some(HANDED_BACK) => 0,
                Some(beat) if dead(beat) => DEATH,
                None if *idle >= FOREIGN_IDLE && worker.liveness.is_dead(HANDED_BACK) => FOREIGN_IDLE,
                _ => continue,
            };
            worker.estates.push(Estate {
                owner: *owner,
                beat,
                min_idle,
            });
        }
        // The dead who have nothing are removed after a while.
        let bare: Vec<u32> = self
            .beats
            .iter()
            .filter(|(other, beat)| **other != name && dead(**beat) && !owners.contains_key(other))
            .map(|(other, _)| *other)
            .collect();
        worker.bare.retain(|other, _| bare.contains(other));
        for other in bare {
            if now - *worker.bare.entry(other).or_insert(now) >= LINGER {
                self.beats.remove(&other);
            }
        }
    }

    /// Takes over one entry of each estate.
    fn claim(&mut self, w: usize, answer: Answer) {
        let name = self.workers[w].name;
        for estate in self.workers[w].estates.clone() {
            // It has beaten since, or has been removed.
            if self.beats.get(&estate.owner).copied() != estate.beat {
                continue;
            }
            let now = self.now;
            let claimed = self
                .pending
                .iter_mut()
                .find(|(_, pending)| pending.owner == estate.owner && now - pending.since >= estate.min_idle);
            if let Some((id, pending)) = claimed {
                pending.owner = name;
                pending.deliveries += 1;
                pending.since = now;
                let (id, deliveries) = (*id, pending.deliveries);
                if answer == Answer::Arrives {
                    self.hand_out(w, id, deliveries);
                }
            }
        }
    }

    fn close(&mut self, w: usize) {
        let worker = &mut self.workers[w];
        let begun = worker.ledger.hand_back();
        for (id, pending) in &mut self.pending {
            if pending.owner == worker.name && !begun.contains(id) {
                pending.deliveries -= 1;
            }
        }
        // A slot becomes free in this moment: what waits must not begin any more, or only with what has begun.
        while !self.workers[w].waiting.is_empty() {
            self.begin(w);
        }
        self.beats.insert(self.workers[w].name, HANDED_BACK);
        self.workers[w] = self.hire();
    }

    /// No more faults: everything that was accepted is settled, soon.
    fn calm_down(&mut self) {
        for w in 0..WORKERS {
            self.thaw(w);
        }
        for _ in 0..2 * FOREIGN_IDLE / BEAT {
            for w in 0..WORKERS {
                self.beat(w);
                for _ in 0..10 {
                    self.claim(w, Answer::Arrives);
                    self.look(w);
                    self.read(w, Answer::Arrives);
                    while !self.workers[w].waiting.is_empty() || !self.workers[w].running.is_empty() {
                        self.begin(w);
                        self.finish(w, true);
                    }
                    self.flush(w);
                }
            }
            let last = self.stream.keys().next_back().copied();
            if self.pending.is_empty() && last.is_none_or(|last| last == self.delivered) {
                break;
            }
            self.now += BEAT;
        }
        assert!(self.pending.is_empty(), "pending for ever: {:?}", self.pending);
        for (id, life) in self.lives.iter().enumerate() {
            assert!(!life.fates.is_empty(), "request {id} is lost: {life:?}");
            let executed = life.fates.iter().filter(|fate| **fate == Fate::Executed).count();
            assert!(
                executed <= life.runs as usize,
                "request {id} was answered without having run: {life:?}"
            );
        }
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let ttl = prop_oneof![2 => Just(None), 3 => (0..20_000_u64).prop_map(Some)];
    (any::<bool>(), any::<bool>(), ttl).prop_map(|(notification, at_most_once, ttl)| Draft {
        notification,
        at_most_once,
        ttl,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let worker = || 0..WORKERS;
    let answer = || prop_oneof![9 => Just(Answer::Arrives), 1 => Just(Answer::Lost)];
    prop_oneof![
        6 => proptest::collection::vec(draft(), 1..=4).prop_map(Event::Send),
        10 => (0..2_500_u64).prop_map(Event::Tick),
        12 => (worker(), answer()).prop_map(|(w, answer)| Event::Read(w, answer)),
        2 => worker().prop_map(Event::Look),
        16 => worker().prop_map(Event::Begin),
        10 => (worker(), any::<bool>()).prop_map(|(w, well)| Event::Finish(w, well)),
        6 => worker().prop_map(Event::Flush),
        20 => worker().prop_map(Event::Beat),
        1 => worker().prop_map(Event::MissBeat),
        12 => (worker(), answer()).prop_map(|(w, answer)| Event::Claim(w, answer)),
        2 => worker().prop_map(Event::Freeze),
        2 => worker().prop_map(Event::Thaw),
        2 => worker().prop_map(Event::Die),
        2 => worker().prop_map(Event::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens: nothing runs twice that must not, nothing is tried more often than it may, an acknowledged entry
    /// has nothing open; and once it stops, everything that was accepted is settled.
    #[test]
    fn nothing_is_lost_and_nothing_is_run_that_must_not(events in proptest::collection::vec(event(), 0..400)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
        }
        world.calm_down();
    }
}

/// Too rare to be met by chance: it was taken for dead, and its heir has died since.
#[test]
fn an_entry_that_comes_back_to_the_worker_that_still_runs_it_is_not_run_again() {
    let mut world = World::new();
    let draft = Draft {
        notification: false,
        at_most_once: false,
        ttl: None,
    };
    let watch = |world: &mut World, w: usize| {
        for _ in 0..10 {
            world.happen(Event::Tick(BEAT));
            world.happen(Event::Beat(w));
        }
    };
    for event in [
        Event::Send(vec![draft]),
        Event::Read(0, Answer::Arrives),
        Event::Begin(0),
        Event::Freeze(0),
    ] {
        world.happen(event);
    }
    watch(&mut world, 1);
    world.happen(Event::Claim(1, Answer::Lost));
    world.happen(Event::Die(1));
    world.happen(Event::Thaw(0));
    watch(&mut world, 0);
    world.happen(Event::Claim(0, Answer::Arrives));
    let (_, pending) = world.pending.iter().next().unwrap();
    assert_eq!((pending.owner, pending.deliveries), (world.workers[0].name, 3));
    assert!(world.workers[0].waiting.is_empty());
    world.calm_down();
    assert_eq!(world.lives[0].runs, 1);
}
