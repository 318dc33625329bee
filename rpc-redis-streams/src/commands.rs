//! Commands in the Redis protocol (RESP2), to be written at once. Those of the hot path are written here without further ado, the
//! others are built with the redis crate.

use std::time::Duration;

use rpc_core::EntryId;

use crate::pieces::Pieces;

/// No key is kept longer.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What Redis takes as a time to live, in milliseconds.
pub(crate) fn ttl_ms(ttl: Duration) -> u64 {
    ttl.min(LONGEST).as_millis() as u64
}

/// Commands to be written at once.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    pieces: Pieces,
    count: usize,
    /// Where a value is written, whose length stands before it.
    value: Pieces,
}

impl Commands {
    /// With room for so many bytes of them.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut commands = Self::default();
        commands.pieces.reserve(bytes);
        commands
    }

    /// Forgets all of them, and keeps memory for others.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.count = 0;
    }

    /// Starts a command of `arguments` arguments behind its name; that many have to follow.
    pub(crate) fn command(&mut self, name: &str, arguments: usize) -> &mut Self {
        self.count += 1;
        self.head(b'*', arguments + 1);
        self.arg(name)
    }

    /// The next argument of the command.
    pub(crate) fn arg(&mut self, argument: impl AsRef<[u8]>) -> &mut Self {
        let argument = argument.as_ref();
        self.head(b'$', argument.len());
        self.pieces.extend_from_slice(argument);
        self.pieces.extend_from_slice(b"\r\n");
        self
    }

    /// The next argument of the command, which `write` writes, and which may be large.
    pub(crate) fn value(&mut self, write: impl FnOnce(&mut Pieces)) -> &mut Self {
        let mut value = std::mem::take(&mut self.value);
        write(&mut value);
        self.head(b'$', value.len());
        self.pieces.append(&value);
        self.pieces.extend_from_slice(b"\r\n");
        value.clear();
        self.value = value;
        self
    }

    /// The next argument of the command, a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.arg(itoa::Buffer::new().format(number))
    }

    /// The next argument of the command, the id of an entry.
    pub(crate) fn id(&mut self, id: EntryId) -> &mut Self {
        let (mut ms, mut seq) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (ms, seq) = (ms.format(id.ms), seq.format(id.seq));
        self.head(b'$', ms.len() + 1 + seq.len());
        self.pieces.extend_from_slice(ms.as_bytes());
        self.pieces.push(b'-');
        self.pieces.extend_from_slice(seq.as_bytes());
        self.pieces.extend_from_slice(b"\r\n");
        self
    }

    /// A command that was built with the redis crate.
    pub(crate) fn add(&mut self, command: &redis::Cmd) -> &mut Self {
        self.count += 1;
        self.pieces.extend_from_slice(&command.get_packed_command());
        self
    }

    /// All commands of `others`.
    pub(crate) fn append(&mut self, others: &Self) {
        self.count += others.count;
        self.pieces.append(&others.pieces);
    }

    fn head(&mut self, kind: u8, length: usize) {
        if length < 10 {
            // Most are, and this is much of what it takes to write a command.
            return self
                .pieces
                .extend_from_slice(&[kind, b'0' + length as u8, b'\r', b'\n']);
        }
        self.pieces.push(kind);
        self.pieces
            .extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.pieces.extend_from_slice(b"\r\n");
    }

    /// How many there are, which is how many answers will come.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut commands = Commands::default();
        commands.command("XACK", 3).arg("calc").arg("workers").number(12);
        commands.add(redis::cmd("TIME").arg("é"));
        let text = "*4\r\n$4\r\nXACK\r\n$4\r\ncalc\r\n$7\r\nworkers\r\n$2\r\n12\r\n*2\r\n$4\r\nTIME\r\n$2\r\né\r\n";
        assert_eq!(commands.len(), 2);
        assert_eq!(Vec::from(commands.pieces), text.as_bytes());
    }
}
