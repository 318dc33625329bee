//! The processes of one run: a Redis that keeps what it accepts, workers, clients.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rpc_core::EntryId;
use rpc_redis_streams::{Config, RedisStreamsIo};
use tempfile::TempDir;
use tests::processes::ProcessBuilder;
use tests::{Process, RedisServer};
use tokio::time::{Instant, sleep};

use crate::client::{DRAIN, Mix};
use crate::clock::{self, Micros};
use crate::evidence::{Evidence, Logs, id, ids, requests};
use crate::proxy::Proxy;
use crate::service::{GROUP, STREAM};
use crate::worker::Sabotage;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// How long a worker may take to close: its grace period, and some.
const CLOSE: Duration = Duration::from_secs(20);

/// How long the workers may take to run what is left when the clients have ended: another death, and some.
const QUIESCE: Duration = Duration::from_secs(30);

/// After how long killed workers are started again.
pub(crate) const RESTART: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(10);

/// What is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) clients: usize,
    /// Calls that each client makes in a second.
    pub(crate) rate: u64,
    /// Whether workers and clients reach Redis through a proxy.
    pub(crate) proxied: bool,
    /// Whether it is a broadcast stream, whose subscribers are not started here.
    pub(crate) broadcast: bool,
    /// Handlers at once of each worker.
    pub(crate) concurrency: usize,
    pub(crate) sabotage: Option<Sabotage>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workers: 4,
            clients: 2,
            rate: 250,
            proxied: false,
            broadcast: false,
            concurrency: 1024,
            sabotage: None,
        }
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) redis: RedisServer,
    pub(crate) proxy: Option<Proxy>,
    setup: Setup,
    workers: Vec<Worker>,
    clients: Vec<Process>,
    /// How many workers and clients were ever started: the next one's number.
    started: u64,
    logs: Logs,
    dir: TempDir,
}

#[derive(Debug)]
struct Worker {
    process: Process,
    consumer: String,
}

/// A worker that was stopped, and what it then had in hand.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) at: Micros,
    pub(crate) pid: u32,
    /// The calls and notifications in all entries that were handed to it and not acknowledged.
    pub(crate) unsettled: Vec<u64>,
}

impl Stage {
    /// Starts Redis and the workers, and waits until they are ready.
    pub(crate) async fn start(setup: Setup) -> Self {
        let redis = RedisServer::builder()
            .arg("--appendonly", "yes")
            .arg("--appendfsync", "always")
            .start()
            .await;
        let proxy = match setup.proxied {
            true => Some(Proxy::start(redis.port()).await.expect("start the proxy")),
            false => None,
        };
        let dir = tempfile::Builder::new()
            .prefix("chaos-")
            .tempdir()
            .expect("a temporary directory");
        let mut stage = Self {
            redis,
            proxy,
            setup,
            workers: Vec::new(),
            clients: Vec::new(),
            started: 0,
            logs: Logs::default(),
            dir,
        };
        for _ in 0..stage.setup.workers {
            let worker = stage.spawn_worker();
            stage.workers.push(worker);
        }
        for worker in &mut stage.workers {
            worker.process.wait_for_line(READY, |line| line == "ready").await;
        }
        stage
    }

    /// Starts the clients, and with them the load; returns when they have begun.
    pub(crate) async fn start_clients(&mut self) {
        let rate = self.setup.rate.to_string();
        for _ in 0..self.setup.clients {
            let url = self.url();
            self.start_client(&url, Mix::All, &["--rate", &rate]).await;
        }
    }

    /// Starts one client with a load of its own.
    pub(crate) async fn start_client(&mut self, url: &str, mix: Mix, load: &[&str]) {
        let mix = clap::ValueEnum::to_possible_value(&mix).expect("none is skipped");
        let index = self.next_number();
        let mut client = self
            .program("client", &format!("client-{index}"))
            .args(["--url", url, "--index", &index.to_string()])
            .args(["--mix", mix.get_name()])
            .args(load)
            .start();
        client.wait_for_line(READY, |line| line == "ready").await;
        self.clients.push(client);
    }

    fn spawn_worker(&mut self) -> Worker {
        let consumer = format!("worker-{}", self.next_number());
        let mut worker = self
            .program("worker", &consumer)
            .args(["--url", &self.url(), "--consumer", &consumer])
            .args(["--concurrency", &self.setup.concurrency.to_string()]);
        if let Some(sabotage) = self.setup.sabotage {
            let sabotage = clap::ValueEnum::to_possible_value(&sabotage).expect("none is skipped");
            worker = worker.args(["--sabotage", sabotage.get_name()]);
        }
        Worker {
            process: worker.start(),
            consumer,
        }
    }

