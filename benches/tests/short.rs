//! That the benchmark runs, for a moment each: no timing is asserted.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn rows(arguments: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_benches"))
        .args(["--short", "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let rows = str::from_utf8(&output.stdout).unwrap();
    rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

fn names(rows: &[Value], field: &str) -> BTreeSet<String> {
    rows.iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

fn assert_called(rows: &[Value]) {
    for row in rows {
        let figure = |name: &str| row[name].as_f64().unwrap();
        assert!(
            figure("rps") > 0.0 && figure("p50_us") > 0.0 && figure("ratio") > 0.0,
            "{row}"
        );
    }
}

#[test]
fn every_contender_answers_small_and_large_calls() {
    let rows = rows(&[]);
    assert_called(&rows);
    let names = names(&rows, "name");
    assert_eq!(rows.len(), names.len() * 2);
    for name in [
        "floor",
        "ours/group",
        "ours/group/unpacked",
        "ours/group/messagepack",
        "ours/group/unix",
        "ours/broadcast",
    ] {
        assert!(names.contains(name), "{name} is missing among {names:?}");
    }
}

#[test]
fn every_scenario_runs_from_its_first_to_its_last_value() {
    let rows = rows(&["--scaling"]);
    assert_called(&rows);
    assert!(names(&rows, "scenario").len() >= 9);
}

#[test]
fn unknown_names_are_refused() {
    let program = env!("CARGO_BIN_EXE_benches");
    let output = Command::new(program).args(["--only", "ours/grup"]).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("there is no ours/grup") && error.contains("ours/group"),
        "{error}"
    );
}
