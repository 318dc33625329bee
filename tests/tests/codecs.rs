//! What stands in Redis when calls are not written in JSON.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use rpc_core::{CallError, Codec, Mode, RpcChannel};
use rpc_redis_streams::{Config, EntryContent, RedisStreamsIo};
use support::{EchoClient, Gate, STREAM, serve};
use tests::{RedisServer, eventually, within};

const LIMIT: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);
const CALLER: &str = "01930000-0000-7000-8000-0000000000aa";

async fn messagepack_io(server: &RedisServer) -> RedisStreamsIo {
    let config = Config::builder().url(server.url()).stream(STREAM).group("workers");
    RedisStreamsIo::connect(config.codec(Codec::MessagePack).build().unwrap())
        .await
        .unwrap()
}

/// The values of the entries of a stream.
async fn values(server: &RedisServer, key: &str) -> Vec<Vec<u8>> {
    let entries = server.command(&["XRANGE", key, "-", "+"]).await;
    let entries: Vec<(String, Vec<Vec<u8>>)> = redis::from_redis_value(entries).unwrap();
    entries
        .into_iter()
        .map(|(_, mut fields)| fields.swap_remove(1))
        .collect()
}

#[tokio::test]
async fn the_codec_of_a_call_and_its_reply_is_named_in_their_entries() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let io = messagepack_io(&server).await;
        let channel = RpcChannel::open(io).await.unwrap();
        let session = channel.session_id();
        assert_eq!(EchoClient::new(&channel).echo("x".to_owned()).await.unwrap(), "x");

        let calls = values(&server, STREAM).await;
        let (head, frame) = (format!("call {session} msgpack\n1 echo.echo "), b" 1 0 3\n\x91\xa1x\n");
        assert_eq!(calls.len(), 1);
        assert!(calls[0].starts_with(head.as_bytes()) && calls[0].ends_with(frame));
        let inbox = values(&server, &format!("{{{STREAM}}}:inbox:{session}")).await;
        let reply = inbox.last().unwrap();
        assert!(reply.starts_with(b"reply ") && reply.ends_with(b" 2\n\xa1x\n"));
        let head = String::from_utf8_lossy(reply);
        assert!(head.lines().next().unwrap().ends_with(" msgpack"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn a_call_in_an_unknown_codec_is_refused_and_settled() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let inbox = format!("{{{STREAM}}}:inbox:{CALLER}");
        let hello = format!("hello {CALLER} -\n");
        server.command(&["XADD", &inbox, "*", "rpc1", &hello]).await;
        let call = format!("call {CALLER} pigeon\n1 echo.echo 60000 1 0 2\n[]\n");
        server.command(&["XADD", STREAM, "*", "rpc1", &call]).await;

        eventually(SOON, "it is answered", async || {
            values(&server, &inbox).await.len() == 2
        })
        .await;
        let reply = String::from_utf8(values(&server, &inbox).await.pop().unwrap()).unwrap();
        let refusal = "codec \"pigeon\" is unknown here; known: json, msgpack; write one of these, or update this side";
        assert!(
            reply.contains("1 bad-arguments 0 ") && reply.contains(refusal),
            "{reply}"
        );
        let pending = server.command(&["XPENDING", STREAM, "workers", "-", "+", "10"]).await;
        assert_eq!(pending, redis::Value::Array(Vec::new()));
        assert_eq!(gate.runs(), 0);
    })
    .await;
}

/// A number is the byte of that number in MessagePack: one is a line feed, one ends texts in C.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_survive_the_scripts_that_split_entries() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let gate = Gate::new();
        let _worker = serve(&server, Mode::Group, &gate).await;
        let mut note = format!("notify {CALLER} msgpack\n").into_bytes();
        for (sequence, method) in ["echo.gone", "echo.note", "echo.gone"].iter().enumerate() {
            let argument = [10, 1, 0][sequence];
            note.extend_from_slice(format!("{sequence} {method} - 1 0 2\n").as_bytes());
            note.extend_from_slice(&[0x91, argument, b'\n']);
        }
        // In Lua, which has escapes for bytes that are no text.
        let note: String = note.iter().map(|byte| format!("\\{byte:03}")).collect();
        let add = format!("return redis.call('XADD', KEYS[1], '*', 'rpc1', '{note}')");
        server.command(&["EVAL", &add, "1", STREAM]).await;

        let io = messagepack_io(&server).await;
        let letters = async || {
            let letters = io.dead_letters(10).await.unwrap();
            let arguments = letters.iter().map(|letter| match &letter.content {
                EntryContent::Requests { requests, .. } if requests.len() == 1 => requests[0].arguments.clone(),
                other => panic!("{other:?}"),
            });
            arguments.collect::<Vec<_>>()
        };
        eventually(SOON, "two are dead letters", async || {
            letters().await == ["910a", "9100"]
        })
        .await;
        eventually(SOON, "one has run", async || gate.runs() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn a_result_that_does_not_fit_the_client_says_so() {
    within(LIMIT, async {
        let server = RedisServer::start().await;
        let _worker = serve(&server, Mode::Group, &Gate::new()).await;
        let channel = RpcChannel::open(messagepack_io(&server).await).await.unwrap();
        match mistaken::EchoClient::new(&channel).echo("x".to_owned()).await {
            Err(CallError::BadResult { method, .. }) => assert_eq!(method, "echo.echo"),
            other => panic!("{other:?}"),
        }
    })
    .await;
}

/// What another version of the client believes.
mod mistaken {
    #[rpc_core::service(name = "echo")]
    pub(crate) trait Echo {
        async fn echo(&self, text: String) -> u32;
    }
}
