//! What a worker takes that has nothing to do: the example `calculator`. Not one of those that are measured: all peers are in them.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::Process;

use crate::broker::Broker;
use crate::contender::Need;
use crate::measurement::Settings;
use crate::process_usage::memory_kib;

const PATIENCE: Duration = Duration::from_secs(30);

/// Builds it, starts it, and looks at its resident memory once it is ready for calls.
pub(crate) async fn resident_kib(settings: &Settings) -> anyhow::Result<u64> {
    let target = env::current_exe()?;
    let target = target.ancestors().nth(2).context("benches is in target/release")?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "examples",
            "--example",
            "calculator",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace.context("benches is in a workspace")?)
        .status()
        .context("cargo build of the example calculator")?;
    ensure!(built.success(), "the example calculator cannot be built");
    let broker = Broker::start(Need::Redis, settings).await?;
    let mut worker = Process::program(target.join("release/examples/calculator"))
        .args(["worker"])
        .env("REDIS_URL", broker.address())
        .start();
    worker.wait_for_line(PATIENCE, |line| line == "ready").await;
    memory_kib(worker.pid(), "VmRSS")
}
