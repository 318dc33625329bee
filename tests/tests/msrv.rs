//! The `rust-version` we state is one our dependencies can be built with.

use std::env;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn no_dependency_needs_a_newer_rust_than_we_state() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // All features, and the dependencies of all platforms: what any user may build.
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--all-features"])
        .current_dir(workspace)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

    let packages = metadata["packages"].as_array().unwrap();
    let (ours, others): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package["source"].is_null());
    assert!(
        !ours.is_empty() && !others.is_empty(),
        "cargo metadata has another form than expected"
    );

    let mut stated: Vec<_> = ours.iter().map(|package| rust_version(package)).collect();
    stated.dedup();
    let [Some(stated)] = stated[..] else {
        panic!("every package of the workspace should state the same rust-version, found {stated:?}")
    };
    let newer: Vec<_> = others
        .iter()
        .filter(|package| rust_version(package).is_some_and(|needed| needed > stated))
        .map(|package| {
            format!(
                "{} {} needs {}",
                package["name"], package["version"], package["rust_version"]
            )
        })
        .collect();
    assert!(
        newer.is_empty(),
        "rust-version is {stated:?}, but:\n{}",
        newer.join("\n")
    );
}

/// `"1.88"` as `(1, 88, 0)`; most packages that state none build with old compilers.
fn rust_version(package: &Value) -> Option<(u32, u32, u32)> {
    let version = package["rust_version"].as_str()?;
    let mut numbers = version
        .split('.')
        .map(|number| number.parse().expect("rust-version is made of numbers"));
    let mut next = || numbers.next().unwrap_or(0);
    Some((next(), next(), next()))
}
