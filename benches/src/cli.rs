//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::contender::Contender;
use crate::cpus::Cpus;
use crate::measurement::{Point, Settings};
use crate::runtime::Runtime;

/// Floor, ourselves and peers, side by side in one run: calls that echo their payload, one client process, one worker
/// process, one broker, fresh for each measurement; round by round, each contender in turn.
#[derive(Debug, Parser)]
#[command(max_term_width = 120)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What the processes of a measurement are told to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Serves.
    #[command(hide = true)]
    Worker {
        /// A `Task`.
        task: String,
    },
    /// Measures.
    #[command(hide = true)]
    Client {
        /// A `Measure`.
        task: String,
    },
    /// Has sessions beside those that are measured.
    #[command(hide = true)]
    Bystander {
        /// A `Task`.
        task: String,
    },
}

/// What is run and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Every contender for a moment, to see that it works; the figures mean little
    #[arg(long)]
    pub(crate) short: bool,
    /// Instead of the table: how the cost of a call changes with sessions, workers, streams, subscribers, a backlog,
    /// idle sessions and large calls beside it; names what to run, all by default
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "SCENARIO", conflicts_with = "only")]
    pub(crate) scaling: Option<Vec<String>>,
    /// Measure what issue 4 sets bounds to, all by its defaults, say which hold, and fail if one doesn't that must
    #[arg(long, conflicts_with_all = ["short", "scaling", "only", "callers", "payload", "json", "measure", "threads", "cpus",
        "server", "appendonly", "io_threads"])]
    pub(crate) check: bool,
    /// Also draw throughput and 99th percentile over callers
    #[arg(long, value_name = "FILE.svg", conflicts_with = "scaling")]
    pub(crate) plot: Option<PathBuf>,
    /// One JSON object per row and line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Only these contenders, by name; `ours` stands for all of `ours/…`
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Calls under way at once [default: 1,16,64,256,1024; fewer for large payloads]
    #[arg(long, value_delimiter = ',', value_name = "N")]
    callers: Vec<usize>,
    /// Bytes of each call and answer [default: 32,4096,262144]
    #[arg(long, value_delimiter = ',', value_name = "BYTES")]
    payload: Vec<usize>,
    /// How often everything is measured; medians are shown [default: 5, with --short 1]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long one measurement takes, after a warm-up of a quarter of it [default: 1000, with --short 250]
    #[arg(long, value_name = "MILLIS")]
    measure: Option<u64>,
    /// Threads of the Tokio runtimes of client and worker; 0 is the single-threaded runtime
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Where the processes run
    #[arg(long, value_enum, default_value_t = Cpus::All)]
    cpus: Cpus,
    /// The redis-server or valkey-server to use
    #[arg(long, value_name = "PATH")]
    server: Option<String>,
    /// Have Redis keep an append-only file; it keeps nothing on disk otherwise
    #[arg(long, value_enum, value_name = "FSYNC")]
    appendonly: Option<Fsync>,
    /// Threads of Redis for reading and writing; on a CPU of its own they would do nothing but wait for each other
    #[arg(long, value_name = "N", conflicts_with = "cpus")]
    io_threads: Option<usize>,
}

/// When Redis has its append-only file written to the disk.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Fsync {
    No,
    Everysec,
    Always,
}

impl Options {
    /// Who takes part, without those that this machine has not.
    pub(crate) fn contenders(&self) -> anyhow::Result<Vec<Contender>> {
        let all = Contender::value_variants();
        let named = |name: &str, only: &String| {
            name == only
                || name
                    .strip_prefix(only.as_str())
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        for only in &self.only {
            let names: Vec<_> = all.iter().map(|contender| contender.name()).collect();
            anyhow::ensure!(
                names.iter().any(|name| named(name, only)),
                "there is no {only}; there are {}",
                names.join(", ")
            );
        }
        let wanted = |contender: &Contender| {
            let name = contender.name();
            self.only.is_empty() || self.only.iter().any(|only| named(&name, only))
        };
        let present = |contender: &Contender| {
            let missing = contender.missing();
            if let Some(why) = missing {
                eprintln!("{} is left out: {why}", contender.name());
            }
            missing.is_none()
        };
        Ok(all.iter().copied().filter(wanted).filter(present).collect())
    }

    /// What is measured of each of them.
    pub(crate) fn points(&self) -> Vec<Point> {
        let payloads = match &self.payload[..] {
            [] if self.short => &[32, 262_144],
            [] => &[32, 4096, 262_144][..],
            payloads => payloads,
        };
        let callers_for = |payload| match &self.callers[..] {
            [] if self.short => &[16][..],
            // Many large calls are a test of memory.
            [] if payload >= 65_536 => &[1, 16],
            [] if payload >= 4096 => &[1, 16, 64, 256],
            [] => &[1, 16, 64, 256, 1024],
            callers => callers,
        };
        let points = |payload: &usize| {
            let payload = *payload;
            callers_for(payload)
                .iter()
                .map(move |&callers| Point { callers, payload })
        };
        payloads.iter().flat_map(points).collect()
    }

    /// How often.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.short { 1 } else { 5 }).max(1)
    }

    /// How each of them is measured.
    pub(crate) fn settings(&self) -> Settings {
        let measure = Duration::from_millis(self.measure.unwrap_or(if self.short { 250 } else { 1000 }));
        let mut server_arguments = Vec::new();
        let mut set = |name: &str, value: String| server_arguments.push((name.to_owned(), value));
        if let Some(fsync) = self.appendonly {
            set("--appendonly", "yes".to_owned());
            set("--appendfsync", format!("{fsync:?}").to_lowercase());
        }
        if let Some(threads) = self.io_threads {
            set("--io-threads", threads.to_string());
        }
        Settings {
            server: self.server.clone(),
            server_arguments,
            cpus: self.cpus,
            runtime: Runtime { threads: self.threads },
            warm_up: measure / 4,
            measure,
        }
    }
}
