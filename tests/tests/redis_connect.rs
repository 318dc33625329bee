//! What a user sees when the server or the stream is not what the configuration says; and the ways to connect.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rpc_core::{CallError, Mode, RpcChannel};
use rpc_redis_streams::{Config, ConfigBuilder, RedisStreamsError, RedisStreamsIo};
use tests::{RedisServer, eventually, within};

mod support;

use support::{EchoClient, Gate, config, connect, serve};

const LIMIT: Duration = Duration::from_secs(60);

async fn refusal(config: ConfigBuilder) -> RedisStreamsError {
    RedisStreamsIo::connect(config.build().unwrap()).await.unwrap_err()
}

/// Listens on a port and answers every command with `answer`.
fn impostor(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                // A command is an array.
                let commands = buffer[..read].iter().filter(|byte| **byte == b'*').count();
                if stream.write_all(&answer.repeat(commands)).is_err() {
                    break;
                }
            }
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test]
async fn each_kind_of_wrong_server_has_an_error_of_its_own() {
    within(LIMIT, async {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let refused = refusal(Config::builder().url(format!("redis://127.0.0.1:{nobody}"))).await;
        assert!(matches!(refused, RedisStreamsError::Refused { .. }), "{refused:?}");
        assert!(refused.to_string().contains("start a redis-server"), "{refused}");

        let no_socket = refusal(Config::builder().url("unix:///nowhere/redis.sock")).await;
        assert!(matches!(no_socket, RedisStreamsError::Refused { .. }), "{no_socket:?}");
        assert!(no_socket.to_string().contains("no such socket"), "{no_socket}");

        let unknown = refusal(Config::builder().url("redis://no-such-host.invalid:6379")).await;
        assert!(matches!(unknown, RedisStreamsError::UnknownHost { .. }), "{unknown:?}");

        let web = refusal(Config::builder().url(impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n"))).await;
        assert!(matches!(web, RedisStreamsError::NotRedis { .. }), "{web:?}");

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", silent.local_addr().unwrap());
        let started = Instant::now();
        let timeout = refusal(Config::builder().url(url).connect_timeout(Duration::from_millis(200))).await;
        assert!(matches!(timeout, RedisStreamsError::Timeout { .. }), "{timeout:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_hangs_up_is_not_taken_for_another_protocol() {
    within(LIMIT, async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let hang_up = std::thread::spawn(move || drop(listener.accept().unwrap()));
        let error = refusal(Config::builder().url(url)).await;
        assert!(matches!(error, RedisStreamsError::HungUp { .. }), "{error:?}");
        hang_up.join().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_redis_without_what_is_needed_is_too_old() {
    within(LIMIT, async {
        // As the answer to everything; only INFO's is looked at before it is refused.
        let old = impostor(b"$22\r\nredis_version:5.0.14\r\n\r\n");
        let error = refusal(Config::builder().url(old)).await;
        match &error {
            RedisStreamsError::TooOld { version, .. } => assert_eq!(version, "5.0.14"),
            other => panic!("{other:?}"),
        }
        assert!(error.to_string().contains("at least 6.2 is needed"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_login_is_needed_where_redis_asks_for_one() {
    within(LIMIT, async {
        let server = RedisServer::builder().password("s3cret").start().await;
        let address = format!("127.0.0.1:{}", server.port());
        for url in [format!("redis://{address}"), format!("redis://:wrong-pass@{address}")] {
            let error = refusal(Config::builder().url(url)).await;
            assert!(matches!(error, RedisStreamsError::Authentication { .. }), "{error:?}");
            assert!(!format!("{error} {error:?}").contains("wrong-pass"), "{error}");
        }
        let url = format!("redis://:s3cret@{address}");
        let io = RedisStreamsIo::connect(Config::builder().url(url).build().unwrap())
            .await
            .unwrap();
        assert!(!format!("{io:?}").contains("s3cret"), "{io:?}");
    })
    .await;
}

#[tokio::test]
async fn a_database_that_the_server_has_not_is_named() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let url = format!("redis://127.0.0.1:{}/99", server.port());
        let error = refusal(Config::builder().url(url)).await;
        assert!(
            matches!(error, RedisStreamsError::NoDatabase { database: 99, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("has no database 99"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_key_of_another_type_and_a_stream_of_another_mode_are_refused() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        server.command(&["SET", "taken", "by something else"]).await;
        let error = refusal(Config::builder().url(server.url()).stream("taken")).await;
        assert!(
            matches!(&error, RedisStreamsError::WrongType { found, .. } if found == "string"),
            "{error:?}"
        );

        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let error = RedisStreamsIo::connect(config(&server, Mode::Broadcast))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, RedisStreamsError::ModeMismatch { found, .. } if found == "group"),
            "{error:?}"
        );
        let bounded = Config::builder()
            .url(server.url())
            .stream("faults")
            .group("workers")
            .max_len(10);
        let error = refusal(bounded).await;
        assert!(
            matches!(error, RedisStreamsError::RetentionMismatch { .. }),
            "{error:?}"
        );

        server.command(&["HSET", "{newer}:meta", "version", "2"]).await;
        let error = refusal(Config::builder().url(server.url()).stream("newer")).await;
        assert!(matches!(error, RedisStreamsError::WireVersion { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn of_two_first_servers_in_different_modes_one_is_refused() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        // Both have looked before either has claimed.
        let (worker, subscriber) = (
            connect(&server, Mode::Group).await,
            connect(&server, Mode::Broadcast).await,
        );
        let gate = Gate::new();
        let worker = RpcChannel::builder(worker)
            .serve(support::server(&gate))
            .unwrap()
            .start()
            .await;
        let subscriber = RpcChannel::builder(subscriber)
            .serve(support::server(&gate))
            .unwrap()
            .start()
            .await;
        assert!(worker.is_ok());
        let refused = subscriber.unwrap_err().to_string();
        assert!(refused.contains("is used in group mode"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn unix_sockets_and_urls_with_parameters_work() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let url = format!("{}?stream=faults&group=workers&call_timeout=5s", server.unix_url());
        let io = RedisStreamsIo::connect(Config::from_url(url).unwrap()).await.unwrap();
        let channel = RpcChannel::open(io).await.unwrap();
        assert_eq!(
            EchoClient::new(&channel).echo("by socket".to_owned()).await.unwrap(),
            "by socket"
        );
    })
    .await;
}

#[tokio::test]
async fn an_io_carries_one_channel() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let io = connect(&server, Mode::Group).await;
        let _channel = RpcChannel::open(io.clone()).await.unwrap();
        let error = RpcChannel::open(io).await.unwrap_err();
        assert!(error.to_string().contains("carries a channel already"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_came_before_the_servers_learns_their_mode() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let early = RpcChannel::open(connect(&server, Mode::Broadcast).await).await.unwrap();
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let note = EchoClient::new(&early);
        eventually(LIMIT, "requests are refused", async || match note.note(1).await {
            Ok(()) => false,
            Err(CallError::Io { error, .. }) => error.to_string().contains("is used in group mode"),
            Err(other) => panic!("{other:?}"),
        })
        .await;
    })
    .await;
}
