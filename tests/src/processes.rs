//! Programs of this workspace as child processes: what a user would start in another terminal.

use std::env;
use std::ffi::OsStr;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::child::{self, OwnedChild, POLL};

/// A program to be started; see [`Process`].
#[derive(Debug)]
pub struct ProcessBuilder {
    command: Command,
    name: String,
}

/// A running program whose output is kept. Dropping it kills it.
///
/// ```no_run
/// # async fn example() {
/// # use std::time::Duration;
/// # use tests::Process;
/// # let url = "redis://127.0.0.1:1";
/// const LIMIT: Duration = Duration::from_secs(10);
/// let mut worker = Process::example("calculator").args(["worker"]).env("REDIS_URL", url).start();
/// worker.wait_for_line(LIMIT, |line| line.starts_with("ready")).await;
/// worker.terminate();
/// assert!(worker.wait_for_exit(LIMIT).await.success());
/// # }
/// ```
#[derive(Debug)]
pub struct Process {
    name: String,
    child: OwnedChild,
    stdout: Output,
    stderr: Output,
    /// Lines of stdout that `wait_for_line` has been past.
    seen: usize,
}

impl Process {
    /// The example program `name` of any package of this workspace, built if it is not up to date.
    #[must_use]
    pub fn example(name: &str) -> ProcessBuilder {
        Self::program(profile_dir().join("examples").join(name))
    }

    /// The binary `name` of any package of this workspace, built if it is not up to date.
    #[must_use]
    pub fn binary(name: &str) -> ProcessBuilder {
        Self::program(profile_dir().join(name))
    }

    /// Any program, by its path, or by its name if it is on the PATH.
    ///
    /// # Panics
    /// If there is no file at that path.
    #[must_use]
    pub fn program(path: impl AsRef<OsStr>) -> ProcessBuilder {
        let path = Path::new(path.as_ref());
        assert!(
            path.components().count() == 1 || path.is_file(),
            "there is no program {}",
            path.display()
        );
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ProcessBuilder {
            command: child::command(path.as_ref()),
            name,
        }
    }

    /// Waits for the next line on stdout that `wanted` accepts, and returns it. The lines before it are passed over:
    /// later waits look only at what follows.
    ///
    /// # Panics
    /// If the program ends without such a line, or `limit` passes; with all its output.
    #[track_caller]
    pub fn wait_for_line(&mut self, limit: Duration, wanted: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        let at = Location::caller();
        async move {
            let deadline = Instant::now() + limit;
            loop {
                // Asked before the lines are read, so that none is missed between the two.
                let ended = self.stdout.ended();
                while let Some(line) = self.stdout.line(self.seen) {
                    self.seen += 1;
                    if wanted(&line) {
                        return line;
                    }
                }
                if ended {
                    panic!(
                        "{} closed its output without the line awaited at {at}\n{}",
                        self.name,
                        self.report()
                    );
                }
                if Instant::now() >= deadline {
                    panic!(
                        "{} did not print the line awaited at {at} in {limit:?}\n{}",
                        self.name,
                        self.report()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Waits for the end of the program and of its output.
    ///
    /// # Panics
    /// If `limit` passes; with all its output.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> impl Future<Output = ExitStatus> {
        let at = Location::caller();
        async move {
            let deadline = Instant::now() + limit;
            let Some(status) = self.child.wait(limit).await else {
                panic!(
                    "{} did not end within {limit:?} (waited at {at})\n{}",
                    self.name,
                    self.report()
                );
            };
            // The pipes may outlive the program, if it left children behind; that is no reason to wait for ever.
            while !(self.stdout.ended() && self.stderr.ended()) && Instant::now() < deadline {
                tokio::time::sleep(POLL).await;
            }
            status
        }
    }

    /// All lines printed on stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lines()
    }

    /// All lines printed on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lines()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Whether the program has not ended.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.child.exit_status().is_none()
    }

    /// SIGTERM: asks the program to end. No-op if it has ended, as are the other signals.
    pub fn terminate(&mut self) {
        self.child.signal(Signal::TERM);
    }

    /// SIGKILL, and waits for the end: the program gets no chance to tidy up.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// SIGSTOP: freezes the program, and returns when it stands still; its connections stay open.
    pub fn pause(&mut self) {
        self.child.pause();
    }

    /// SIGCONT: the end of [`pause`](Self::pause).
    pub fn resume(&mut self) {
        self.child.signal(Signal::CONT);
    }

    /// All output, for messages of failed tests.
    #[must_use]
    pub fn report(&self) -> String {
        let section = |title: &str, lines: Vec<String>| format!("--- {title} of {}\n{}\n", self.name, lines.join("\n"));
        section("stdout", self.stdout()) + &section("stderr", self.stderr())
    }
}

impl ProcessBuilder {
    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Removes an environment variable the test itself was given.
    #[must_use]
    pub fn env_remove(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// Starts the program in this directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts the program.
    ///
    /// # Panics
    /// If no process can be started.
    #[must_use]
    pub fn start(mut self) -> Process {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            OwnedChild::spawn(&mut self.command).unwrap_or_else(|error| panic!("start {}: {error}", self.name));
        let stdout = Output::read(child.inner().stdout.take().expect("stdout is piped"));
        let stderr = Output::read(child.inner().stderr.take().expect("stderr is piped"));
        Process {
            name: self.name,
            child,
            stdout,
            stderr,
            seen: 0,
        }
    }
}

/// The lines of one pipe, read by a thread: it works on any runtime, and a program never blocks on a full pipe.
#[derive(Debug, Clone, Default)]
struct Output(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let lines = output.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                lines.with(|all| all.lines.push(String::from_utf8_lossy(&line).into_owned()));
            }
            lines.with(|all| all.ended = true);
        });
        output
    }

    fn with<T>(&self, action: impl FnOnce(&mut Lines) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn line(&self, index: usize) -> Option<String> {
        self.with(|all| all.lines.get(index).cloned())
    }

    fn lines(&self) -> Vec<String> {
        self.with(|all| all.lines.clone())
    }

    fn ended(&self) -> bool {
        self.with(|all| all.ended)
    }
}

