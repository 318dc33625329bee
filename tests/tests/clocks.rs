//! Clocks that are wrong: a worker's, and that of the entries' ids.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use redis::Value;
use rpc_core::{CallError, EntryId, Mode, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use support::{EchoClient, Gate, client, connect, serve};
use tests::recorder::{RecorderClient, STREAM};
use tests::{Process, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);
const HOUR_MS: u64 = 3_600_000;

/// The library that gives a process a wrong clock, where it is installed (Debian: `faketime`).
fn libfaketime() -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = ["/usr/lib/faketime", "/usr/lib64/faketime", "/usr/local/lib/faketime"]
        .map(PathBuf::from)
        .into();
    let per_architecture = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places.extend(per_architecture.map(|directory| directory.path().join("faketime")));
    let libraries = places.iter().map(|place| place.join("libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.is_file())
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

async fn start_peer(server: &RedisServer, file: &Path, library: &Path, offset: &str) -> Process {
    let file = file.display().to_string();
    let arguments = [server.url(), "group".to_owned(), "off".to_owned(), file];
    let mut peer = Process::program(env!("CARGO_BIN_EXE_peer"))
        .args(arguments)
        .env("LD_PRELOAD", library)
        .env("FAKETIME", offset)
        // What counts is the wall clock: a monotonic one has no hour to be off.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    peer.wait_for_line(SOON, |line| line == "ready").await;
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_clock_is_an_hour_off_keeps_deadlines() {
    let Some(library) = libfaketime() else {
        // A test cannot say that it was skipped, other than so.
        #[allow(clippy::print_stderr)]
        {
            eprintln!(
                "SKIPPED: a worker with a wrong clock: libfaketime is not installed (Debian: apt-get install faketime)"
            );
        }
        return;
    };
    for (offset, ahead) in [("+1h", true), ("-1h", false)] {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let file = server.dir().join("off.log");
            let mut peer = start_peer(&server, &file, &library, offset).await;
            let config = Config::builder().url(server.url()).stream(STREAM).group("recorders");
            let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
            // The clock that it sees is in its session's id.
            let session = io.workers().await.unwrap()[0].session.to_string().replace('-', "");
            let its_time = u64::from_str_radix(&session[..12], 16).unwrap();
            let off = its_time.abs_diff(now_ms());
            assert!(
                off.abs_diff(HOUR_MS) < 60_000 && (its_time > now_ms()) == ahead,
                "{off}"
            );

            let observer = io.clone();
            let channel = RpcChannel::open(io).await.unwrap();
            let recorder = RecorderClient::new(&channel);
            for n in 0..100 {
                let patient = recorder.with_timeout(Duration::from_secs(2));
                assert_eq!(patient.record(n).await.unwrap(), "off");
            }
            // Handed out while the worker stands still, and expired when it goes on.
            peer.pause();
            let hasty = recorder.with_timeout(Duration::from_millis(300));
            let expired = hasty.record(1_000).await;
            assert!(
                matches!(expired, Err(CallError::DeadlineExceeded { .. })),
                "{expired:?}"
            );
            // Its time counts from its entry, which was written a little later than the call was made.
            let written = observer.stream_info().await.unwrap().last.unwrap();
            eventually(SOON, "it has expired there, too", async || now_ms() > written.ms + 310).await;
            peer.resume();
            recorder.record(100).await.unwrap();
            let ran = std::fs::read_to_string(&file).unwrap();
            let ran: Vec<u64> = ran.lines().map(|n| n.parse().unwrap()).collect();
            assert_eq!(ran, (0..=100).collect::<Vec<_>>(), "each once, and not the expired one");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_from_the_future_harms_nobody() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let future = now_ms() + HOUR_MS;
        let note = "notify 01930000-0000-7000-8000-0000000000aa json\n1 echo.note 60000 1 0 3\n[1]\n";
        let id = format!("{future}-0");
        server.command(&["XADD", "faults", &id, "rpc1", note]).await;
        // Everybody who comes from now on; all ids go on from that one.
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        eventually(SOON, "it runs", async || gate.runs() == 1).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let patient = echo.with_timeout(Duration::from_secs(2));
        for n in 0..300 {
            assert_eq!(patient.echo(n.to_string()).await.unwrap(), n.to_string());
        }
        let io = connect(&server, Mode::Group).await;
        let last = io.stream_info().await.unwrap().last.unwrap();
        assert_eq!(last.ms, future);

        // A deadline counts from the receipt: it is not an hour later.
        let hasty = echo.with_timeout(Duration::from_millis(300)).gated(1);
        assert!(matches!(hasty.await, Err(CallError::DeadlineExceeded { .. })));
        eventually(SOON, "its handler ends", async || gate.running() == 0).await;
        // That call's entry, too: until it is known to be settled, it is handed out again with a new group.
        let last = io.stream_info().await.unwrap().last.unwrap();

        // What is settled is trimmed, and known.
        let floor = async || {
            let floor = server.command(&["HGET", "{faults}:meta", "floor"]).await;
            let floor: Option<String> = redis::from_redis_value(floor).unwrap();
            floor.map(|floor| floor.parse::<EntryId>().unwrap())
        };
        eventually(SOON, "the floor is beyond what has run", async || {
            floor().await.is_some_and(|floor| floor > last)
        })
        .await;
        eventually(SOON, "it is trimmed", async || {
            io.stream_info().await.unwrap().length <= 100
        })
        .await;
        let runs = gate.runs();
        server.command(&["XGROUP", "DESTROY", "faults", "workers"]).await;
        assert_eq!(patient.echo("on".to_owned()).await.unwrap(), "on");
        assert_eq!(gate.runs(), runs + 1, "nothing settled is run again");

        // The stream begins anew, an hour before the floor.
        server.command(&["DEL", "faults"]).await;
        eventually(SOON, "it is served again", async || {
            patient.echo("again".to_owned()).await.is_ok()
        })
        .await;
        eventually(SOON, "the floor goes back", async || {
            floor().await.is_some_and(|floor| floor.ms < future - HOUR_MS / 2)
        })
        .await;
        assert_eq!(
            server.command(&["XPENDING", "faults", "workers", "-", "+", "9"]).await,
            Value::Array(Vec::new())
        );
    })
    .await;
}
