//! The parts of a call by themselves, with their allocations: `cargo bench -p benches`.
//!
//! The wire and the queue are private: their sources are compiled in from where they are. The in-flight table is measured
//! as part of a whole call over `MemoryIo`, where nothing is encoded but the payloads.
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use rpc_core::message::{Kind, Outcome, Reply, Request};
use rpc_core::{Codec, Headers, MemoryBroker, Mode, RpcChannel, SessionId, service};
use tokio::time::Instant;

#[allow(dead_code, unused_imports)]
#[path = "../../rpc-redis-streams/src/decimal.rs"]
mod decimal;
#[allow(dead_code, unused_imports)]
#[path = "../../rpc-redis-streams/src/pieces.rs"]
mod pieces;
#[allow(dead_code, unused_imports)]
#[path = "../../rpc-core/src/queue.rs"]
mod queue;
#[allow(dead_code, unused_imports)]
#[path = "../../rpc-redis-streams/src/wire/mod.rs"]
mod wire;

use self::pieces::Pieces;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

const PAYLOAD: &str = "0123456789abcdef0123456789abcdef";

/// Messages in one entry.
const PACKS: [usize; 3] = [1, 4, 16];

fn main() {
    divan::main();
}

fn request(sequence: u64) -> Request {
    Request {
        sequence,
        kind: Kind::Call,
        method: "echo.echo".into(),
        deadline: Some(Instant::now() + Duration::from_secs(30)),
        attempt: 1,
        headers: Headers::default(),
        arguments: Codec::Json.encode(&[PAYLOAD]).expect("a string can be encoded"),
        at_most_once: false,
        packable: None,
    }
}

fn reply(sequence: u64) -> Reply {
    Reply {
        sequence,
        outcome: Outcome::Returned(Codec::Json.encode(PAYLOAD).expect("a string can be encoded")),
        handler_time: Duration::from_micros(3),
    }
}

fn requests(count: usize) -> Vec<Request> {
    (1..).take(count).map(request).collect()
}

fn replies(count: usize) -> Vec<Reply> {
    (1..).take(count).map(reply).collect()
}

#[divan::bench]
fn payload_encode() -> rpc_core::Payload {
    Codec::Json
        .encode(&[black_box(PAYLOAD)])
        .expect("a string can be encoded")
}

#[divan::bench]
fn payload_decode(bencher: Bencher<'_, '_>) {
    let payload = Codec::Json.encode(PAYLOAD).expect("a string can be encoded");
    bencher.bench(|| black_box(&payload).decode::<String>());
}

#[divan::bench(args = PACKS)]
fn wire_encode_requests(bencher: Bencher<'_, '_>, count: usize) {
    let (session, requests, now) = (SessionId::generate(), requests(count), Instant::now());
    bencher
        .counter(ItemsCount::new(count))
        .bench(|| Pieces::written(|out| wire::requests(out, session, black_box(&requests), now)));
}

#[divan::bench(args = PACKS)]
fn wire_encode_replies(bencher: Bencher<'_, '_>, count: usize) {
    let (session, replies) = (SessionId::generate(), replies(count));
    bencher
        .counter(ItemsCount::new(count))
        .bench(|| Pieces::written(|out| wire::replies(out, session, wire::Form::default(), black_box(&replies))));
}

#[divan::bench(args = PACKS)]
fn wire_decode_requests(bencher: Bencher<'_, '_>, count: usize) {
    let value = Bytes::from(Vec::from(Pieces::written(|out| {
        wire::requests(out, SessionId::generate(), &requests(count), Instant::now())
    })));
    let written = wire::Written::now();
    bencher
        .counter(ItemsCount::new(count))
        .bench(|| wire::decode([(wire::FIELD, black_box(&value).clone())], written));
}

#[divan::bench(args = PACKS)]
fn wire_decode_replies(bencher: Bencher<'_, '_>, count: usize) {
    let value = Bytes::from(Vec::from(Pieces::written(|out| {
        wire::replies(out, SessionId::generate(), wire::Form::default(), &replies(count))
    })));
    let written = wire::Written::now();
    bencher
        .counter(ItemsCount::new(count))
        .bench(|| wire::decode([(wire::FIELD, black_box(&value).clone())], written));
}

/// With room, a push and a pop; full, a push that drops the oldest.
#[divan::bench(args = [false, true])]
fn queue_push_and_pop(bencher: Bencher<'_, '_>, full: bool) {
    let mut queue = queue::DropOldest::new(1000);
    for n in 0..if full { 1000 } else { 500 } {
        let _ = queue.push(n);
    }
    bencher.bench_local(|| {
        let dropped = queue.push(black_box(7));
        if full { dropped } else { queue.pop() }
    });
}

#[service(name = "echo")]
trait Echoes {
    async fn echo(&self, payload: String) -> String;
}

struct Worker;

impl Echoes for Worker {
    async fn echo(&self, payload: String) -> String {
        payload
    }
}

/// Client, in-flight table, dispatcher and handler, without Redis.
#[divan::bench]
fn call_in_memory(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let broker = MemoryBroker::new(Mode::Group);
    let (_worker, channel) = runtime.block_on(async {
        let worker = RpcChannel::builder(broker.connect())
            .serve(EchoesServer::new(Worker))
            .expect("one service");
        let worker = worker.start().await.expect("memory is there");
        (
            worker,
            RpcChannel::open(broker.connect()).await.expect("memory is there"),
        )
    });
    let client = EchoesClient::new(&channel);
    bencher.bench_local(|| runtime.block_on(client.echo(PAYLOAD.to_owned())));
}