    /// This very program in another role, with a journal of its own.
    pub(crate) fn program(&self, role: &str, name: &str) -> ProcessBuilder {
        let program = std::env::current_exe().expect("the path of this program");
        let journal = self.journal(name);
        Process::program(program)
            .args([role])
            .args([Path::new("--journal"), &journal])
    }

    /// The file for what a process writes down.
    pub(crate) fn journal(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.journal"))
    }

    /// Takes over what a process has logged that the stage has not started.
    pub(crate) fn take_logs(&mut self, process: &Process) {
        self.logs.take(process, self.dir.path());
    }

    /// Waits until the journals of these processes have not grown for two seconds, at most 20 s: on a machine that is too busy,
    /// a subscriber may be behind for longer than one thinks; and within a second after that it counts what it has missed.
    pub(crate) async fn falls_silent(&self, names: &[&str]) {
        let written = || -> u64 {
            let journals = names.iter().map(|name| self.journal(name));
            journals.filter_map(|path| Some(path.metadata().ok()?.len())).sum()
        };
        for _ in 0..10 {
            let before = written();
            sleep(Duration::from_secs(2)).await;
            if written() == before {
                return;
            }
        }
    }

    /// The journals so far.
    pub(crate) fn journals(&self) -> Evidence {
        let mut evidence = Evidence::default();
        evidence.read_journals(self.dir.path());
        evidence
    }

