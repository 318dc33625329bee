//! Floor, ourselves and peers, side by side in one run.
//!
//!     cargo run --release -p benches              # the table
//!     cargo run --release -p benches -- --help
// It is a program: what it has to say goes to the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod allocations;
mod backlog;
mod bounds;
mod broker;
mod cli;
mod comparison;
mod consumer_group;
mod contender;
mod cpus;
mod floor;
mod idle_worker;
mod load;
mod measurement;
mod naive;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod plot;
mod process_usage;
mod redis_connection;
mod redis_stats;
mod rounds;
mod row;
mod runtime;
mod sample;
mod scaling;
mod table;
mod tasks;

use anyhow::ensure;
use clap::Parser;

use cli::{Cli, Options, Role};
use row::Row;

fn main() -> anyhow::Result<()> {
    let Cli { role, options } = Cli::parse();
    match role {
        Some(Role::Worker { task }) => tasks::work(&task),
        Some(Role::Client { task }) => tasks::measure(&task),
        Some(Role::Bystander { task }) => tasks::stand_by(&task),
        None => run(&options),
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let rows = runtime.block_on(measure(options))?;
    if options.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
    } else {
        table::print(&rows);
    }
    if let Some(file) = &options.plot {
        plot::draw(&rows, file)?;
    }
    if options.check {
        let idle_kib = runtime.block_on(idle_worker::resident_kib(&options.settings()))?;
        ensure!(bounds::check(&rows, idle_kib), "something does not hold that must");
    }
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Vec<Row>> {
    let (settings, rounds) = (options.settings(), options.rounds());
    if let Some(scenarios) = &options.scaling {
        return scaling::run(&settings, scenarios, rounds).await;
    }
    if options.check {
        let (contenders, points, scenarios) = bounds::needed()?;
        let mut rows = comparison::run(&settings, &contenders, &points, rounds).await?;
        rows.extend(scaling::run(&settings, &scenarios, rounds).await?);
        return Ok(rows);
    }
    comparison::run(&settings, &options.contenders()?, &options.points(), rounds).await
}
