//! Both directions: while the server works for a client, it calls that very client back.
//!
//!     cargo run --example bidirectional -- server
//!     cargo run --example bidirectional -- client
#![allow(clippy::print_stdout, missing_docs)]

use examples::{asked_to_stop, log_to_stderr, redis_url};
use rpc_core::{Context, RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};

/// What the server does.
#[service]
pub trait Importer {
    async fn import(&self, #[ctx] cx: &Context, file: String) -> Result<u32, String>;
}

/// What the client does for the server.
#[service]
pub trait Progress {
    async fn continue_at(&self, percent: u8) -> bool;
}

struct Server;

impl Importer for Server {
    async fn import(&self, cx: &Context, file: String) -> Result<u32, String> {
        let progress = ProgressClient::new(cx.caller());
        for percent in [25, 50, 75, 100] {
            match progress.continue_at(percent).await {
                Ok(true) => {}
                Ok(false) => return Err(format!("the import of {file} was stopped at {percent} %")),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(4)
    }
}

struct Client {
    stop_at: u8,
}

impl Progress for Client {
    async fn continue_at(&self, percent: u8) -> bool {
        println!("the server has done {percent} %");
        percent < self.stop_at
    }
}

async fn connect(group: &str) -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(redis_url())
        .stream("example-importer")
        .group(group)
        .build()?;
    Ok(RedisStreamsIo::connect(config).await?)
}

async fn server() -> anyhow::Result<()> {
    let channel = RpcChannel::builder(connect("importers").await?)
        .serve(ImporterServer::new(Server))?
        .start()
        .await?;
    println!("ready");
    asked_to_stop().await?;
    channel.close().await;
    Ok(())
}

async fn client(stop_at: u8) -> anyhow::Result<()> {
    // `serve_callbacks`, not `serve`: this process is called back, it takes no work from the importers.
    let channel = RpcChannel::builder(connect("importers").await?)
        .serve_callbacks(ProgressServer::new(Client { stop_at }))?
        .start()
        .await?;
    match ImporterClient::new(&channel).import("data.csv".to_owned()).await {
        Ok(rows) => println!("imported {rows} parts"),
        Err(error) => println!("not imported: {error}"),
    }
    channel.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    match std::env::args().nth(1).as_deref() {
        Some("server") => server().await,
        Some("client") => {
            client(101).await?;
            client(50).await
        }
        _ => anyhow::bail!("cargo run --example bidirectional -- server    (or client; REDIS_URL says where Redis is)"),
    }
}
