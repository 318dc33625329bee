//! A server process for tests: records every execution outside Redis, so that a test can tell what really ran.
//!
//!     peer <url> <group | broadcast> <name> <file>
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;

use rpc_core::{Context, RpcChannel};
use rpc_redis_streams::{Config, RedisStreamsIo};
use tests::recorder::{Recorder, RecorderServer, STREAM};

struct Peer {
    name: String,
    file: Mutex<File>,
}

impl Recorder for Peer {
    async fn record(&self, n: u64) -> String {
        // One write a line, so that a kill leaves no half lines.
        let line = format!("{n}\n");
        self.file.lock().unwrap().write_all(line.as_bytes()).unwrap();
        self.name.clone()
    }

    async fn record_once(&self, n: u64) -> String {
        self.record(n).await
    }

    async fn stall(&self, cx: &Context) -> u32 {
        println!("begun");
        if cx.attempt() == 1 {
            std::future::pending::<()>().await;
        }
        cx.attempt()
    }

    async fn stall_once(&self, cx: &Context) -> u32 {
        self.stall(cx).await
    }

    async fn stall_on_one(&self) -> String {
        println!("begun");
        if self.name == "one" {
            std::future::pending::<()>().await;
        }
        self.name.clone()
    }

    async fn poison(&self) -> u32 {
        println!("begun");
        std::process::abort()
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, mode, name, file] = &arguments[..] else {
        panic!("usage: peer <url> <group | broadcast> <name> <file>");
    };
    let config = Config::builder().url(url).stream(STREAM);
    let config = match mode.as_str() {
        "group" => config.group("recorders"),
        _ => config.broadcast(),
    };
    let file = OpenOptions::new().create(true).append(true).open(file).unwrap();
    let peer = Peer {
        name: name.clone(),
        file: Mutex::new(file),
    };
    let io = RedisStreamsIo::connect(config.build().unwrap()).await.unwrap();
    let builder = RpcChannel::builder(io).serve(RecorderServer::new(peer)).unwrap();
    let channel = builder.start().await.unwrap();
    println!("ready");
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    terminate.recv().await;
    channel.close().await;
}
