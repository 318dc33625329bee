//! Every example program, run as a user would run it.
//!
//! Those that serve print a line `ready` once they can be called, and end with status 0 on SIGTERM.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::processes::ProcessBuilder;
use tests::{Process, RedisServer};

/// For one program to be ready, to answer, to end.
const LIMIT: Duration = Duration::from_secs(20);

/// Defines a test for each example, and the list of them all.
macro_rules! examples {
    ($($name:ident => $check:expr;)*) => {
        const CHECKED: &[&str] = &[$(stringify!($name)),*];

        $(#[tokio::test]
        async fn $name() {
            ($check)().await;
        })*
    };
}

examples! {
    quickstart => async || {
        let lines = run(Process::example("quickstart")).await;
        assert_has(&lines, &["2 + 3 = 5", "1 / 4 = 0.25", "1 / 0: ", "division by zero", "after close: ", "no live server serves it"]);
    };

    calculator => async || {
        let redis = RedisServer::start().await;
        let workers = [serve(&redis, "calculator", "worker").await, serve(&redis, "calculator", "worker").await];
        let lines = run(on(&redis, "calculator", "client")).await;
        assert_has(&lines, &["2 + 3 = 5", "1 / 4 = 0.25", "1 / 0: ", "DivisionByZero"]);

        let mut handled = 0;
        for worker in workers {
            let lines = stop(worker).await;
            let count = lines.iter().find_map(|line| line.strip_prefix("handled ")?.strip_suffix(" calls"));
            handled += count.expect("a worker says how many calls it handled").parse::<u32>().unwrap();
        }
        assert_eq!(handled, 3);
    };

    broadcast => async || {
        let redis = RedisServer::start().await;
        let mut subscribers =
            [serve(&redis, "broadcast", "subscriber").await, serve(&redis, "broadcast", "subscriber").await];
        let lines = run(on(&redis, "broadcast", "publisher")).await;
        assert_has(&lines, &["2 subscribers", "log level was info", "told everybody"]);
        for subscriber in &mut subscribers {
            let line = subscriber.wait_for_line(LIMIT, |line| line.starts_with("reloaded: ")).await;
            assert!(line.contains("debug"), "{line}");
        }
        for subscriber in subscribers {
            stop(subscriber).await;
        }
    };

    bidirectional => async || {
        let redis = RedisServer::start().await;
        let server = serve(&redis, "bidirectional", "server").await;
        let lines = run(on(&redis, "bidirectional", "client")).await;
        assert_has(&lines, &["the server has done 100 %", "imported 4 parts", "not imported: ", "stopped at 50 %"]);
        stop(server).await;
    };

    errors => async || {
        let redis = RedisServer::start().await;
        let mut process = Process::example("errors").env("REDIS_URL", redis.url()).start();
        let status = process.wait_for_exit(LIMIT).await;
        // Not by `end`: a handler panics on purpose.
        assert!(status.success(), "{status}\n{}", process.report());
        assert_has(&process.stdout(), &[
            "bad config: ", "no redis: ", "other mode: ", "sold out: tea", "deadline: ", "panic: ", "arguments: ",
            "method: ", "closed: ",
        ]);
        assert!(!process.stdout().join("\n").contains("unexpected"), "{}", process.report());
    };

    testing => async || {
        let lines = run(Process::example("testing").env_remove("REDIS_URL")).await;
        assert_has(&lines, &["tea and bread: 7", "milk: ", "no milk here", "tea by channel: 3"]);
    };

    // The script is how this one is run: it builds the program, and starts a Redis and six processes.
    demo => async || {
        let demo = workspace().join("scripts/demo");
        // The script builds what it runs, hence the longer limit: another cargo may hold the lock.
        let lines = end(Process::program(demo).env_remove("REDIS_URL").start(), Duration::from_secs(300)).await;
        let text = lines.join("\n");
        for worker in ["worker 1", "worker 2", "worker 3"] {
            let share = |line: &&String| line.starts_with(&format!("  {worker}: "));
            assert_eq!(lines.iter().filter(share).count(), 1, "the share of {worker}:\n{text}");
        }
        for subscriber in ["subscriber 1", "subscriber 2"] {
            assert!(text.contains(&format!("{subscriber} heard: ")), "{subscriber} heard nothing:\n{text}");
        }
        assert!(text.contains("DivisionByZero"), "{text}");
        assert_eq!(lines.last().map(String::as_str), Some("Done."));
    };
}

#[test]
fn every_example_is_checked() {
    let dir = workspace().join("examples/examples");
    let entries = dir
        .read_dir()
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").exists())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut checked = CHECKED.to_vec();
    checked.sort_unstable();
    assert_eq!(
        found,
        checked,
        "examples in {} (left), and those with a check in this file (right)",
        dir.display()
    );
}

/// A program told to use this server, with one argument.
fn on(redis: &RedisServer, example: &str, role: &str) -> ProcessBuilder {
    Process::example(example).args([role]).env("REDIS_URL", redis.url())
}

/// Starts a program that serves, and waits until it can be called.
async fn serve(redis: &RedisServer, example: &str, role: &str) -> Process {
    let mut process = on(redis, example, role).start();
    process.wait_for_line(LIMIT, |line| line.starts_with("ready")).await;
    process
}

/// Asks a program to end, and returns the lines it printed.
async fn stop(mut process: Process) -> Vec<String> {
    process.terminate();
    end(process, LIMIT).await
}

/// Runs a program that ends by itself, and returns the lines it printed.
async fn run(program: ProcessBuilder) -> Vec<String> {
    end(program.start(), LIMIT).await
}

async fn end(mut process: Process, limit: Duration) -> Vec<String> {
    let status = process.wait_for_exit(limit).await;
    assert!(status.success(), "{status}\n{}", process.report());
    // A task may panic without ending the program.
    assert!(
        !process.stderr().iter().any(|line| line.contains("panicked at")),
        "{}",
        process.report()
    );
    process.stdout()
}

/// Each of these is in one of the lines, in this order; several may be in one.
fn assert_has(lines: &[String], wanted: &[&str]) {
    let text = lines.join("\n");
    let mut rest = text.as_str();
    for wanted in wanted {
        let Some(at) = rest.find(wanted) else {
            panic!("`{wanted}` is not in the output, or out of order:\n{text}");
        };
        rest = &rest[at + wanted.len()..];
    }
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("this package is in a workspace").to_owned()
}
