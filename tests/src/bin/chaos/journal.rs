//! What really happened, written outside of Redis: one line for each event, with one write(2), so that neither a SIGKILL
//! nor another writer leaves half a line.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::str::{FromStr, SplitWhitespace};

use crate::clock::{self, Micros};

/// A file to which events are appended.
#[derive(Debug)]
pub(crate) struct Journal(File);

impl Journal {
    /// Opens the file, or creates it.
    pub(crate) fn append_to(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Writes one event down. A journal that cannot be written makes the whole run worthless, so that ends the process.
    pub(crate) fn write(&self, event: Event) {
        let line = format!("{} {event}\n", clock::now());
        (&self.0).write_all(line.as_bytes()).expect("write to the journal");
    }
}

/// Reads all events of a journal; a line that cannot be read is an error.
pub(crate) fn read(path: &Path) -> Result<Vec<Record>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let parse = |line: &str| Record::parse(line).ok_or_else(|| format!("{}: unreadable: {line:?}", path.display()));
    text.lines().map(parse).collect()
}

/// An event and when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) at: Micros,
    pub(crate) event: Event,
}

/// What a worker or a client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A worker has begun to run a call.
    Begun(Run),
    /// A worker has run a call to its end.
    Finished(Run),
    /// A client is about to make a call.
    Sent { kind: Kind, id: u64 },
    /// A client's call has ended.
    Ended {
        kind: Kind,
        id: u64,
        outcome: Outcome,
        latency: Micros,
        /// The process and the attempt that the answer came from, if it says so.
        by: Option<(u32, u32)>,
    },
}

/// One run of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub(crate) pid: u32,
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) attempt: u32,
}

/// Defines an enum whose variants are written as words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word,)* })
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(word: &str) -> Result<Self, ()> {
                match word { $($word => Ok(Self::$variant),)* _ => Err(()) }
            }
        }
    };
}

words! {
    /// The sort of a call: the method.
    Kind {
        Quick = "quick",
        Slow = "slow",
        Once = "once",
        Fail = "fail",
        Note = "note",
        Poison = "poison",
    }
}

words! {
    /// How a call ended, as its caller saw it.
    Outcome {
        /// With a value; a notification: accepted.
        Ok = "ok",
        /// By its deadline.
        Timeout = "timeout",
        /// With the method's own error.
        Service = "service",
        Overloaded = "overloaded",
        NoWorkers = "no-workers",
        WorkerLost = "worker-lost",
        Indeterminate = "indeterminate",
        /// It could not be sent.
        Io = "io",
        Closed = "closed",
        /// With an answer that was meant for another call.
        Wrong = "wrong",
        Other = "other",
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun(run) => write!(f, "begun {run}"),
            Self::Finished(run) => write!(f, "finished {run}"),
            Self::Sent { kind, id } => write!(f, "sent {kind} {id}"),
            Self::Ended {
                kind,
                id,
                outcome,
                latency,
                by,
            } => {
                let (pid, attempt) = by.unwrap_or_default();
                write!(f, "ended {kind} {id} {outcome} {latency} {pid} {attempt}")
            }
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.kind, self.id, self.pid, self.attempt)
    }
}

impl Record {
    fn parse(line: &str) -> Option<Self> {
        fn word<T: FromStr>(words: &mut SplitWhitespace<'_>) -> Option<T> {
            words.next()?.parse().ok()
        }
        let mut words = line.split_whitespace();
        let at = word(&mut words)?;
        let event = words.next()?;
        let (kind, id) = (word(&mut words)?, word(&mut words)?);
        let mut run = || {
            let (pid, attempt) = (word(&mut words)?, word(&mut words)?);
            Some(Run { pid, kind, id, attempt })
        };
        let event = match event {
            "begun" => Event::Begun(run()?),
            "finished" => Event::Finished(run()?),
            "sent" => Event::Sent { kind, id },
            "ended" => Event::Ended {
                kind,
                id,
                outcome: word(&mut words)?,
                latency: word(&mut words)?,
                by: Some((word(&mut words)?, word(&mut words)?)).filter(|(pid, _)| *pid != 0),
            },
            _ => return None,
        };
        words.next().is_none().then_some(Self { at, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("journal");
        let run = Run {
            pid: 7,
            kind: Kind::Once,
            id: 1 << 40,
            attempt: 2,
        };
        let mut events = vec![Event::Begun(run), Event::Finished(run)];
        events.extend(Kind::ALL.iter().map(|&kind| Event::Sent { kind, id: 3 }));
        for by in [None, Some((7, 2))] {
            events.extend(Outcome::ALL.iter().map(|&outcome| Event::Ended {
                kind: Kind::Fail,
                id: 4,
                outcome,
                latency: 12,
                by,
            }));
        }
        let journal = Journal::append_to(&path).expect("a journal");
        events.iter().for_each(|event| journal.write(*event));
        let read: Vec<Event> = read(&path)
            .expect("readable")
            .iter()
            .map(|record| record.event)
            .collect();
        assert_eq!(read, events);
    }

    #[test]
    fn half_a_line_is_an_error() {
        for line in [
            "",
            "1 begun once",
            "1 begun once 3 7",
            "1 sent once 3 4",
            "1 sent twice 3",
            "x sent once 3",
        ] {
            assert_eq!(Record::parse(line), None, "{line}");
        }
    }
}