    /// A number that no process of this run has yet.
    pub(crate) fn next_number(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// Where a process reaches Redis.
    pub(crate) fn url(&self) -> String {
        self.proxy.as_ref().map_or_else(|| self.redis.url(), Proxy::url)
    }

    pub(crate) fn worker_count(&self) -> usize {
        self.workers.len()
    }

    pub(crate) fn worker(&mut self, index: usize) -> &mut Process {
        &mut self.workers[index].process
    }

    /// SIGKILL to one worker.
    pub(crate) async fn kill_worker(&mut self, index: usize) -> Stop {
        self.workers[index].process.kill();
        // It has ended by now, so all that it ever finished was finished before.
        self.stopped(index, clock::now()).await
    }

    /// SIGSTOP to one worker.
    pub(crate) async fn pause_worker(&mut self, index: usize) -> Stop {
        self.workers[index].process.pause();
        self.stopped(index, clock::now()).await
    }

    /// What a worker has in hand that was stopped at this time.
    pub(crate) async fn stopped(&self, index: usize, at: Micros) -> Stop {
        let worker = &self.workers[index];
        Stop {
            at,
            pid: worker.process.pid(),
            unsettled: self.unsettled(&worker.consumer).await,
        }
    }

    /// Puts a new worker in the place of one that has ended, without waiting until it serves.
    pub(crate) fn replace_worker(&mut self, index: usize) {
        let worker = self.spawn_worker();
        let ended = std::mem::replace(&mut self.workers[index], worker);
        self.logs.take(&ended.process, self.dir.path());
    }

    /// Waits until a worker serves.
    pub(crate) async fn worker_is_ready(&mut self, index: usize) {
        let process = &mut self.workers[index].process;
        process.wait_for_line(READY, |line| line == "ready").await;
    }

    /// The ids in the entries that are pending for `consumer`.
    pub(crate) async fn unsettled(&self, consumer: &str) -> Vec<u64> {
        let question = ["XPENDING", STREAM, GROUP, "-", "+", "100000", consumer];
        let rows = self.redis.command(&question).await;
        let rows: Vec<(String, String, u64, u64)> = redis::from_redis_value(rows).expect("rows of XPENDING");
        let pending: HashSet<EntryId> = rows.iter().filter_map(|row| row.0.parse().ok()).collect();
        let (Some(first), Some(last)) = (pending.iter().min(), pending.iter().max()) else {
            return Vec::new();
        };
        let entries = self
            .observer()
            .await
            .entries(*first..=*last, 1_000_000)
            .await
            .expect("read the stream");
        let mut unsettled = Vec::new();
        for entry in entries.iter().filter(|entry| pending.contains(&entry.id)) {
            for request in requests(&entry.content) {
                unsettled.extend(self.id(&request.arguments).await);
            }
        }
        unsettled
    }

    /// The id in the arguments of a call, which may lie in parts.
    async fn id(&self, arguments: &str) -> Option<u64> {
        let Some((_, place)) = arguments.split_once(" bytes in parts: ") else {
            return id(arguments);
        };
        let name = place.split(' ').next()?;
        let first = self
            .redis
            .command(&["GET", &format!("{{{STREAM}}}:parts:{name}:0")])
            .await;
        id(&redis::from_redis_value::<String>(first).ok()?)
    }

    /// The consumers of the group.
    pub(crate) async fn consumers(&self) -> BTreeSet<String> {
        let info = self.observer().await.stream_info().await.expect("ask redis");
        let consumers = info.groups.into_iter().flat_map(|group| group.consumers);
        consumers.map(|consumer| consumer.name).collect()
    }

    /// A connection that takes part in nothing, straight to Redis.
    pub(crate) async fn observer(&self) -> RedisStreamsIo {
        let config = Config::builder().url(self.redis.unix_url()).stream(STREAM);
        let config = match self.setup.broadcast {
            true => config.broadcast(),
            false => config.group(GROUP),
        };
        let config = config.build().expect("a valid configuration");
        RedisStreamsIo::connect(config).await.expect("connect to redis")
    }

    /// One number that Redis knows by the name that INFO gives it.
    pub(crate) async fn info(&self, name: &str) -> u64 {
        let info: String = redis::from_redis_value(self.redis.command(&["INFO"]).await).expect("text");
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .and_then(|value| value.parse().ok())
            .expect("a number that INFO knows")
    }

    /// Ends the load, waits until everything that was accepted has been run, and ends the workers.
    pub(crate) async fn finish(mut self) -> Evidence {
        let mut evidence = Evidence {
            load_ended: clock::now(),
            ..Evidence::default()
        };
        self.end_clients(&mut evidence).await;
        if !self.workers.is_empty() && !self.quiesced().await {
            let info = self.observer().await.stream_info().await;
            let problem = format!("not everything was settled {QUIESCE:?} after the end of the load: {info:?}");
            evidence.problems.push(problem);
        }
        self.end_workers(&mut evidence).await;
        let letters = self
            .observer()
            .await
            .dead_letters(100_000)
            .await
            .expect("read the dead letters");
        evidence.dead_letters = letters.iter().flat_map(|letter| ids(&letter.content)).collect();
        evidence.read_journals(self.dir.path());
        evidence.logs = self.logs;
        evidence.dir = Some(self.dir);
        evidence
    }

    /// Ends the clients that run now, and waits until their calls have ended.
    pub(crate) async fn end_clients(&mut self, evidence: &mut Evidence) {
        self.clients.iter_mut().for_each(Process::terminate);
        for mut client in self.clients.drain(..) {
            if !ends(&mut client, DRAIN + Duration::from_secs(10)).await {
                client.kill();
                evidence.problems.push("a client did not end".to_owned());
            }
            evidence.take_stats(&client);
            self.logs.take(&client, self.dir.path());
        }
    }

    async fn end_workers(&mut self, evidence: &mut Evidence) {
        self.workers.iter_mut().for_each(|worker| worker.process.terminate());
        for mut worker in self.workers.drain(..) {
            if !ends(&mut worker.process, CLOSE).await {
                worker.process.kill();
                evidence
                    .problems
                    .push(format!("{} did not close within {CLOSE:?}", worker.consumer));
            }
            self.logs.take(&worker.process, self.dir.path());
        }
    }

    /// Waits until nothing is pending or unread.
    async fn quiesced(&self) -> bool {
        let observer = self.observer().await;
        let deadline = Instant::now() + QUIESCE;
        while Instant::now() < deadline {
            if let Ok(info) = observer.stream_info().await
                && let [group] = &info.groups[..]
                // Not by the lag: Redis loses count of what is unread when entries are deleted, and after it was killed.
                && info.last <= Some(group.last_delivered)
                && group.pending == 0
            {
                return true;
            }
            sleep(POLL).await;
        }
        false
    }
}

/// Waits for the end of a process; false if that takes longer than `limit`.
pub(crate) async fn ends(process: &mut Process, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while process.is_running() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL).await;
    }
    // Its output is read by a thread, which may be a little behind.
    process.wait_for_exit(Duration::from_secs(5)).await;
    true
}

/// How much memory a process occupies, in bytes.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kib * 1024
}
