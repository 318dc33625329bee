//! Commands that Redis runs one after the other with nothing in between: MULTI, the commands, EXEC. One by itself needs neither.
//! No IO in here.

use crate::entry;
use crate::resp::{Commands, Value};

/// Adds a transaction of `count` commands, which `add` adds.
pub(crate) fn add(commands: &mut Commands, count: usize, add: impl FnOnce(&mut Commands)) {
    let is_wrapped = count > 1;
    if is_wrapped {
        commands.command("MULTI", 0);
    }
    add(commands);
    if is_wrapped {
        commands.command("EXEC", 0);
    }
}

/// How many bytes the answers have at the most if all of its `count` commands succeed with the id of an entry or less.
pub(crate) fn size_of_answers(count: usize) -> usize {
    const HEADS: usize = "+OK\r\n*10\r\n".len();
    const EACH: usize = "+QUEUED\r\n".len() + entry::ID_ANSWER_SIZE;
    if count > 1 {
        HEADS + count * EACH
    } else {
        count * entry::ID_ANSWER_SIZE
    }
}

/// What became of a transaction.
#[derive(Debug, PartialEq)]
pub(crate) enum Run {
    /// All commands were run, whatever each answered.
    Together(Vec<Value>),
    /// They were run one by one, because an ACL forbids MULTI.
    Apart { answers: Vec<Value>, why: String },
    /// None was run.
    Refused {
        /// What was said to each: an error, or nothing that means anything.
        answers: Vec<Value>,
        /// What was said at the end.
        why: String,
    },
}

/// Reads the answers to a transaction of `count` commands.
pub(crate) fn read(answers: &mut impl Iterator<Item = Value>, count: usize) -> Run {
    if count < 2 {
        let alone: Vec<Value> = answers.take(count).collect();
        return match alone.first().and_then(entry::error) {
            // What a command finds only when it is run is its answer, as it is within a transaction.
            None | Some(("WRONGTYPE", _)) => Run::Together(alone),
            Some((_, why)) => Run::Refused { answers: alone, why },
        };
    }
    let multi = answers.next();
    let queued: Vec<Value> = answers.take(count).collect();
    match (multi.as_ref().and_then(entry::error), answers.next()) {
        (Some(("NOPERM", why)), _) => Run::Apart { answers: queued, why },
        (_, Some(Value::Array(answers))) => Run::Together(answers),
        (_, refused) => Run::Refused {
            answers: queued,
            why: refused
                .as_ref()
                .and_then(entry::error)
                .map_or_else(|| "EXEC was not executed".to_owned(), |(_, why)| why),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &'static str) -> Value {
        Value::Status(text.into())
    }

    fn error(text: &str) -> Value {
        Value::Error(text.to_owned())
    }

    #[test]
    fn one_command_by_itself_is_no_transaction() {
        let mut commands = Commands::default();
        add(&mut commands, 1, |commands| {
            commands.command("PING", 0);
        });
        assert_eq!(commands.len(), 1);
        let mut answers = vec![Value::Int(1), error("OOM no"), Value::Int(2)].into_iter();
        assert_eq!(read(&mut answers, 1), Run::Together(vec![Value::Int(1)]));
        let refused = Run::Refused {
            answers: vec![error("OOM no")],
            why: "OOM no".to_owned(),
        };
        assert_eq!(read(&mut answers, 1), refused);
        assert_eq!(read(&mut answers, 0), Run::Together(Vec::new()));
        let found = vec![error("WRONGTYPE no")];
        assert_eq!(read(&mut found.clone().into_iter(), 1), Run::Together(found));
        assert_eq!(answers.len(), 1, "what follows is left");
    }

    #[test]
    fn several_are_run_together_or_not_at_all() {
        let mut commands = Commands::default();
        add(&mut commands, 2, |commands| {
            commands.command("PING", 0).command("PING", 0);
        });
        assert_eq!(commands.len(), 4);
        let results = vec![Value::Int(1), error("WRONGTYPE no")];
        let queued = [status("OK"), status("QUEUED"), status("QUEUED")];
        let mut answers = queued.into_iter().chain([Value::Array(results.clone()), Value::Nil]);
        assert_eq!(read(&mut answers, 2), Run::Together(results));
        assert_eq!(answers.next(), Some(Value::Nil), "what follows is left");

        let discarded = error("EXECABORT because");
        let mut answers = [status("OK"), status("QUEUED"), error("NOPERM no"), discarded].into_iter();
        let refused = Run::Refused {
            answers: vec![status("QUEUED"), error("NOPERM no")],
            why: "EXECABORT because".to_owned(),
        };
        assert_eq!(read(&mut answers, 2), refused);
    }

    #[test]
    fn the_size_of_the_answers_tells_whether_an_entry_follows() {
        let id = |seq: u32| format!("${}\r\n1795279488616-{seq}\r\n", format!("1795279488616-{seq}").len());
        let entry =
            "*1\r\n*2\r\n$3\r\n{a}\r\n*1\r\n*2\r\n$15\r\n1795279488616-0\r\n*2\r\n$1\r\nm\r\n$40\r\n\r\n".len() + 40;
        for seq in [0, 99, 900] {
            assert!(id(seq).len() <= size_of_answers(1));
            assert!("$-1\r\n".len() + entry > size_of_answers(1), "the inbox is gone");
            let ids: String = (seq..seq + 16).map(id).collect();
            let requests = format!("+OK\r\n{}*16\r\n{ids}", "+QUEUED\r\n".repeat(16)).len();
            let settled = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$-1\r\n:1\r\n".len();
            let size = size_of_answers(16) + size_of_answers(2);
            assert!(requests + settled <= size);
            assert!(requests + settled + entry > size);
        }
    }

    #[test]
    fn without_multi_each_runs_by_itself() {
        let answers = [
            error("NOPERM no MULTI"),
            Value::Int(1),
            error("OOM no"),
            error("ERR EXEC"),
        ];
        let apart = Run::Apart {
            answers: vec![Value::Int(1), error("OOM no")],
            why: "NOPERM no MULTI".to_owned(),
        };
        assert_eq!(read(&mut answers.into_iter(), 2), apart);
    }
}
