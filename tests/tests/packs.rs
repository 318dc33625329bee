//! Entries of several requests, written by hand in the form of `docs/wire.md`: what becomes of each of them when their
//! worker dies.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Value;
use rpc_core::Mode;
use rpc_redis_streams::{Config, EntryContent, RedisStreamsIo};
use support::{Gate, connect, serve};
use tests::recorder::STREAM;
use tests::{Process, RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);
const CALLER: &str = "01930000-0000-7000-8000-0000000000aa";

/// Writes an entry of calls or notifications: method, time to live, arguments; numbered from 1.
async fn write(server: &RedisServer, stream: &str, kind: &str, requests: &[(&str, &str, &str)]) -> String {
    let mut value = format!("{kind} {CALLER} json\n");
    for (n, (method, ttl, arguments)) in requests.iter().enumerate() {
        value += &format!("{} {method} {ttl} 1 0 {}\n{arguments}\n", n + 1, arguments.len());
    }
    let id = server.command(&["XADD", stream, "*", "rpc1", &value]).await;
    redis::from_redis_value(id).unwrap()
}

async fn open_inbox(server: &RedisServer, stream: &str) {
    let (inbox, hello) = (format!("{{{stream}}}:inbox:{CALLER}"), format!("hello {CALLER} -\n"));
    server.command(&["XADD", &inbox, "*", "rpc1", &hello]).await;
}

/// The replies to the caller, by the number of the call: status and payload of the first.
async fn replies(server: &RedisServer, stream: &str) -> BTreeMap<u64, String> {
    let inbox = format!("{{{stream}}}:inbox:{CALLER}");
    let entries = server.command(&["XRANGE", &inbox, "-", "+"]).await;
    let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(entries).unwrap();
    let mut replies = BTreeMap::new();
    for (_, fields) in entries {
        let mut lines = fields[1].lines().skip(1);
        while let (Some(frame), Some(payload)) = (lines.next(), lines.next()) {
            let mut words = frame.split(' ');
            let (sequence, status) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
            replies.entry(sequence).or_insert_with(|| format!("{status} {payload}"));
        }
    }
    replies
}

async fn start_peer(server: &RedisServer, name: &str) -> Process {
    let file = server.dir().join(format!("{name}.log")).display().to_string();
    let arguments = [server.url(), "group".to_owned(), name.to_owned(), file];
    let mut peer = Process::program(env!("CARGO_BIN_EXE_peer")).args(arguments).start();
    peer.wait_for_line(SOON, |line| line == "ready").await;
    peer
}

async fn recorder_io(server: &RedisServer) -> RedisStreamsIo {
    let config = Config::builder().url(server.url()).stream(STREAM).group("recorders");
    RedisStreamsIo::connect(config.build().unwrap()).await.unwrap()
}

async fn nothing_pending(server: &RedisServer, stream: &str, group: &str) -> bool {
    let rows = server.command(&["XPENDING", stream, group, "-", "+", "10"]).await;
    rows == Value::Array(Vec::new())
}

