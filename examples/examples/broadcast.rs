//! Broadcast: every subscriber runs every call. Here, all processes of a fleet reload their configuration.
//!
//!     cargo run --example broadcast -- subscriber   # as many as you like
//!     cargo run --example broadcast -- publisher
#![allow(clippy::print_stdout, missing_docs)]

use std::sync::Mutex;

use examples::{asked_to_stop, log_to_stderr, redis_url};
use rpc_core::{RpcChannel, service};
use rpc_redis_streams::{Config, RedisStreamsIo};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Settings {
    pub log_level: String,
    pub greeting: Option<String>,
}

#[service]
pub trait ConfigReload {
    /// Nobody answers; every subscriber runs it.
    #[rpc(notify)]
    async fn reload(&self, settings: Settings);

    /// Every subscriber runs it; the first answer wins.
    async fn log_level(&self) -> String;
}

struct Subscriber {
    level: Mutex<String>,
}

impl ConfigReload for Subscriber {
    async fn reload(&self, settings: Settings) {
        println!("reloaded: {settings:?}");
        *self.level.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = settings.log_level;
    }

    async fn log_level(&self) -> String {
        self.level
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

async fn connect() -> anyhow::Result<RedisStreamsIo> {
    let config = Config::builder()
        .url(redis_url())
        .stream("example-config")
        .broadcast()
        .build()?;
    Ok(RedisStreamsIo::connect(config).await?)
}

async fn subscriber() -> anyhow::Result<()> {
    let level = Mutex::new("info".to_owned());
    let channel = RpcChannel::builder(connect().await?)
        .serve(ConfigReloadServer::new(Subscriber { level }))?
        .start()
        .await?;
    println!("ready");
    asked_to_stop().await?;
    channel.close().await;
    Ok(())
}

async fn publisher() -> anyhow::Result<()> {
    let io = connect().await?;
    let channel = RpcChannel::open(io.clone()).await?;
    println!(
        "{} subscribers",
        io.workers().await?.iter().filter(|peer| peer.alive).count()
    );
    let fleet = ConfigReloadClient::new(&channel);
    println!("log level was {}", fleet.log_level().await?);
    fleet
        .reload(Settings {
            log_level: "debug".to_owned(),
            greeting: None,
        })
        .await?;
    println!("told everybody");
    channel.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    log_to_stderr();
    match std::env::args().nth(1).as_deref() {
        Some("subscriber") => subscriber().await,
        Some("publisher") => publisher().await,
        _ => anyhow::bail!(
            "cargo run --example broadcast -- subscriber    (or publisher; REDIS_URL says where Redis is)"
        ),
    }
}
