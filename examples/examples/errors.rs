//! What a caller sees when something goes wrong, and what to do about it.
//!
//!     cargo run --example errors
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use examples::redis_url;
use rpc_core::{CallError, RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub enum StockError {
    SoldOut { article: String },
}

#[service]
pub trait Stock {
    async fn reserve(&self, article: String, count: u32) -> Result<u32, StockError>;
    async fn recount(&self) -> u32;
    async fn crash(&self) -> u32;
}

struct Shelf;

impl Stock for Shelf {
    async fn reserve(&self, article: String, count: u32) -> Result<u32, StockError> {
        if count > 10 {
            return Err(StockError::SoldOut { article });
        }
        Ok(10 - count)
    }

    async fn recount(&self) -> u32 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        0
    }

    async fn crash(&self) -> u32 {
        panic!("the shelf fell over")
    }
}

/// The same service as a newer client believes it to be.
mod newer {
    #[rpc_core::service(name = "stock")]
    pub trait Stock {
        async fn reserve(&self, article: u64) -> Result<u32, super::StockError>;
        async fn order(&self, article: String) -> u32;
    }
}

fn config() -> anyhow::Result<Config> {
    Ok(Config::builder()
        .url(redis_url())
        .stream("example-errors")
        .group("shelves")
        .build()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Before anything runs: the configuration, and the server.
    let bad = Config::builder().max_queue_size(0).build().unwrap_err();
    println!("bad config: {bad}");
    let nobody = Config::builder().url("redis://127.0.0.1:1").build()?;
    println!("no redis: {}", RedisStreamsIo::connect(nobody).await.unwrap_err());
    let other_mode = Config::builder()
        .url(redis_url())
        .stream("example-errors")
        .broadcast()
        .build()?;

    let server = RpcChannel::builder(RedisStreamsIo::connect(config()?).await?)
        .serve(StockServer::new(Shelf))?
        .start()
        .await?;
    println!("other mode: {}", RedisStreamsIo::connect(other_mode).await.unwrap_err());

    let channel = RpcChannel::open(RedisStreamsIo::connect(config()?).await?).await?;
    let stock = StockClient::new(&channel);

    // The service's own error arrives as what it is.
    match stock.reserve("tea".to_owned(), 11).await {
        Err(CallError::Service(StockError::SoldOut { article })) => println!("sold out: {article}"),
        other => println!("unexpected: {other:?}"),
    }
    let hasty = stock.with_timeout(Duration::from_millis(200));
    println!("deadline: {}", hasty.recount().await.unwrap_err());
    println!("panic: {}", stock.crash().await.unwrap_err());

    let newer = newer::StockClient::new(&channel);
    println!("arguments: {}", newer.reserve(7).await.unwrap_err());
    println!("method: {}", newer.order("tea".to_owned()).await.unwrap_err());

    channel.close().await;
    println!("closed: {}", stock.recount().await.unwrap_err());
    server.close().await;
    Ok(())
}