const BEGUN: fn(&str) -> bool = |line| line == "begun";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_of_a_killed_workers_pack_go_on_each_for_itself() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let mut one = start_peer(&server, "one").await;
        open_inbox(&server, STREAM).await;
        let calls = [
            ("recorder.stall", "60000", "[]"),
            ("recorder.stall_once", "60000", "[]"),
            ("recorder.record", "60000", "[7]"),
            ("recorder.stall", "3000", "[]"),
            ("recorder.stall", "-", "[]"),
        ];
        write(&server, STREAM, "call", &calls).await;
        for _ in 0..4 {
            one.wait_for_line(SOON, BEGUN).await;
        }
        eventually(SOON, "the third is answered", async || {
            replies(&server, STREAM).await.len() == 1
        })
        .await;
        let _two = start_peer(&server, "two").await;
        one.kill();
        eventually(SOON, "all are settled", async || {
            replies(&server, STREAM).await.len() == 4 && nothing_pending(&server, STREAM, "recorders").await
        })
        .await;
        let replies = replies(&server, STREAM).await;
        assert_eq!(replies[&1], "ok 2", "the second attempt");
        assert!(replies[&2].starts_with("worker-lost"), "{replies:?}");
        assert_eq!(replies[&3], "ok \"one\"");
        assert_eq!(replies[&5], "ok 2");
        // The pack itself, and the four that had not expired, one by one; what was left of their time is written down.
        let entries = recorder_io(&server).await.entries(.., 100).await.unwrap();
        let sizes = entries.iter().map(|entry| match &entry.content {
            EntryContent::Requests { requests, .. } => requests.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [5, 1, 1, 1, 1]);
        let second = server
            .command(&["XRANGE", STREAM, &entries[1].id.to_string(), "+", "COUNT", "1"])
            .await;
        let second: Vec<(String, Vec<String>)> = redis::from_redis_value(second).unwrap();
        let left: u64 = second[0].1[1]
            .lines()
            .nth(1)
            .unwrap()
            .split(' ')
            .nth(2)
            .unwrap()
            .parse()
            .unwrap();
        assert!((40_000..56_000).contains(&left), "{left}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_in_a_pack_hits_only_itself() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let mut last = start_peer(&server, "zero").await;
        open_inbox(&server, STREAM).await;
        let calls = [
            ("recorder.record", "120000", "[1]"),
            ("recorder.poison", "120000", "[]"),
            ("recorder.record", "120000", "[2]"),
        ];
        write(&server, STREAM, "call", &calls).await;
        for name in ["one", "two", "three"] {
            last.wait_for_line(SOON, BEGUN).await;
            last = start_peer(&server, name).await;
        }
        eventually(SOON, "all are answered", async || {
            replies(&server, STREAM).await.len() == 3
        })
        .await;
        let replies = replies(&server, STREAM).await;
        assert!(
            replies[&1].starts_with("ok") && replies[&3].starts_with("ok"),
            "{replies:?}"
        );
        assert!(replies[&2].starts_with("worker-lost 3 workers died"), "{replies:?}");
        let letters = recorder_io(&server).await.dead_letters(10).await.unwrap();
        assert_eq!(letters.len(), 1);
        match &letters[0].content {
            EntryContent::Requests { requests, .. } => {
                assert_eq!(requests.len(), 1);
                assert_eq!(requests[0].method, "recorder.poison");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(letters[0].attempts, 4);
        assert!(last.is_running());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_holds_one_request_and_none_of_its_neighbours() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let notes = [
            ("echo.note", "-", "[1]"),
            ("echo.gone", "-", "[2]"),
            ("echo.note", "-", "[3]"),
            ("echo.note", "0", "[4]"),
        ];
        write(&server, "faults", "notify", &notes).await;
        let io = connect(&server, Mode::Group).await;
        let letters = async || {
            let letters = io.dead_letters(10).await.unwrap();
            let content = letters.iter().map(|letter| match &letter.content {
                EntryContent::Requests { requests, .. } => {
                    assert_eq!(requests.len(), 1);
                    requests[0].arguments.clone()
                }
                other => panic!("{other:?}"),
            });
            let content: Vec<String> = content.collect();
            (letters, content)
        };
        eventually(SOON, "two are given up", async || letters().await.1 == ["[2]", "[4]"]).await;
        eventually(SOON, "two run", async || gate.runs() == 2).await;
        for letter in letters().await.0 {
            assert!(io.requeue(letter.id).await.unwrap());
            assert!(!io.requeue(letter.id).await.unwrap());
        }
        // The one is not served any better; the other runs, without its time to live.
        eventually(SOON, "one comes back", async || letters().await.1 == ["[2]"]).await;
        eventually(SOON, "one runs", async || gate.runs() == 3).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_one_group_splits_is_not_run_again_by_the_others() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let start = async |group: &str, gate: &std::sync::Arc<Gate>| {
            let config = Config::builder().url(server.url()).stream("faults").group(group);
            let config = config.close_grace(Duration::from_millis(10)).build().unwrap();
            let io = RedisStreamsIo::connect(config).await.unwrap();
            let builder = rpc_core::RpcChannel::builder(io).serve(support::server(gate)).unwrap();
            builder.start().await.unwrap()
        };
        let (shut, open, others) = (Gate::new(), Gate::new(), Gate::new());
        open.open();
        others.open();
        let _others = start("others", &others).await;
        let leaving = start("workers", &shut).await;
        open_inbox(&server, "faults").await;
        let calls = [("echo.gated", "60000", "[1]"), ("echo.gated", "60000", "[2]")];
        write(&server, "faults", "call", &calls).await;
        eventually(SOON, "both begin in both groups", async || {
            shut.running() == 2 && others.runs() == 2
        })
        .await;
        let _staying = start("workers", &open).await;
        leaving.close().await;
        eventually(SOON, "both are taken over", async || open.runs() == 2).await;
        eventually(SOON, "all is settled in both groups", async || {
            let info = connect(&server, Mode::Group).await.stream_info().await.unwrap();
            let last = info.last.unwrap();
            info.groups
                .iter()
                .all(|group| group.pending == 0 && group.last_delivered == last)
        })
        .await;
        assert_eq!((open.runs(), others.runs()), (2, 2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_words_in_an_entry_do_not_keep_redis_busy() {
    within(LIMIT, async {
        let server = RedisServer::builder()
            .arg("--slowlog-log-slower-than", "1000000")
            .start()
            .await;
        let gate = Gate::new();
        gate.open();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let io = connect(&server, Mode::Group).await;
        let long = 60_000;
        // A name that is too long, and a number that is well-formed: zeros may stand before it.
        for (sequence, method) in [
            ("1".to_owned(), "1".repeat(long)),
            ("0".repeat(long), "no.such".to_owned()),
        ] {
            let value = format!("notify {CALLER} json\n{sequence} {method} - 1 0 2\n[]\n");
            server.command(&["XADD", support::STREAM, "*", "rpc1", &value]).await;
        }
        eventually(SOON, "both are dead letters", async || {
            io.dead_letters(10).await.is_ok_and(|letters| letters.len() == 2)
        })
        .await;
        assert_eq!(
            server.command(&["SLOWLOG", "LEN"]).await,
            Value::Int(0),
            "slower than a second"
        );
        let echo = support::EchoClient::new(&support::client(&server, Mode::Group).await);
        assert_eq!(echo.echo("on".to_owned()).await.unwrap(), "on");
    })
    .await;
}
