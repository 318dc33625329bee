//! Floor, ourselves and peers, side by side in one run.
//!
//!     cargo run --release -p benches              # the table
//!     cargo run --release -p benches -- --help
// It is a program: what it has to say goes to the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod broker;
mod cli;
mod consumer_group;
mod contender;
mod floor;
mod load;
mod measurement;
mod naive;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod process_usage;
mod redis_stats;
mod rounds;
mod row;
mod sample;
mod table;
mod tasks;

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use clap::Parser;

use cli::{Cli, Options, Role};
use tasks::{ClientTask, WorkerTask};

fn main() -> anyhow::Result<()> {
    let Cli { role, options } = Cli::parse();
    match role {
        Some(Role::Worker { task }) => WorkerTask::run(&task),
        Some(Role::Client { task }) => ClientTask::run(&task),
        None if options.one_cpu => pinned(),
        None => run(&options),
    }
}

/// This program again, on one CPU: its children inherit that.
fn pinned() -> anyhow::Result<()> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--one-cpu");
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(std::env::current_exe()?).args(arguments);
    Err(command.exec()).context("taskset (of util-linux) pins processes to a CPU")
}

fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (settings, contenders, points) = (options.settings(), options.contenders()?, options.points());
    let measured = rounds::run(&settings, &contenders, &points, options.rounds());
    let rows = runtime.block_on(measured)?;
    if options.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        table::print(&rows);
    }
    Ok(())
}
