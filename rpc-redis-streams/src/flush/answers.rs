//! What the answers to a flush mean, and what to do if none come.

use rpc_core::IoError;
use rpc_core::io::{Outgoing, SendFailure};
use rpc_core::message::{Kind, Request, Target};

use super::Flush;
use crate::entry;
use crate::outbox::{Message, Question};
use crate::report::{Fate, Report, is_passing};
use crate::resp::Value;
use crate::settle::Settling;
use crate::transaction::{self, Run};

impl Flush {
    /// Reads the answers, one for each command.
    pub(crate) fn read(self, answers: Vec<Value>) -> Report {
        let mut report = Report::default();
        let mut answers = answers.into_iter();
        let packs = self.answers_to_packs(&mut answers);
        for (number, (target, pack)) in self.packing.iter().enumerate() {
            let answer = packs.get(number).unwrap_or(&Value::Nil);
            for request in pack {
                match judge(answer, target) {
                    Ok(()) if request.kind == Kind::Notification => report.fates.push(Fate::Accepted(request.sequence)),
                    Ok(()) => {}
                    Err(Refusal::Final(failure)) => {
                        let stored = request.arguments.elsewhere.map(|_| request.clone());
                        report.refused.extend(stored);
                        report.fates.push(Fate::Failed(request.sequence, target, failure));
                    }
                    Err(Refusal::NotYet(why)) => {
                        report.demoted |= why.starts_with("READONLY");
                        report.trouble = Some(why);
                        report.again.push(again(target, request.clone()));
                    }
                    Err(Refusal::WithOthers) => {
                        report.divide = true;
                        report.again.push(again(target, request.clone()));
                    }
                }
            }
        }
        // Nor does a signal to close that is not taken end anything.
        answers.by_ref().take(self.signals).for_each(drop);
        // A cancel that Redis does not take is no loss: the call runs to its end.
        answers.by_ref().take(self.cancels.len()).for_each(drop);
        for Question { commands, answer, .. } in self.questions {
            let answers = answers.by_ref().take(commands.len());
            match answer {
                // Whoever asked may have given up.
                Some(answer) => drop(answer.send(answers.collect())),
                None => answers.for_each(drop),
            }
        }
        if self.asks_length {
            report.length = answers.next().as_ref().and_then(entry::number);
        }
        for settling in self.settlings {
            settling.read(&mut answers, &mut report);
        }
        report
    }

    /// The answer to each entry of requests.
    fn answers_to_packs(&self, answers: &mut impl Iterator<Item = Value>) -> Vec<Value> {
        let mut packs = Vec::with_capacity(self.packing.len());
        for count in &self.together {
            match transaction::read(answers, *count) {
                Run::Together(answers) | Run::Apart { answers, .. } => packs.extend(answers),
                Run::Refused { answers, why } => packs.extend(answers.into_iter().map(|answer| match answer {
                    Value::Error(_) => answer,
                    _ => Value::Error(why.clone()),
                })),
            }
        }
        packs
    }

    /// What to do after the connection broke before the answers came.
    ///
    /// Settlements are repeated: a second reply is ignored by its receiver and a second XACK does nothing. Requests are
    /// repeated as well, because by default a call may run twice (a subscriber recognises the repeat); those that may not
    /// end here.
    pub(crate) fn into_report(self) -> Report {
        let mut report = Report::default();
        for (_, target, request) in self.packing.into_requests() {
            if request.at_most_once {
                let lost = "the connection broke while the call was sent".to_owned();
                let fate = Fate::Failed(request.sequence, target, SendFailure::Indeterminate(lost));
                report.fates.push(fate);
            } else {
                report.again.push(again(target, request));
            }
        }
        let signals = (0..self.signals).map(|_| Message::Outgoing(Outgoing::SignalClose));
        report.again.extend(signals);
        for (target, calls) in self.cancels {
            report.again.extend(calls.into_iter().map(|(sequence, deadline)| {
                Message::Outgoing(Outgoing::Cancel {
                    target,
                    sequence,
                    deadline,
                })
            }));
        }
        let wanted = self.questions.into_iter().filter(Question::is_wanted);
        report.again.extend(wanted.map(Message::Ask));
        report
            .again
            .extend(self.settlings.into_iter().flat_map(Settling::into_settlements));
        report
    }
}

