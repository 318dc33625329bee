//! A client process: makes the load, and writes down how each call ends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rpc_core::{CallError, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::clock;
use crate::journal::{Event, Journal, Kind, Outcome};
use crate::service::{Answer, GROUP, LoadClient, STREAM};

/// How long calls have to live, so that a hang cannot pass for a timeout.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after the end of the load its calls may take to end: somewhat longer than they have to live. What has not
/// ended by then hangs.
pub(crate) const DRAIN: Duration = Duration::from_secs(40);

/// How many calls may wait at once; calls beyond that are made later.
const MOST_IN_FLIGHT: usize = 20_000;

/// One in so many ids is that of a call with so many bytes, if it is of a kind that carries any.
const LARGE_EVERY: u64 = 97;
const LARGE: u64 = 600 << 10;

/// Ids of one client are below those of the next.
const IDS: u64 = 1 << 40;

/// How a client process is started.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClientArgs {
    /// Where Redis is, or a proxy before it.
    #[arg(long)]
    pub(crate) url: String,
    /// Where to write what is called.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Tells the clients of a run apart.
    #[arg(long)]
    pub(crate) index: u64,
    /// What to call.
    #[arg(long, value_enum)]
    pub(crate) mix: Mix,
    /// Calls to make in a second, whether or not the earlier ones have ended.
    #[arg(long, default_value_t = 0)]
    pub(crate) rate: u64,
    /// Instead: callers, each of which makes a call when the one before has ended.
    #[arg(long, default_value_t = 0)]
    pub(crate) callers: u64,
    /// How many requests may wait in the stream before more are refused.
    #[arg(long)]
    pub(crate) max_backlog: Option<usize>,
}

/// What a client calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mix {
    /// All kinds.
    All,
    /// Calls of 20 ms.
    Even,
    /// Notifications.
    Notes,
}

impl Mix {
    fn kind(self, n: u64) -> Kind {
        match self {
            Self::Even => Kind::Slow,
            Self::Notes => Kind::Note,
            Self::All => match n % 20 {
                0..8 => Kind::Quick,
                8..14 => Kind::Slow,
                14..16 => Kind::Once,
                16 => Kind::Fail,
                _ => Kind::Note,
            },
        }
    }

    fn duration_ms(self, kind: Kind, n: u64) -> u64 {
        match (self, kind) {
            (Self::Even, _) => 20,
            (_, Kind::Once) => 10 + n * 53 % 190,
            // So many and so long that every worker always has some in hand, whenever it is killed.
            _ => 100 + n * 37 % 300,
        }
    }
}

/// Makes calls and writes them down; a cheap clone.
#[derive(Clone)]
pub(crate) struct Caller {
    client: LoadClient,
    journal: Arc<Journal>,
}

impl Caller {
    pub(crate) fn new(channel: &RpcChannel, journal: Journal) -> Self {
        Self {
            client: LoadClient::new(channel),
            journal: Arc::new(journal),
        }
    }

    /// Makes one call that takes `ms`, where the kind has a duration, and waits for its end.
    pub(crate) async fn call(&self, kind: Kind, id: u64, ms: u64) -> Outcome {
        // Some are too large for an entry.
        let size = if id.is_multiple_of(LARGE_EVERY) {
            LARGE
        } else {
            id % 700
        };
        let padding = "x".repeat(usize::try_from(size).unwrap_or(0));
        let client = &self.client;
        self.journal.write(Event::Sent { kind, id });
        let sent = clock::now();
        let answer = match kind {
            Kind::Quick => client.quick(id, padding.clone()).await.map(Some).map_err(classify),
            Kind::Slow => client.slow(id, ms).await.map(Some).map_err(classify),
            Kind::Once => client.once(id, ms).await.map(Some).map_err(classify),
            Kind::Poison => client.poison(id).await.map(Some).map_err(classify),
            Kind::Note => client.note(id).await.map(|()| None).map_err(classify),
            Kind::Fail => client.fail(id).await.map(Some).map_err(|error| match error {
                CallError::Service(answer) => (Outcome::Service, Some(answer)),
                error => classify(error),
            }),
        };
        let (mut outcome, answer) = match answer {
            Ok(answer) => (Outcome::Ok, answer),
            Err(error) => error,
        };
        let meant_for_another = |answer: &Answer| answer.id != id || (kind == Kind::Quick && answer.padding != padding);
        if answer.as_ref().is_some_and(meant_for_another) {
            outcome = Outcome::Wrong;
        }
        self.journal.write(Event::Ended {
            kind,
            id,
            outcome,
            latency: clock::now() - sent,
            by: answer.map(|answer| (answer.pid, answer.attempt)),
        });
        outcome
    }
}

