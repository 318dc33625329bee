//! What every example needs and none is about: where Redis is, logs, and the signal to stop.

/// The Redis to use: the `REDIS_URL` of the environment, else the default one on this machine.
#[must_use]
pub fn redis_url() -> String {
    std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned())
}

/// Shows warnings on standard error.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .init();
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// When this process cannot listen to signals.
pub async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
