//! What is left of a run when everything has ended.

use std::collections::HashSet;
use std::path::Path;

use rpc_redis_streams::{EntryContent, RequestSummary};
use tempfile::TempDir;
use tests::Process;

use crate::clock::Micros;
use crate::journal::{self, Record};

/// What is left when everything has ended.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) records: Vec<Record>,
    pub(crate) logs: Logs,
    /// The calls and notifications among the dead letters.
    pub(crate) dead_letters: Vec<u64>,
    /// Those that may be among them, poison aside.
    pub(crate) may_be_dead: HashSet<u64>,
    /// What no process should have done, whatever the fault.
    pub(crate) problems: Vec<String>,
    /// What the clients counted at their end.
    pub(crate) stats: Vec<serde_json::Value>,
    /// When the clients were told to stop.
    pub(crate) load_ended: Micros,
    /// Where journals and logs are.
    pub(crate) dir: Option<TempDir>,
}

impl Evidence {
    /// Reads all journals of a directory.
    pub(crate) fn read_journals(&mut self, dir: &Path) {
        let read = std::fs::read_dir(dir).expect("read the directory");
        let files = read.filter_map(|entry| Some(entry.ok()?.path()));
        for file in files.filter(|file| file.extension().is_some_and(|extension| extension == "journal")) {
            match journal::read(&file) {
                Ok(records) => self.records.extend(records),
                Err(problem) => self.problems.push(problem),
            }
        }
        self.records.sort_by_key(|record| record.at);
    }

    /// What a process said at its end that it had counted.
    pub(crate) fn take_stats(&mut self, process: &Process) {
        let lines = process.stdout();
        let stats = lines.iter().find_map(|line| line.strip_prefix("stats "));
        match stats.and_then(|stats| serde_json::from_str(stats).ok()) {
            Some(stats) => self.stats.push(stats),
            None => self.problems.push(format!("a client failed: {}", process.report())),
        }
    }
}

/// What workers and clients logged.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// Warnings and errors.
    pub(crate) warnings: Vec<String>,
    /// Panics.
    pub(crate) panics: Vec<String>,
}

impl Logs {
    /// Takes over what an ended process has logged, and leaves it in `dir` for people.
    pub(crate) fn take(&mut self, process: &Process, dir: &Path) {
        let lines = process.stderr();
        // The second word is the level, behind the time.
        let warns = |line: &&String| matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"));
        self.warnings.extend(lines.iter().filter(warns).cloned());
        let panics = lines.iter().filter(|line| line.contains("panicked at"));
        self.panics.extend(panics.cloned());
        let _ = std::fs::write(dir.join(format!("{}.log", process.pid())), lines.join("\n"));
    }
}

/// The ids in an entry: the first argument of each call.
pub(crate) fn ids(content: &EntryContent) -> Vec<u64> {
    let requests = requests(content).iter();
    requests.filter_map(|request| id(&request.arguments)).collect()
}

/// The calls in an entry.
pub(crate) fn requests(content: &EntryContent) -> &[RequestSummary] {
    match content {
        EntryContent::Requests { requests, .. } => requests,
        _ => &[],
    }
}

/// The first of these arguments, of which the beginning is enough.
pub(crate) fn id(arguments: &str) -> Option<u64> {
    arguments.strip_prefix('[')?.split([',', ']']).next()?.parse().ok()
}