fn classify<E>(error: CallError<E>) -> (Outcome, Option<Answer>) {
    let outcome = match error {
        CallError::Service(_) => Outcome::Service,
        CallError::DeadlineExceeded { .. } => Outcome::Timeout,
        CallError::Overloaded { .. } => Outcome::Overloaded,
        CallError::NoWorkers { .. } => Outcome::NoWorkers,
        CallError::WorkerLost { .. } => Outcome::WorkerLost,
        CallError::Indeterminate { .. } => Outcome::Indeterminate,
        CallError::Io { .. } => Outcome::Io,
        CallError::Closed { .. } => Outcome::Closed,
        _ => Outcome::Other,
    };
    (outcome, None)
}

/// Opens a channel that only calls.
pub(crate) async fn open(url: &str, broadcast: bool, max_backlog: Option<usize>) -> RpcChannel {
    let config = Config::builder().url(url).stream(STREAM).call_timeout(CALL_TIMEOUT);
    let mut config = match broadcast {
        true => config.broadcast(),
        false => config.group(GROUP),
    };
    if let Some(requests) = max_backlog {
        config = config.max_backlog(requests);
    }
    let config = config.build().expect("a valid configuration");
    let io = RedisStreamsIo::connect(config).await.expect("connect to redis");
    RpcChannel::open(io).await.expect("open a channel")
}

/// The first id of a client.
pub(crate) fn first_id(index: u64) -> u64 {
    index * IDS
}

/// The client that an id is of.
pub(crate) fn client_of(id: u64) -> u64 {
    id / IDS
}

/// Calls until SIGTERM, then waits for the calls to end. Prints `ready` at the start and what it has done at the end.
pub(crate) async fn run(args: ClientArgs) {
    let mut terminate = signal(SignalKind::terminate()).expect("hear SIGTERM");
    let channel = open(&args.url, args.mix == Mix::Notes, args.max_backlog).await;
    let caller = Caller::new(&channel, Journal::append_to(&args.journal).expect("open the journal"));
    let room = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
    println!("ready");
    let (mix, first) = (args.mix, first_id(args.index));
    let make = |n: u64| {
        let caller = caller.clone();
        async move {
            let (kind, id) = (mix.kind(n), first + n);
            caller.call(kind, id, mix.duration_ms(kind, n)).await;
        }
    };
    let load = async {
        if args.callers > 0 {
            closed_loop(args.callers, &room, make).await;
        } else {
            open_loop(args.rate, &room, make).await;
        }
    };
    tokio::select! {
        () = load => {}
        _ = terminate.recv() => {}
    }
    // All calls have ended when all the room there was is free again.
    let all = u32::try_from(MOST_IN_FLIGHT).expect("a small number");
    let ended = timeout(DRAIN, room.acquire_many(all)).await.is_ok();
    if !ended {
        eprintln!("{} calls have not ended", MOST_IN_FLIGHT - room.available_permits());
    }
    println!("stats {}", serde_json::json!(channel.stats()));
    // Closing would end the calls that hang, and a hang is to be seen as one.
    if ended {
        channel.close().await;
    }
}

/// Makes `rate` calls a second, for as long as it is polled.
async fn open_loop<F: Future<Output = ()> + Send + 'static>(rate: u64, room: &Arc<Semaphore>, make: impl Fn(u64) -> F) {
    let started = Instant::now();
    let mut tick = interval(Duration::from_millis(10));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut made = 0;
    loop {
        tick.tick().await;
        let due = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX) * rate / clock::SECOND;
        for n in made..due {
            let permit = Arc::clone(room).acquire_owned().await.expect("never closed");
            let call = make(n);
            tokio::spawn(async move {
                call.await;
                drop(permit);
            });
        }
        made = due.max(made);
    }
}

/// Keeps `callers` calls under way, for as long as it is polled.
async fn closed_loop<F: Future<Output = ()> + Send + 'static>(
    callers: u64,
    room: &Arc<Semaphore>,
    make: impl Fn(u64) -> F,
) {
    let slots = Arc::new(Semaphore::new(usize::try_from(callers).expect("a small number")));
    for n in 0.. {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
        let permit = Arc::clone(room).acquire_owned().await.expect("never closed");
        let call = make(n);
        tokio::spawn(async move {
            call.await;
            drop((slot, permit));
        });
    }
}
