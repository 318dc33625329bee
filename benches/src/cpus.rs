//! Which CPUs the processes run on.

#[cfg(not(target_os = "linux"))]
use anyhow::bail;
use clap::ValueEnum;

/// How the processes of a measurement share the CPUs. Each inherits its CPUs from the one that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cpus {
    /// As the system sees fit.
    All,
    /// All on one: CPU time varies less there, so it is the figure to compare.
    One,
    /// The broker on one, all others on another: nobody takes the broker's time.
    BrokerApart,
}

impl Cpus {
    /// Before the broker is started.
    pub(crate) fn choose_for_broker(self) -> anyhow::Result<()> {
        match self {
            Self::All => Ok(()),
            Self::One | Self::BrokerApart => pin_to(0),
        }
    }

    /// Before any other process is started.
    pub(crate) fn choose_for_others(self) -> anyhow::Result<()> {
        match self {
            Self::All => Ok(()),
            Self::One => pin_to(0),
            Self::BrokerApart => pin_to(1),
        }
    }
}

#[cfg(target_os = "linux")]
fn pin_to(cpu: usize) -> anyhow::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

#[cfg(not(target_os = "linux"))]
fn pin_to(_: usize) -> anyhow::Result<()> {
    bail!("processes are pinned to CPUs on Linux only")
}
