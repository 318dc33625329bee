//! Workers in a consumer group: each call is run by one of them.
//!
//!     cargo run --example calculator -- worker     # as many as you like
//!     cargo run --example calculator -- client
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use examples::{asked_to_stop, log_to_stderr, redis_url};
use rpc_core::{Context, RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub enum MathError {
    DivisionByZero,
}

#[service(name = "calc")]
pub trait Calculator {
    /// The sum of both.
    async fn add(&self, a: i64, b: i64) -> i64;

    /// The quotient, unless `b` is zero.
    #[rpc(name = "div", timeout = "2s")]
    async fn divide(&self, #[ctx] cx: &Context, a: f64, b: f64) -> Result<f64, MathError>;
}

struct Worker;

impl Calculator for Worker {
    async fn add(&self, a: i64, b: i64) -> i64 {
        a + b
    }

    async fn divide(&self, cx: &Context, a: f64, b: f64) -> Result<f64, MathError> {
        println!("{} of session {}, {:?} left", cx.method(), cx.session(), cx.time_left());
        if b == 0.0 {
            return Err(MathError::DivisionByZero);
        }
        Ok(a / b)
    }
}

/// Both sides name the same stream and group.
async fn connect() -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(redis_url())
        .stream("example-calculator")
        .group("calculators")
        .call_timeout(Duration::from_secs(5))
        .build()?;
    Ok(RedisStreamsIo::connect(config).await?)
}

async fn worker() -> anyhow::Result<()> {
    let channel = RpcChannel::builder(connect().await?)
        .serve(CalculatorServer::new(Worker))?
        .start()
        .await?;
    println!("ready");
    asked_to_stop().await?;
    // Finishes what it has begun.
    channel.close().await;
    println!("handled {} calls", channel.stats().handled);
    Ok(())
}

async fn client() -> anyhow::Result<()> {
    let channel = RpcChannel::open(connect().await?).await?;
    let calculator = CalculatorClient::new(&channel);
    println!("2 + 3 = {}", calculator.add(2, 3).await?);
    println!("1 / 4 = {}", calculator.divide(1.0, 4.0).await?);
    println!("1 / 0: {}", calculator.divide(1.0, 0.0).await.unwrap_err());
    channel.close().await;
    Ok(())
}

// One thread is enough for handlers that never block, and the quickest where calls are few.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    match std::env::args().nth(1).as_deref() {
        Some("worker") => worker().await,
        Some("client") => client().await,
        _ => anyhow::bail!("cargo run --example calculator -- worker    (or client; REDIS_URL says where Redis is)"),
    }
}
