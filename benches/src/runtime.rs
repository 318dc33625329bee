//! The Tokio runtime that all contenders run on.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// How a process runs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Runtime {
    /// Threads of the Tokio runtime; 0 for one that runs on the main thread.
    pub(crate) threads: usize,
}

impl Runtime {
    /// Runs `future` to its end.
    pub(crate) fn block_on<T>(self, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        allow_many_connections()?;
        let mut builder = match self.threads {
            0 => tokio::runtime::Builder::new_current_thread(),
            threads => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                builder.worker_threads(threads);
                builder
            }
        };
        builder.enable_all().build()?.block_on(future)
    }
}

/// A thousand sessions have more connections than a process may open by default.
fn allow_many_connections() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(())
}
