//! Payloads that are too large for an entry: they lie in parts of their own, and are gone when nobody needs them any more.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use redis::Value;
use rpc_core::{CallError, Mode, RpcChannel};
use rpc_redis_streams::{ConfigBuilder, EntryContent, RedisStreamsIo};
use support::{
    EchoClient, Gate, STREAM, client, connect, serve, soon_dead, start, start_on_its_own_runtime, worker_config,
};
use tests::{RedisServer, eventually, eventually_some, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;
const CALLER: &str = "01930000-0000-7000-8000-0000000000aa";

async fn open(config: ConfigBuilder) -> RpcChannel {
    let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
    RpcChannel::open(io).await.unwrap()
}

/// A text of a MiB, each part of which is different.
fn text() -> String {
    let mut text: String = (0..MIB / 7).map(|n| format!("{n:07}")).collect();
    text.push_str(&"x".repeat(MIB - text.len()));
    text
}

/// The keys of all parts, with the time that each has left, in ms.
async fn parts(server: &RedisServer) -> Vec<(String, i64)> {
    let keys = server.command(&["KEYS", "{faults}:parts:*"]).await;
    let mut parts = Vec::new();
    for key in redis::from_redis_value::<Vec<String>>(keys).unwrap() {
        let left = redis::from_redis_value(server.command(&["PTTL", &key]).await).unwrap();
        parts.push((key, left));
    }
    parts
}

async fn are_gone(server: &RedisServer) {
    eventually(SOON, "the parts are gone", async || parts(server).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_and_its_reply_travel_in_parts_and_leave_none_behind() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert_eq!(echo.echo(text()).await.unwrap(), text());
        assert!(server.counted("set", "calls").await >= 2 * 4, "in parts");
        are_gone(&server).await;
        // In one direction only, and of a size that is no multiple of anything.
        assert_eq!(
            echo.repeat("abc".to_owned(), MIB / 2 + 1).await.unwrap().len(),
            3 * (MIB / 2 + 1)
        );
        let odd = text()[..600_001].to_owned();
        assert_eq!(echo.echo(odd.clone()).await.unwrap(), odd);
        are_gone(&server).await;

        let before = server.counted("set", "calls").await;
        let small = text()[..400_000].to_owned();
        assert_eq!(echo.echo(small.clone()).await.unwrap(), small);
        assert_eq!(server.counted("set", "calls").await, before, "whole");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_calls_at_once_do_not_mix() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _workers = [
            serve(&server, Mode::Group, &Gate::new()).await,
            serve(&server, Mode::Group, &Gate::new()).await,
        ];
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let calls = (0..24).map(|n| {
            let (echo, text) = (echo.clone(), format!("{n}{}", &text()[n..]));
            tokio::spawn(async move { (echo.echo(text.clone()).await, text) })
        });
        for call in calls.collect::<Vec<_>>() {
            let (answer, text) = call.await.unwrap();
            assert!(answer.unwrap() == text);
        }
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_gets_a_large_call_and_its_parts_go_with_its_deadline() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (one, two) = (Gate::new(), Gate::new());
        let _subscribers = [
            serve(&server, Mode::Broadcast, &one).await,
            serve(&server, Mode::Broadcast, &two).await,
        ];
        let echo = EchoClient::new(&client(&server, Mode::Broadcast).await);
        let brief = echo.with_timeout(Duration::from_secs(5));
        assert_eq!(brief.measure(text()).await.unwrap(), MIB);
        eventually(SOON, "both run it", async || (one.runs(), two.runs()) == (1, 1)).await;
        let left = parts(&server).await;
        assert!(
            !left.is_empty() && left.iter().all(|(_, ms)| (1..=15_000).contains(ms)),
            "{left:?}"
        );
        assert!(echo.echo(text()).await.unwrap() == text());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_arguments_stay_until_every_group_has_run_the_call() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let (one, two) = (Gate::new(), Gate::new());
        let _one = serve(&server, Mode::Group, &one).await;
        let others = || worker_config(&server).group("others");
        // The group is there, and nobody reads for it.
        start(others(), &Gate::new()).await.close().await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert!(echo.echo(text()).await.unwrap() == text());
        assert!(!parts(&server).await.is_empty());
        let _two = start(others(), &two).await;
        eventually(SOON, "the other group runs it, too", async || two.runs() == 1).await;
        are_gone(&server).await;
        assert_eq!(one.runs(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_of_a_dead_worker_is_taken_over_with_its_arguments() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let config = || soon_dead(&server);
        let shut = Gate::new();
        let (runtime, _first) = start_on_its_own_runtime(config(), &shut).await;
        let echo = EchoClient::new(&open(config()).await);
        let call = tokio::spawn({
            let echo = echo.clone();
            async move { echo.hold(text()).await }
        });
        eventually(SOON, "it runs", async || shut.running() == 1).await;
        runtime.shutdown_background();
        let free = Gate::new();
        free.open();
        let _second = start(config(), &free).await;
        assert!(call.await.unwrap().unwrap() == text());
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_arguments_are_gone_ends_and_says_so() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        // A stream of a group, without a worker.
        serve(&server, Mode::Group, &Gate::new()).await.close().await;
        let patient = worker_config(&server).fail_fast(false);
        let echo = EchoClient::new(&open(patient).await);
        let call = tokio::spawn(async move { echo.echo(text()).await });
        eventually(SOON, "it waits", async || {
            server.command(&["XLEN", STREAM]).await == Value::Int(1)
        })
        .await;
        let (one, _) = parts(&server).await.pop().unwrap();
        server.command(&["DEL", &one]).await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        match call.await.unwrap() {
            Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("maxmemory-policy"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(gate.runs(), 0);
        are_gone(&server).await;
        assert_eq!(server.pending(STREAM, "workers").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_whose_parts_are_gone_ends_its_call_and_says_so() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = open(worker_config(&server).session_id(CALLER.parse().unwrap())).await;
        let echo = EchoClient::new(&channel);
        let call = tokio::spawn(async move { echo.gated(1).await });
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let inbox = format!("{{faults}}:inbox:{CALLER}");
        // In place of the worker: first what does not even say where the parts lie, to a call that nobody has made.
        for (sequence, place) in [(77, "nowhere"), (1, "01930000-0000-7000-8000-0000000000cc 1 9")] {
            let reply = format!("reply {CALLER} json-parts\n{sequence} ok 1 {}\n{place}\n", place.len());
            server.command(&["XADD", &inbox, "*", "rpc1", &reply]).await;
        }
        match call.await.unwrap() {
            Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("it has run"), "{reason}"),
            other => panic!("{other:?}"),
        }
        gate.open();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_redis_takes_no_parts_a_large_payload_goes_whole() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        server.command(&["ACL", "SETUSER", "default", "-set"]).await;
        assert!(echo.echo(text()).await.unwrap() == text());
        server.command(&["ACL", "SETUSER", "default", "+set"]).await;
        let other = EchoClient::new(&client(&server, Mode::Group).await);
        assert!(other.echo(text()).await.unwrap() == text());
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_redis_takes_no_more_connections_a_large_payload_goes_whole() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert_eq!(echo.echo("connected".to_owned()).await.unwrap(), "connected");
        // The first is written on another connection.
        eventually(SOON, "it beats", async || server.counted("zadd", "calls").await >= 2).await;
        server.command(&["CONFIG", "SET", "maxclients", "1"]).await;
        let text = text();
        assert_eq!(echo.echo(text.clone()).await.unwrap(), text);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_for_which_redis_has_no_memory_is_refused_and_leaves_nothing_behind() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let memory: String = redis::from_redis_value(server.command(&["INFO", "memory"]).await).unwrap();
        let used = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
        let used: usize = used.unwrap().parse().unwrap();
        // From not even one part to more than all of them.
        for more in (0..=20).map(|n| n * (128 << 10)) {
            let echo = EchoClient::new(&client(&server, Mode::Group).await);
            let most = (used + more).to_string();
            server.command(&["CONFIG", "SET", "maxmemory", &most]).await;
            match echo.with_timeout(Duration::from_secs(2)).measure(text()).await {
                Ok(size) => assert_eq!(size, MIB),
                // Or it has run, and its reply had to wait.
                Err(CallError::Overloaded { .. } | CallError::DeadlineExceeded { .. }) => {}
                other => panic!("{other:?}"),
            }
            server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
            are_gone(&server).await;
        }
        assert!(gate.runs() > 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_that_is_refused_after_it_was_stored_leaves_nothing_behind() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        server.command(&["ACL", "SETUSER", "default", "-xadd"]).await;
        match echo.echo(text()).await {
            Err(CallError::Io { .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(server.counted("set", "calls").await > 0);
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_reply_counts_although_its_result_has_to_be_fetched() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = open(worker_config(&server).session_id(CALLER.parse().unwrap())).await;
        let call = tokio::spawn(EchoClient::new(&channel).gated(1));
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let name = "01930000-0000-7000-8000-0000000000cc";
        let part = format!("{{faults}}:parts:{name}:0");
        // In place of the worker, read at once: a result, and an error that comes too late.
        let (place, inbox) = (format!("{name} 1 2"), format!("{{faults}}:inbox:{CALLER}"));
        let first = format!("reply {CALLER} json-parts\n1 ok 1 {}\n{place}\n", place.len());
        let second = format!("reply {CALLER} json\n1 panicked 1 4\nlate\n");
        let write = "redis.call('SET', KEYS[1], '17') \
             for i = 1, 2 do redis.call('XADD', KEYS[2], '*', 'rpc1', ARGV[i]) end";
        let command = ["EVAL", write, "2", &part, &inbox, &first, &second];
        server.command(&command).await;
        assert_eq!(call.await.unwrap(), Ok(17));
        eventually(SOON, "the other is late", async || channel.stats().late_replies == 1).await;
        are_gone(&server).await;
        gate.open();
    })
    .await;
}

/// Writes an entry of calls in the name of a caller who may have an inbox or not: methods and arguments, numbered from 1.
async fn write_calls(server: &RedisServer, calls: &[(&str, &str)]) {
    let mut value = format!("call {CALLER} json\n");
    for (n, (method, arguments)) in calls.iter().enumerate() {
        value += &format!("{} {method} 60000 1 0 {}\n{arguments}\n", n + 1, arguments.len());
    }
    server.command(&["XADD", STREAM, "*", "rpc1", &value]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_not_on_its_way_when_the_entry_that_it_shares_is_acknowledged() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let inbox = format!("{{faults}}:inbox:{CALLER}");
        server
            .command(&["XADD", &inbox, "*", "rpc1", &format!("hello {CALLER} -\n")])
            .await;
        let calls = [("echo.repeat", r#"["x",700000]"#), ("echo.gated", "[2]")];
        write_calls(&server, &calls).await;
        let is_answered = async |reply: &str| {
            let entries = server.command(&["XREVRANGE", &inbox, "+", "-", "COUNT", "1"]).await;
            let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(entries).unwrap();
            entries[0].1[1].contains(reply)
        };
        let result = "x".repeat(700_000);
        eventually(SOON, "the first is answered", async || is_answered(&result).await).await;
        assert_eq!(server.pending(STREAM, "workers").await, 1);
        gate.open();
        eventually(SOON, "the second is answered", async || is_answered("\n2 ok ").await).await;
        eventually(SOON, "all is acknowledged", async || {
            server.pending(STREAM, "workers").await == 0
        })
        .await;
        assert_eq!(server.counted("set", "calls").await, 0, "whole");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_whose_caller_is_gone_is_not_kept() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        write_calls(&server, &[("echo.repeat", r#"["x",700000]"#)]).await;
        eventually(SOON, "it was stored", async || server.counted("set", "calls").await > 0).await;
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_may_not_fetch_says_so() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        server.command(&["ACL", "SETUSER", "default", "-get"]).await;
        match echo.measure(text()).await {
            Err(CallError::Indeterminate { reason, .. }) => assert!(reason.contains("NOPERM"), "{reason}"),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_is_kept_under_its_key() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await).with_idempotency_key("one");
        assert!(echo.keyed(text()).await.unwrap() == text());
        assert!(echo.keyed(text()).await.unwrap() == text());
        assert_eq!(gate.runs(), 1);
        are_gone(&server).await;
        // A bit more than a MiB: the arguments of both calls, and the result where it is not kept at the same time.
        assert_eq!(server.counted("set", "calls").await, 3 * 11);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_that_ends_while_redis_is_away_is_not_made_later() {
    within(LIMIT, async {
        let mut server = RedisServer::builder().arg("--appendonly", "yes").start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        assert_eq!(echo.measure("a".to_owned()).await.unwrap(), 1);
        server.stop().await;
        let brief = echo.with_timeout(Duration::from_millis(300));
        let ended = brief.measure(text()).await;
        assert!(matches!(ended, Err(CallError::DeadlineExceeded { .. })), "{ended:?}");
        server.restart().await;
        assert_eq!(echo.measure("ab".to_owned()).await.unwrap(), 2);
        assert_eq!(gate.runs(), 2);
        eventually(Duration::from_secs(30), "what was under way is gone", async || {
            parts(&server).await.is_empty()
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_by_its_size_and_not_fetched() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let small = worker_config(&server).max_payload_size(600 << 10);
        let _worker = start(small, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        match echo.echo(text()).await {
            Err(CallError::TooLarge { reason, .. }) => assert!(reason.contains("614400"), "{reason}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(server.counted("get", "calls").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_call_that_is_given_up_leaves_nothing_behind() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let channel = client(&server, Mode::Group).await;
        let echo = EchoClient::new(&channel);
        assert_eq!(echo.echo("a".to_owned()).await.unwrap(), "a");
        server.command(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
        let call = tokio::spawn({
            let echo = echo.clone();
            async move { echo.echo(text()).await }
        });
        eventually(SOON, "it is made", async || channel.stats().in_flight == 1).await;
        call.abort();
        eventually(SOON, "it is given up", async || channel.stats().in_flight == 0).await;
        server.command(&["CLIENT", "UNPAUSE"]).await;
        assert_eq!(echo.echo("b".to_owned()).await.unwrap(), "b");
        are_gone(&server).await;
        assert_eq!(gate.runs(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_worker_sends_its_large_reply_first() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let call = tokio::spawn({
            let echo = echo.clone();
            async move { echo.hold(text()).await }
        });
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        let closing = tokio::spawn(async move { worker.close().await });
        gate.open();
        closing.await.unwrap();
        assert!(call.await.unwrap().unwrap() == text());
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_lost_in_between_lose_no_large_call() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let calls = (0..4).map(|n| {
            let (echo, text) = (echo.clone(), format!("{n}{}", text()));
            tokio::spawn(async move {
                for _ in 0..8 {
                    assert!(echo.echo(text.clone()).await.unwrap() == text);
                }
            })
        });
        let calls: Vec<_> = calls.collect();
        let carried = async || server.counted("set", "calls").await + server.counted("get", "calls").await;
        for _ in 0..8 {
            let before = carried().await;
            let is_under_way =
                async || carried().await > before + 20 || calls.iter().all(tokio::task::JoinHandle::is_finished);
            eventually(SOON, "parts are under way", is_under_way).await;
            server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        }
        for call in calls {
            call.await.unwrap();
        }
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_in_between_loses_no_large_call() {
    within(LIMIT, async {
        let mut server = RedisServer::builder().arg("--appendonly", "yes").start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let echo = EchoClient::new(&client(&server, Mode::Group).await);
        let call = tokio::spawn({
            let echo = echo.clone();
            async move { echo.hold(text()).await }
        });
        eventually(SOON, "it runs", async || gate.running() == 1).await;
        server.stop().await;
        gate.open();
        let other = tokio::spawn({
            let echo = echo.clone();
            async move { echo.echo(text()).await }
        });
        server.restart().await;
        assert!(call.await.unwrap().unwrap() == text());
        assert!(other.await.unwrap().unwrap() == text());
        are_gone(&server).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_has_its_large_arguments_in_it() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        serve(&server, Mode::Group, &Gate::new()).await.close().await;
        let patient = worker_config(&server).fail_fast(false);
        let echo = EchoClient::new(&open(patient).await);
        let call = tokio::spawn({
            let echo = echo.clone();
            async move { echo.echo(text()).await }
        });
        eventually(SOON, "it waits", async || {
            server.command(&["XLEN", STREAM]).await == Value::Int(1)
        })
        .await;
        // The same, as it would be after its last attempt.
        let entries = server.command(&["XRANGE", STREAM, "-", "+"]).await;
        let entries: Vec<(String, Vec<String>)> = redis::from_redis_value(entries).unwrap();
        let (id, fields) = &entries[0];
        let tried = fields[1].replacen(" 1 0 ", " 4 0 ", 1);
        assert!(tried != fields[1] && tried.contains(" json-parts\n"), "{tried}");
        server.command(&["XADD", STREAM, "*", "rpc1", &tried]).await;
        server.command(&["XDEL", STREAM, id]).await;

        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        assert!(matches!(call.await.unwrap(), Err(CallError::WorkerLost { .. })));
        are_gone(&server).await;
        let io = connect(&server, Mode::Group).await;
        let letter = eventually_some(SOON, "a dead letter", async || io.dead_letters(10).await.unwrap().pop()).await;
        match &letter.content {
            EntryContent::Requests { requests, .. } => assert!(requests[0].arguments == format!("[\"{}\"]", text())),
            other => panic!("{other:?}"),
        }
        // Whoever has asked is not there any more, or has an answer: it is for what the call does.
        assert!(io.requeue(letter.id).await.unwrap());
        eventually(SOON, "it has run", async || gate.runs() == 1).await;
    })
    .await;
}
