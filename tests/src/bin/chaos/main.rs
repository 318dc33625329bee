//! The chaos harness: a load of mixed calls on real processes, while something goes wrong.
//!
//!     cargo run --release --bin chaos -- [--fault NAME] [--seconds N] [--json]
//!
//! Workers write every run of a call to files, clients every call and how it ended; neither asks Redis. At the end the
//! files are reconciled, and each fault has bounds that must hold. The program exits with a status other than zero if one
//! does not.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

mod client;
mod clock;
mod crowd;
mod evidence;
mod faults;
mod impatient;
mod journal;
mod proxy;
mod reconcile;
mod report;
mod service;
mod stage;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;

use crate::client::ClientArgs;
use crate::crowd::CrowdArgs;
use crate::faults::{Fault, Plan};
use crate::impatient::ImpatientArgs;
use crate::report::Report;
use crate::worker::{Sabotage, WorkerArgs};

/// Runs workers, clients and Redis, makes something go wrong, and checks that nothing was lost.
#[derive(Debug, Parser)]
struct Cli {
    /// Only these faults; all of them by default.
    #[arg(long, value_name = "NAME", value_parser = fault_by_name)]
    fault: Vec<Fault>,
    /// How long the load of each fault lasts.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// One JSON object for each fault, instead of text.
    #[arg(long)]
    json: bool,
    /// How many faults to run at the same time; those that measure speed always run alone.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Lists the faults.
    #[arg(long)]
    list: bool,
    /// Lets the workers do something wrong, which must be noticed: a test of the harness.
    #[arg(long, hide = true)]
    sabotage: Option<Sabotage>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What the processes are that the harness starts.
#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Worker(WorkerArgs),
    #[command(hide = true)]
    Client(ClientArgs),
    #[command(hide = true)]
    Impatient(ImpatientArgs),
    #[command(hide = true)]
    Crowd(CrowdArgs),
}

fn fault_by_name(name: &str) -> Result<Fault, String> {
    let fault = faults::ALL.iter().find(|fault| fault.name == name);
    fault
        .copied()
        .ok_or_else(|| "there is no such fault; --list names them".to_owned())
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.role.is_some() {
        log_to_stderr();
    }
    match cli.role {
        Some(Role::Worker(args)) => worker::run(args).await,
        Some(Role::Client(args)) => client::run(args).await,
        Some(Role::Impatient(args)) => impatient::run(args).await,
        Some(Role::Crowd(args)) => crowd::run(args).await,
        None if cli.list => {
            for fault in faults::ALL {
                println!("{:20} {}", fault.name, fault.about);
            }
        }
        None => return run_faults(cli).await,
    }
    ExitCode::SUCCESS
}

/// As an application would have it that logs at the default level; `RUST_LOG=debug` shows more.
fn log_to_stderr() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_writer(std::io::stderr)
        .init();
}

async fn run_faults(cli: Cli) -> ExitCode {
    let plan = Plan {
        load: Duration::from_secs(cli.seconds),
        sabotage: cli.sabotage,
    };
    let mut wanted = cli.fault;
    if wanted.is_empty() {
        wanted.extend_from_slice(faults::ALL);
    }
    // Those that run alone come last, so that the others don't wait for them.
    wanted.sort_by_key(|fault| fault.alone);
    let places = Arc::new(Semaphore::new(cli.jobs as usize));
    let mut running = JoinSet::new();
    for fault in wanted {
        let needed = if fault.alone { cli.jobs } else { 1 };
        let taken = Arc::clone(&places)
            .acquire_many_owned(needed)
            .await
            .expect("never closed");
        running.spawn(async move {
            let report = fault.run(plan).await;
            drop(taken);
            print(&report, cli.json);
            report.pass
        });
    }
    match running.join_all().await.contains(&false) {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    }
}

fn print(report: &Report, json: bool) {
    if json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{}", report.to_text());
    }
}
