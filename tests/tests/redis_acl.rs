//! What a user of Redis must be allowed to do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rpc_core::{Mode, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsError, RedisStreamsIo};
use support::{EchoClient, Gate, older};
use tests::{RedisServer, eventually, eventually_some, within};

const LIMIT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(20);

/// The ACL that `docs/delivery.md` names, for its stream `calc`.
async fn set_user(server: &RedisServer) {
    let docs = include_str!("../../docs/delivery.md");
    let command = docs.lines().find(|line| line.starts_with("ACL SETUSER calc")).unwrap();
    server.command(&command.split(' ').collect::<Vec<_>>()).await;
}

async fn connect(server: &RedisServer, mode: Mode) -> Result<RedisStreamsIo, RedisStreamsError> {
    let config = Config::builder()
        .url(format!("redis://calc:secret@127.0.0.1:{}/1", server.port()))
        .stream("calc")
        .heartbeat_interval(Duration::from_millis(100))
        .death_time(Duration::from_millis(300));
    let config = match mode {
        Mode::Group => config.group("workers"),
        Mode::Broadcast => config.broadcast(),
    };
    RedisStreamsIo::connect(config.build().unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_acl_of_the_docs_is_enough() {
    within(LIMIT, async {
        for mode in [Mode::Group, Mode::Broadcast] {
            let server = RedisServer::start().await;
            set_user(&server).await;
            let gate = Gate::new();
            let serve = async || {
                let io = connect(&server, mode).await.unwrap();
                let builder = RpcChannel::builder(io).serve(support::server(&gate)).unwrap();
                builder.start().await.unwrap()
            };
            let worker = serve().await;
            let io = connect(&server, mode).await.unwrap();
            let channel = RpcChannel::open(io.clone()).await.unwrap();
            let echo = EchoClient::new(&channel);
            assert_eq!(echo.echo("a".to_owned()).await.unwrap(), "a");
            let keyed = echo.with_idempotency_key("one");
            for _ in 0..2 {
                assert_eq!(keyed.keyed("b".to_owned()).await.unwrap(), "b");
            }
            assert_eq!(echo.measure("c".repeat(1 << 20)).await.unwrap(), 1 << 20);
            assert_eq!(echo.repeat("d".to_owned(), 1 << 20).await.unwrap().len(), 1 << 20);
            echo.note(1).await.unwrap();
            older::EchoClient::new(&channel).gone(1).await.unwrap();
            // A call that is given up, and one whose worker dies.
            let given_up = tokio::spawn(echo.gated(1));
            eventually(SOON, "it runs", async || gate.running() == 1).await;
            given_up.abort();
            eventually(SOON, "it is dropped", async || gate.running() == 0).await;
            let held = tokio::spawn(echo.gated(2));
            eventually(SOON, "it runs", async || gate.running() == 1).await;
            drop(worker);
            let worker = serve().await;
            gate.open();
            if mode == Mode::Group {
                assert_eq!(held.await.unwrap().unwrap(), 2);
            }
            assert_eq!(echo.echo("e".to_owned()).await.unwrap(), "e");

            io.stream_info().await.unwrap();
            assert!(!io.workers().await.unwrap().is_empty());
            io.entries(.., 10).await.unwrap();
            if mode == Mode::Group {
                let letter = eventually_some(SOON, "the dead letter", async || {
                    io.dead_letters(10).await.unwrap().into_iter().next()
                });
                io.discard(letter.await.id).await.unwrap();
            }
            channel.close().await;
            worker.close().await;
            // What Redis has refused to whomever.
            let refused = server.command(&["ACL", "LOG"]).await;
            assert_eq!(refused, redis::Value::Array(Vec::new()), "{mode}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_forbidden_is_not_taken_for_a_wrong_password() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        set_user(&server).await;
        server.command(&["ACL", "SETUSER", "calc", "-type"]).await;
        let error = connect(&server, Mode::Group).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, RedisStreamsError::CommandRefused { .. }), "{error:?}");
        assert!(text.contains("NOPERM") && text.contains("extend the ACL"), "{text}");
    })
    .await;
}