/// `target/debug` or wherever cargo put the running test, with the programs of the workspace up to date in it.
fn profile_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        // target/debug/deps/<test>
        let test = env::current_exe().expect("path of the running test");
        let profile_dir = test.ancestors().nth(2).expect("a test is in target/<profile>/deps");
        build(profile_dir);
        profile_dir.to_owned()
    })
}

/// Cargo doesn't build the programs of other packages for `cargo test -p tests`, and the programs of the last build
/// may be stale. The same selection of packages and features as in `cargo test --workspace`, so that nothing is built
/// twice: this takes a fraction of a second when there is nothing to do.
fn build(profile_dir: &Path) {
    // Unset when the test program was started by hand; then what is there must do.
    let Some(cargo) = env::var_os("CARGO") else { return };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package is in a workspace");
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--workspace", "--bins", "--examples"])
        .current_dir(workspace);
    if profile_dir.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    // With --target there is a directory more between; its name is then the target's.
    if let Some(target_dir) = profile_dir
        .ancestors()
        .find(|dir| dir.join(".rustc_info.json").exists())
    {
        command.arg("--target-dir").arg(target_dir);
    }
    // Some build scripts run again when these change, and they are this package's, not those of a user's shell.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    let output = command.output().expect("run cargo");
    assert!(
        output.status.success(),
        "cargo build failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;

    const LIMIT: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        Process::program("sh")
            .args(["-c", script])
            .env("GREETING", "hello")
            .start()
    }

    #[tokio::test]
    async fn lines_are_found_in_order_and_kept() {
        let mut process = shell("echo one; echo $GREETING; echo oops >&2; echo two; printf end");
        assert_eq!(process.wait_for_line(LIMIT, |line| line.contains("ell")).await, "hello");
        assert_eq!(process.wait_for_line(LIMIT, |line| line.contains('e')).await, "end");
        assert!(process.wait_for_exit(LIMIT).await.success());
        assert_eq!(process.stdout(), ["one", "hello", "two", "end"]);
        assert_eq!(process.stderr(), ["oops"]);
    }

    #[test]
    #[should_panic(expected = "there is no program /no/such/program")]
    fn a_missing_program_is_named() {
        let _ = Process::program("/no/such/program");
    }

    #[tokio::test]
    #[should_panic(expected = "oops")]
    async fn the_end_of_the_program_ends_the_wait() {
        shell("echo oops >&2; sleep 0.1")
            .wait_for_line(Duration::from_secs(600), |_| true)
            .await;
    }

    #[tokio::test]
    #[should_panic(expected = "did not print the line awaited at")]
    async fn a_silent_program_is_reported_in_time() {
        shell("exec sleep 600")
            .wait_for_line(Duration::from_millis(50), |_| true)
            .await;
    }

    #[tokio::test]
    async fn signals_reach_the_program() {
        let mut process = shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
        process.wait_for_line(LIMIT, |line| line == "ready").await;
        process.pause();
        process.terminate();
        assert!(process.is_running());
        process.resume();
        process.wait_for_line(LIMIT, |line| line == "bye").await;
        assert_eq!(process.wait_for_exit(LIMIT).await.code(), Some(3));
        process.kill();
        process.terminate();
    }

    #[tokio::test]
    async fn dropped_it_is_gone() {
        let mut process = shell("echo ready; exec sleep 600");
        process.wait_for_line(LIMIT, |line| line == "ready").await;
        let pid = process.pid();
        drop(process);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn it_ends_with_the_guard_when_the_test_process_is_killed() {
        // Closing the guard's pipe is what the death of this process does.
        let mut process = shell("echo ready; exec sleep 600");
        process.wait_for_line(LIMIT, |line| line == "ready").await;
        process.child.close_guard_pipe();
        eventually(LIMIT, "killed by the guard", async || !process.is_running()).await;
    }

    fn alive(pid: u32) -> bool {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::test_kill_process(pid).is_ok()
    }
}
