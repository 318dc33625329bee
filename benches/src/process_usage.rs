//! What a process has used so far, from /proc.

use std::fs;

use anyhow::Context;

/// CPU time of a process since its start, user and system, in microseconds. Counted in ticks of 10 ms.
pub(crate) fn cpu_us(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name of the program stands in parentheses and may contain anything, so fields are counted behind it.
    let fields = stat.rsplit_once(')').with_context(|| path.clone())?.1;
    let mut ticks = fields.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
        anyhow::bail!("{path} has another form than expected");
    };
    let a_second = rustix::param::clock_ticks_per_second();
    Ok(f64::from(user + system) * 1e6 / a_second as f64)
}

/// One of the lines of `/proc/<pid>/status` that state kB.
pub(crate) fn memory_kib(pid: u32, field: &str) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse().ok())
        .with_context(|| format!("no {field} in {path}"))
}

/// The most memory that a process has had resident.
pub(crate) fn peak_kib(pid: u32) -> anyhow::Result<u64> {
    memory_kib(pid, "VmHWM")
}
