//! A child process that never outlives its test, however the test ends.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// How long a process may take to stand still.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A child that is signalled by its own pid only, and killed on drop.
#[derive(Debug)]
pub(crate) struct OwnedChild {
    child: Child,
    guard: Guard,
}

/// A command for [`OwnedChild::spawn`], to be given arguments, environment, stdout and stderr. The program replaces a
/// shell that waits for a line from us, so it can't start before it has a guard.
pub(crate) fn command(program: &OsStr) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "read -r _ && exec \"$0\" \"$@\" </dev/null"])
        .arg(program)
        .stdin(Stdio::piped());
    command
}

impl OwnedChild {
    /// Starts what [`command`] began.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let guard = Guard::spawn()?;
        let child = command.spawn()?;
        let mut owned = Self { child, guard };
        owned.guard.watch(owned.child.id())?;
        let mut go = owned.child.stdin.take().expect("stdin is piped");
        go.write_all(b"\n")?;
        Ok(owned)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn inner(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The exit status, once the child has ended.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().expect("wait for an own child");
        if status.is_some() {
            self.guard.end();
        }
        status
    }

    /// Sends `signal`; `false` if the child has already ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> bool {
        // An ended child's pid is free for others to use once it was waited for, hence the question first.
        if self.exit_status().is_some() {
            return false;
        }
        kill_process(Pid::from_child(&self.child), signal).expect("signal an own child");
        true
    }

    /// SIGSTOP, then waits until the process stands still: until one of its threads has taken notice of the signal, all may
    /// go on. False if it has ended.
    pub(crate) fn pause(&mut self) -> bool {
        if !self.signal(Signal::STOP) {
            return false;
        }
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let begun = Instant::now();
        while let Ok(None) = waitid(WaitId::Pid(Pid::from_child(&self.child)), stopped) {
            assert!(begun.elapsed() < STOP_LIMIT, "the process does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// SIGKILL, then waits for the end.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.guard.end();
        self.child.wait().expect("wait for an own child")
    }

    /// Waits for the end of the child; `None` if that takes longer than `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            let status = self.exit_status();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    #[cfg(test)]
    pub(crate) fn close_guard_pipe(&mut self) {
        self.guard.0.stdin = None;
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        // The guard ends after the kill, so that one of them happens even if we are killed here, and before the wait,
        // which frees the pid for others. Errors have nobody to go to.
        let _ = self.child.kill();
        self.guard.end();
        let _ = self.child.wait();
    }
}

/// A shell that kills a process when ours is gone: no destructor runs after an abort or a SIGKILL, but the pipe to the
/// shell closes. It ignores Ctrl-C, which reaches the whole process group, to outlive us.
#[derive(Debug)]
struct Guard(Child);

impl Guard {
    fn spawn() -> io::Result<Self> {
        Command::new("sh")
            .args([
                "-c",
                "trap '' INT TERM HUP; read -r pid && { read -r _; kill -9 \"$pid\"; }",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(Self)
    }

    fn watch(&mut self, pid: u32) -> io::Result<()> {
        let mut pipe = self.0.stdin.as_ref().expect("stdin is piped");
        writeln!(pipe, "{pid}")
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}
