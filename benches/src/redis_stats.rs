//! What Redis counts, from INFO.

use std::collections::BTreeMap;

use anyhow::Context;
use redis::aio::MultiplexedConnection;

/// Counters of a server at one moment.
#[derive(Debug, Default)]
pub(crate) struct RedisStats {
    /// Times each command was run.
    pub(crate) commands: BTreeMap<String, u64>,
    /// Bytes received.
    pub(crate) bytes_in: u64,
    /// Bytes sent.
    pub(crate) bytes_out: u64,
}

impl RedisStats {
    /// Asks the server.
    pub(crate) async fn ask(connection: &mut MultiplexedConnection) -> anyhow::Result<Self> {
        let info: String = redis::cmd("INFO").arg("everything").query_async(connection).await?;
        Self::read(&info)
    }

    fn read(info: &str) -> anyhow::Result<Self> {
        let mut stats = Self::default();
        for (name, value) in info.lines().filter_map(|line| line.split_once(':')) {
            if let Some(command) = name.strip_prefix("cmdstat_") {
                let calls = value
                    .split(',')
                    .find_map(|part| part.strip_prefix("calls="))
                    .context(command.to_owned())?;
                stats.commands.insert(command.to_owned(), calls.parse()?);
            }
            match name {
                "total_net_input_bytes" => stats.bytes_in = value.parse()?,
                "total_net_output_bytes" => stats.bytes_out = value.parse()?,
                _ => {}
            }
        }
        Ok(stats)
    }

    /// What was counted since `earlier`, our own questions left out.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let count = |(name, calls): (&String, &u64)| {
            let more = calls - earlier.commands.get(name).unwrap_or(&0);
            (more > 0 && name != "info").then(|| (name.clone(), more))
        };
        Self {
            commands: self.commands.iter().filter_map(count).collect(),
            bytes_in: self.bytes_in - earlier.bytes_in,
            bytes_out: self.bytes_out - earlier.bytes_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_came_since() {
        let info = |calls: u32, bytes: u32| {
            let info = format!(
                "# Stats\r\ntotal_net_input_bytes:{bytes}\r\ntotal_net_output_bytes:7\r\n\
                 cmdstat_xadd:calls={calls},usec=14\r\ncmdstat_info:calls={calls},usec=1\r\n"
            );
            RedisStats::read(&info).unwrap()
        };
        let stats = info(5, 90).since(&info(2, 30));
        assert_eq!(stats.commands, BTreeMap::from([("xadd".to_owned(), 3)]));
        assert_eq!((stats.bytes_in, stats.bytes_out), (60, 0));
    }
}
