//! The programs that `scripts/demo` starts: workers of one group, broadcast subscribers, and a client of both.
//!
//!     cargo run --example demo -- worker 1
//!     cargo run --example demo -- subscriber 1
//!     cargo run --example demo -- client
#![allow(clippy::print_stdout, missing_docs)]

use std::collections::BTreeMap;
use std::time::Instant;

use examples::{asked_to_stop, log_to_stderr, redis_url};
use rpc_core::{CallError, RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};
use serde::{Deserialize, Serialize};

const CALLS: u32 = 3000;

#[derive(Debug, Serialize, Deserialize)]
pub enum MathError {
    DivisionByZero,
}

#[service(name = "calc")]
pub trait Calculator {
    /// Who did it, and the sum.
    async fn add(&self, a: u32, b: u32) -> (String, u32);
    async fn divide(&self, a: f64, b: f64) -> Result<f64, MathError>;
}

#[service]
pub trait Announcements {
    #[rpc(notify)]
    async fn announce(&self, text: String);
    async fn hello(&self) -> String;
}

struct Program {
    name: String,
}

impl Calculator for Program {
    async fn add(&self, a: u32, b: u32) -> (String, u32) {
        (self.name.clone(), a + b)
    }

    async fn divide(&self, a: f64, b: f64) -> Result<f64, MathError> {
        if b == 0.0 {
            return Err(MathError::DivisionByZero);
        }
        Ok(a / b)
    }
}

impl Announcements for Program {
    async fn announce(&self, text: String) {
        println!("{} heard: {text}", self.name);
    }

    async fn hello(&self) -> String {
        println!("{} was asked who is there", self.name);
        self.name.clone()
    }
}

/// Its own for each run, so that two demos on one Redis do not meet.
fn stream(name: &str) -> String {
    let prefix = std::env::var("DEMO_STREAM").unwrap_or_else(|_| "rpc-demo".to_owned());
    format!("{prefix}-{name}")
}

async fn work_stream() -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(redis_url())
        .stream(stream("work"))
        .group("demo-workers")
        .build()?;
    Ok(RedisStreamsIo::connect(config).await?)
}

async fn news_stream() -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(redis_url())
        .stream(stream("news"))
        .broadcast()
        .build()?;
    Ok(RedisStreamsIo::connect(config).await?)
}

async fn worker(name: String) -> anyhow::Result<()> {
    let channel = RpcChannel::builder(work_stream().await?)
        .serve(CalculatorServer::new(Program { name: name.clone() }))?
        .start()
        .await?;
    println!("ready: {name}");
    asked_to_stop().await?;
    channel.close().await;
    println!("{name} handled {} calls", channel.stats().handled);
    Ok(())
}

async fn subscriber(name: String) -> anyhow::Result<()> {
    let channel = RpcChannel::builder(news_stream().await?)
        .serve(AnnouncementsServer::new(Program { name: name.clone() }))?
        .start()
        .await?;
    println!("ready: {name}");
    asked_to_stop().await?;
    channel.close().await;
    Ok(())
}

async fn client() -> anyhow::Result<()> {
    let work = RpcChannel::open(work_stream().await?).await?;
    let calculator = CalculatorClient::new(&work);

    println!("one call: {:?}", calculator.add(2, 3).await?);

    let started = Instant::now();
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let calculator = calculator.clone();
            tokio::spawn(async move { calculator.add(n, 1).await })
        })
        .collect();
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for (n, call) in (0..CALLS).zip(calls) {
        let (who, sum) = call.await??;
        anyhow::ensure!(sum == n + 1, "{n} + 1 came back as {sum}");
        *shares.entry(who).or_default() += 1;
    }
    println!(
        "{CALLS} calls at once, in {:?}, each run by one worker:",
        started.elapsed()
    );
    for (who, count) in &shares {
        println!(
            "  {who}: {count} calls, {:.0} %",
            f64::from(*count) * 100.0 / f64::from(CALLS)
        );
    }

    match calculator.divide(1.0, 0.0).await {
        Err(CallError::Service(MathError::DivisionByZero)) => {
            println!("an error, typed as in the trait: DivisionByZero")
        }
        other => anyhow::bail!("1 / 0 came back as {other:?}"),
    }

    let news = RpcChannel::open(news_stream().await?).await?;
    let everybody = AnnouncementsClient::new(&news);
    everybody.announce("the shop opens".to_owned()).await?;
    println!(
        "announced to every subscriber; the first to answer a call is {}",
        everybody.hello().await?
    );
    work.close().await;
    news.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    let mut arguments = std::env::args().skip(1);
    let (role, number) = (arguments.next(), arguments.next().unwrap_or_default());
    match role.as_deref() {
        Some("worker") => worker(format!("worker {number}")).await,
        Some("subscriber") => subscriber(format!("subscriber {number}")).await,
        Some("client") => client().await,
        _ => anyhow::bail!("say `worker N`, `subscriber N` or `client`"),
    }
}
