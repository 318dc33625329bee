//! A client process whose calls all time out.

use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use rpc_core::CallError;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::client;
use crate::service::LoadClient;
use crate::stage::resident;

/// How long the calls have to live; their handlers take far longer.
const TIMEOUT: Duration = Duration::from_millis(100);
const STALL_MS: u64 = 60_000;

/// How many calls wait at once.
const IN_FLIGHT: u32 = 1_000;

/// How an impatient client is started.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImpatientArgs {
    /// Where Redis is.
    #[arg(long)]
    pub(crate) url: String,
    /// Not written: these calls are too many, and are counted instead.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// How many calls to make.
    #[arg(long)]
    pub(crate) calls: u64,
}

/// What an impatient client says at its end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Impatience {
    pub(crate) timeouts: u64,
    /// Calls that ended in another way.
    pub(crate) others: u64,
    /// Calls that the channel still holds when all have ended.
    pub(crate) in_flight: u64,
    /// Resident bytes after a tenth of the calls, and at the end.
    pub(crate) resident: (u64, u64),
}

/// Makes the calls. Prints `warm` after the first tenth of them, and the [`Impatience`] at the end.
pub(crate) async fn run(args: ImpatientArgs) {
    let channel = client::open(&args.url, false, None).await;
    let client = LoadClient::new(&channel).with_timeout(TIMEOUT);
    let room = Arc::new(Semaphore::new(IN_FLIGHT as usize));
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let mut warm = 0;
    for n in 0..args.calls {
        if n == args.calls / 10 {
            warm = resident(process::id());
            println!("warm");
        }
        let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            let count = match client.stall(STALL_MS).await {
                Err(CallError::DeadlineExceeded { .. }) => &counts.0,
                _ => &counts.1,
            };
            count.fetch_add(1, Ordering::Relaxed);
            drop(permit);
        });
    }
    let _all = room.acquire_many(IN_FLIGHT).await.expect("never closed");
    let end = Impatience {
        timeouts: counts.0.load(Ordering::Relaxed),
        others: counts.1.load(Ordering::Relaxed),
        in_flight: channel.stats().in_flight as u64,
        resident: (warm, resident(process::id())),
    };
    println!("end {}", serde_json::json!(end));
    channel.close().await;
}
