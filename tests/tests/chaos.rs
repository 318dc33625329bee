//! The chaos harness notices what goes wrong: here it is the workers that do it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::Value;
use tests::Process;

const LIMIT: Duration = Duration::from_secs(120);

/// A run of two seconds in which nothing but the sabotage happens.
async fn run(sabotage: &[&str]) -> Value {
    let mut chaos = Process::program(env!("CARGO_BIN_EXE_chaos"))
        .args(["--fault", "none", "--seconds", "2", "--json"])
        .args(sabotage)
        .start();
    let status = chaos.wait_for_exit(LIMIT).await;
    let lines = chaos.stdout();
    let report: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(status.success(), report["pass"].as_bool().unwrap(), "{report}");
    if let Some(kept) = report["kept"].as_str() {
        std::fs::remove_dir_all(kept).unwrap();
    }
    report
}

#[tokio::test]
async fn a_run_without_a_fault_passes() {
    let report = run(&[]).await;
    assert_eq!(report["pass"], true, "{report}");
    assert!(report["sent"].as_u64().unwrap() > 100, "{report}");
    assert_eq!(report["sent"], report["executed"], "{report}");
}

#[tokio::test]
async fn a_worker_that_answers_without_running_is_noticed() {
    let report = run(&["--sabotage", "idle"]).await;
    assert!(report["broken"].to_string().contains("contradictions"), "{report}");
}

#[tokio::test]
async fn a_worker_that_runs_twice_is_noticed() {
    let report = run(&["--sabotage", "double"]).await;
    assert!(report["doubled"].as_u64().unwrap() > 0, "{report}");
    assert!(report["broken"].to_string().contains("must not run twice"), "{report}");
}

#[tokio::test]
async fn a_worker_that_forgets_notifications_is_noticed() {
    let report = run(&["--sabotage", "forget"]).await;
    assert!(report["lost"].as_u64().unwrap() > 0, "{report}");
    assert!(report["broken"].to_string().contains("NeverRun"), "{report}");
}

#[tokio::test]
async fn a_worker_that_never_answers_is_noticed() {
    let report = run(&["--sabotage", "mute"]).await;
    assert!(report["timeouts"].as_u64().unwrap() > 0, "{report}");
    assert!(report["broken"].to_string().contains("Unanswered"), "{report}");
}