fn again(target: Target, request: Request) -> Message {
    Message::Outgoing(Outgoing::Request { target, request })
}

/// Why Redis did not take a request.
enum Refusal {
    Final(SendFailure),
    /// It will, in a moment.
    NotYet(String),
    /// It would have by itself.
    WithOthers,
}

fn judge(answer: &Value, target: Target) -> Result<(), Refusal> {
    let Some((code, text)) = entry::error(answer) else {
        return match (answer, target) {
            // NOMKSTREAM found no inbox.
            (Value::Nil, Target::Session(_)) => Err(Refusal::Final(SendFailure::SessionGone)),
            _ => Ok(()),
        };
    };
    Err(match code {
        // A caller can be told and come again; whoever settles has to wait.
        "OOM" => Refusal::Final(SendFailure::Overloaded("redis is out of memory".to_owned())),
        "MISCONF" | "NOREPLICAS" => Refusal::Final(SendFailure::NotSent(IoError::new(text))),
        "EXECABORT" => Refusal::WithOthers,
        _ if is_passing(code) => Refusal::NotYet(text),
        _ => Refusal::Final(SendFailure::NotSent(IoError::new(text))),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{calls, to_stream, written};
    use super::*;
    use crate::packing::tests::request;

    fn flush(messages: Vec<Message>, divided: bool) -> Flush {
        written(messages, divided).0
    }

    fn sequences(messages: &[Message]) -> Vec<u64> {
        let sequence = |message: &Message| match message {
            Message::Outgoing(Outgoing::Request { request, .. }) => request.sequence,
            other => panic!("{other:?}"),
        };
        messages.iter().map(sequence).collect()
    }

    #[test]
    fn a_notification_is_accepted_when_it_has_an_id() {
        let notifications = |answers: Vec<Value>| {
            let note = |sequence| Request {
                sequence,
                kind: Kind::Notification,
                ..request(None, 2)
            };
            let notes = (1..=2).map(|sequence| to_stream(note(sequence)));
            flush(notes.chain(calls(1)).collect(), false).read(answers).fates
        };
        let id = || Value::Bulk("5-1".into());
        let accepted = notifications(vec![id(), id(), id()]);
        assert!(
            matches!(accepted[..], [Fate::Accepted(1), Fate::Accepted(2)]),
            "{accepted:?}"
        );
        let refused = notifications(vec![id(), Value::Error("ERR no".to_owned()), id()]);
        assert!(
            matches!(
                refused[..],
                [Fate::Accepted(1), Fate::Failed(2, _, SendFailure::NotSent(_))]
            ),
            "{refused:?}"
        );
    }

    #[test]
    fn a_request_that_is_refused_takes_no_others_along() {
        let status = |text: &'static str| Value::Status(text.into());
        let error = |text: &str| Value::Error(text.to_owned());
        let answers = vec![
            status("OK"),
            status("QUEUED"),
            error("NOPERM for this one"),
            status("QUEUED"),
            error("EXECABORT Transaction discarded because of previous errors."),
        ];
        let report = flush(calls(3), false).read(answers);
        assert!(matches!(
            report.fates[..],
            [Fate::Failed(1, _, SendFailure::NotSent(_))]
        ));
        assert_eq!(sequences(&report.again), [0, 2]);
        assert!(report.divide);

        let answers = vec![status("1-1"), error("OOM for this one"), status("1-2")];
        let report = flush(calls(3), true).read(answers);
        assert!(matches!(
            report.fates[..],
            [Fate::Failed(1, _, SendFailure::Overloaded(_))]
        ));
        assert!(report.again.is_empty() && !report.divide);
    }
}
