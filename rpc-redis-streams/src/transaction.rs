//! Commands that Redis runs one after the other with nothing in between: MULTI, the commands, EXEC. One by itself needs neither.
//! No IO in here.

use crate::commands::Commands;
use crate::entry;
use crate::resp::Value;

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

/// How many bytes the answers have at the most if all of its commands succeed: so many with the id of an entry, so many with a small
/// number.
pub(crate) fn size_of_answers(ids: usize, numbers: usize) -> usize {
    const HEADS: usize = "+OK\r\n*10\r\n".len();
    const QUEUED: usize = "+QUEUED\r\n".len();
    const NUMBER: usize = ":16\r\n".len();
    let answers = ids * entry::ID_ANSWER_SIZE + numbers * NUMBER;
    match ids + numbers {
        0 | 1 => answers,
        count => HEADS + count * QUEUED + answers,
    }
}

/// What became of a transaction.
#[derive(Debug, PartialEq)]
pub(crate) enum Run {
    /// All commands were run, whatever each answered.
    Together(Vec<Value>),
    /// They were run one by one, because there is no MULTI: an ACL forbids it, say.
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
            None | Some(("WRONGTYPE" | "ERR", _)) => Run::Together(alone),
            Some((_, why)) => Run::Refused { answers: alone, why },
        };
    }
    let multi = answers.next();
    let queued: Vec<Value> = answers.take(count).collect();
    let is_run = queued.iter().any(|answer| entry::error(answer).is_none());
    match (multi.as_ref().and_then(entry::error), answers.next()) {
        // Without MULTI nothing is queued. Where Redis refuses everything (it is loading, say), it refuses MULTI as well.
        (Some((code, why)), _) if is_run || code == "NOPERM" => Run::Apart { answers: queued, why },
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
        for found in [error("WRONGTYPE no"), error("ERR the stream is exhausted")] {
            let found = vec![found];
            assert_eq!(read(&mut found.clone().into_iter(), 1), Run::Together(found));
        }
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
            assert!(id(seq).len() <= size_of_answers(1, 0));
            assert!("$-1\r\n".len() + entry > size_of_answers(1, 0), "the inbox is gone");
            let ids: String = (seq..seq + 16).map(id).collect();
            let requests = format!("+OK\r\n{}*16\r\n{ids}", "+QUEUED\r\n".repeat(16)).len();
            let settled = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$-1\r\n:1\r\n".len();
            let size = size_of_answers(16, 0) + size_of_answers(1, 1);
            assert!(requests + settled <= size);
            assert!(requests + settled + entry > size);
        }
    }

    #[test]
    fn the_size_of_the_answers_tells_whether_a_read_has_ended_in_vain() {
        let settled = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$17\r\n1795279488616-123\r\n:16\r\n".len();
        assert_eq!(settled, size_of_answers(1, 1) - 1);
        let settled = "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$15\r\n1795279488616-0\r\n:1\r\n".len();
        assert!(settled + "*-1\r\n$3\r\n0-0\r\n".len() > size_of_answers(1, 1));
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

        let (unknown, none) = (error("ERR unknown command 'MULTI'"), error("ERR EXEC without MULTI"));
        let answers = [unknown, Value::Int(1), Value::Int(2), none];
        let apart = Run::Apart {
            answers: vec![Value::Int(1), Value::Int(2)],
            why: "ERR unknown command 'MULTI'".to_owned(),
        };
        assert_eq!(read(&mut answers.into_iter(), 2), apart);

        let answers = std::iter::repeat_n(error("LOADING wait"), 4);
        let refused = Run::Refused {
            answers: vec![error("LOADING wait"); 2],
            why: "LOADING wait".to_owned(),
        };
        assert_eq!(read(&mut answers.into_iter(), 2), refused);
    }
}
