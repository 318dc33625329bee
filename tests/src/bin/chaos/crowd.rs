//! A process with very many sessions, clients and workers, that is going to be killed.

use std::path::PathBuf;

use clap::Args;
use rpc_core::RpcChannel;
use tokio::task::JoinSet;

use crate::client::{self, Caller};
use crate::journal::{Journal, Kind};
use crate::worker::{self, WorkerArgs};

/// How long the calls take that are under way at the kill.
const CALL_MS: u64 = 3_000;

/// How a crowd is started.
#[derive(Args, Clone, Debug)]
pub(crate) struct CrowdArgs {
    /// Where Redis is.
    #[arg(long)]
    pub(crate) url: String,
    /// Where to write what is called, and run.
    #[arg(long)]
    pub(crate) journal: PathBuf,
    /// Tells the processes of a run apart.
    #[arg(long)]
    pub(crate) index: u64,
    /// How many sessions only call.
    #[arg(long)]
    pub(crate) clients: u64,
    /// How many sessions serve.
    #[arg(long)]
    pub(crate) workers: u64,
}

/// Opens all sessions, and lets each client make a call and have another one under way. Then prints `ready`, and waits to
/// be killed.
pub(crate) async fn run(args: CrowdArgs) {
    let mut workers = JoinSet::new();
    for n in 0..args.workers {
        workers.spawn(worker::serve(WorkerArgs {
            url: args.url.clone(),
            journal: args.journal.clone(),
            consumer: Some(format!("crowd-{}-{n}", args.index)),
            concurrency: 1024,
            max_len: None,
            sabotage: None,
        }));
    }
    let workers = workers.join_all().await;
    let mut clients = JoinSet::new();
    for n in 0..args.clients {
        let args = args.clone();
        clients.spawn(async move {
            let channel = client::open(&args.url, false, None).await;
            let caller = Caller::new(&channel, Journal::append_to(&args.journal).expect("open the journal"));
            let id = client::first_id(args.index) + 2 * n;
            caller.call(Kind::Quick, id, 0).await;
            let under_way = tokio::spawn(async move { caller.call(Kind::Slow, id + 1, CALL_MS).await });
            (channel, under_way)
        });
    }
    let _clients: Vec<(RpcChannel, _)> = clients.join_all().await;
    println!("ready");
    std::future::pending::<()>().await;
    drop(workers);
}
