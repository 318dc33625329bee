//! On a paused clock, which runs to the next timer whenever every task waits: "an hour later, nothing more" is instant.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::*;
use crate::codec::Payload;
use crate::id::EntryId;
use crate::io::{Mode, Outgoing};
use crate::message::{Headers, Outcome};
use crate::testing::{Noted, Script, Unit};

const HOUR: Duration = Duration::from_secs(3600);

struct Worker {
    dispatcher: Arc<Dispatcher>,
    io: Arc<Noted>,
    runs: Arc<AtomicU32>,
}

impl Worker {
    fn new(script: Script) -> Self {
        let settings = ChannelSettings {
            max_queue_size: 2,
            ..ChannelSettings::default()
        };
        let io = Noted::new(Mode::Group, settings, Vec::new());
        let (unit, runs) = Unit::new(script);
        let mut services = Services::default();
        services.add(Arc::new(unit), Reach::Stream).unwrap();
        let carrier = Arc::new(Arc::clone(&io));
        let dispatcher = Dispatcher::new(services, carrier, Arc::default(), Handle::current());
        Self {
            dispatcher: Arc::new(dispatcher),
            io,
            runs,
        }
    }

    fn deliver(&self, sequence: u64, method: &'static str, time_left: Option<Duration>) {
        self.deliver_as(Origin::Group, Payload::empty(), sequence, method, time_left);
    }

    /// A call whose arguments lie elsewhere.
    fn deliver_large(&self, time_left: Duration) -> CallId {
        let mut arguments = Payload::empty();
        arguments.elsewhere = Some(1 << 20);
        self.deliver_as(Origin::Group, arguments, 1, "unit.call", Some(time_left))
    }

    fn deliver_as(
        &self,
        origin: Origin,
        arguments: Payload,
        sequence: u64,
        method: &'static str,
        time_left: Option<Duration>,
    ) -> CallId {
        let caller = SessionId::generate();
        self.dispatcher.deliver(vec![Delivery {
            entry: EntryId { ms: sequence, seq: 0 },
            origin,
            caller,
            requests: vec![Request {
                sequence,
                kind: if method == "unit.call" {
                    Kind::Call
                } else {
                    Kind::Notification
                },
                method: method.into(),
                deadline: time_left.map(|left| Instant::now() + left),
                attempt: 1,
                headers: Headers::new(),
                arguments,
                at_most_once: false,
                packable: None,
            }],
            forgotten: false,
        }]);
        CallId {
            session: caller,
            sequence,
        }
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }

    /// The only thing that was sent, which must be a dead letter that acknowledges its entry: reason and attempts.
    fn dead_letter(&self) -> (String, u32) {
        match &self.io.sent.lock().unwrap()[..] {
            [
                Outgoing::DeadLetter {
                    reason,
                    attempts,
                    acknowledge: true,
                    ..
                },
            ] => (reason.clone(), *attempts),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_notification_is_tried_until_it_succeeds() {
    let worker = Worker::new(Script::Fail(2));
    worker.deliver(1, "unit.note", None);
    sleep(HOUR).await;
    assert_eq!(worker.runs(), 3);
    let sent = worker.io.sent.lock().unwrap();
    assert!(
        matches!(
            sent[..],
            [Outgoing::Settle {
                acknowledge: Some(_),
                reply: None,
                ..
            }]
        ),
        "{sent:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn arguments_that_lie_elsewhere_are_fetched_before_the_call_runs() {
    let worker = Worker::new(Script::Fail(0));
    *worker.io.fetched.lock().unwrap() = Some(Ok(Payload::empty()));
    worker.deliver_large(HOUR);
    worker.dispatcher.idle().await;
    assert_eq!(worker.runs(), 1);

    let gone = Fault::new(FaultKind::Indeterminate, "they are gone");
    *worker.io.fetched.lock().unwrap() = Some(Err(gone.clone()));
    let again = EntryId { ms: 1, seq: 0 };
    worker.dispatcher.settlements().confirmed(again);
    worker.io.sent.lock().unwrap().clear();
    worker.deliver_large(HOUR);
    worker.dispatcher.idle().await;
    assert_eq!(worker.runs(), 1);
    match &worker.io.sent.lock().unwrap()[..] {
        [
            Outgoing::Settle {
                reply: Some(reply),
                acknowledge: Some(entry),
                ..
            },
        ] => assert_eq!((&reply.outcome, *entry), (&Outcome::Fault(gone), again)),
        other => panic!("{other:?}"),
    };
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_cannot_have_the_arguments_refuses_so_that_others_may_answer() {
    let worker = Worker::new(Script::Fail(0));
    *worker.io.fetched.lock().unwrap() = Some(Err(Fault::new(FaultKind::Indeterminate, "they are gone")));
    let mut arguments = Payload::empty();
    arguments.elsewhere = Some(1 << 20);
    worker.deliver_as(Origin::Broadcast, arguments, 1, "unit.call", Some(HOUR));
    worker.dispatcher.idle().await;
    match &worker.io.sent.lock().unwrap()[..] {
        [Outgoing::Settle { reply: Some(reply), .. }] => {
            assert!(matches!(&reply.outcome, Outcome::Fault(fault) if fault.kind.is_refusal()));
        }
        other => panic!("{other:?}"),
    };
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_before_its_arguments_have_come_is_not_run() {
    let worker = Worker::new(Script::Fail(0));
    let call = worker.deliver_large(HOUR);
    tokio::task::yield_now().await;
    worker.dispatcher.cancel(call, None);
    worker.dispatcher.idle().await;
    assert_eq!((worker.runs(), worker.dispatcher.counters.cancelled.get()), (0, 1));
    assert_eq!(worker.io.sent.lock().unwrap().len(), 1, "it is acknowledged");
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_arguments_do_not_come_in_time_is_not_run() {
    let worker = Worker::new(Script::Fail(0));
    worker.deliver_large(HOUR);
    sleep(HOUR).await;
    worker.dispatcher.idle().await;
    assert_eq!((worker.runs(), worker.dispatcher.counters.expired.get()), (0, 1));
    assert_eq!(worker.io.sent.lock().unwrap().len(), 1, "it is acknowledged");
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_aborted_leaves_a_call_whose_arguments_have_not_come_to_others() {
    let worker = Worker::new(Script::Fail(0));
    worker.deliver_large(HOUR);
    tokio::task::yield_now().await;
    worker.dispatcher.abort();
    worker.dispatcher.idle().await;
    assert_eq!(worker.runs(), 0);
    assert!(worker.io.sent.lock().unwrap().is_empty());
    assert!(worker.dispatcher.settlements().holds(EntryId { ms: 1, seq: 0 }));
}

#[tokio::test(start_paused = true)]
async fn what_is_delivered_again_before_its_end_is_confirmed_is_acknowledged_again_and_not_run() {
    let worker = Worker::new(Script::Fail(0));
    let entry = EntryId { ms: 1, seq: 0 };
    worker.deliver(1, "unit.call", None);
    sleep(HOUR).await;
    worker.deliver(1, "unit.call", None);
    worker.dispatcher.settlements().confirmed(entry);
    sleep(HOUR).await;
    assert_eq!(worker.runs(), 1);
    assert!(worker.dispatcher.settlements().holds(entry));
    let sent = worker.io.sent.lock().unwrap();
    let settled = sent.iter().map(|message| match message {
        Outgoing::Settle { acknowledge, reply, .. } => (*acknowledge, reply.is_some()),
        other => panic!("{other:?}"),
    });
    let acknowledged = Some(entry);
    assert_eq!(
        settled.collect::<Vec<_>>(),
        [(acknowledged, true), (acknowledged, false)]
    );
    worker.dispatcher.settlements().confirmed(entry);
    assert!(!worker.dispatcher.settlements().holds(entry));
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_always_fails_becomes_a_dead_letter() {
    let worker = Worker::new(Script::Fail(u32::MAX));
    worker.deliver(1, "unit.note", None);
    sleep(HOUR).await;
    assert_eq!(worker.runs(), 3);
    assert_eq!(
        worker.dead_letter(),
        ("the handler failed: panicked: on purpose".to_owned(), 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_is_not_understood_is_not_tried_again() {
    let worker = Worker::new(Script::Misread);
    worker.deliver(1, "unit.note", None);
    sleep(HOUR).await;
    let reason = "bad arguments: argument `a` is missing".to_owned();
    assert_eq!((worker.runs(), worker.dead_letter()), (1, (reason, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_must_not_run_twice_is_not_tried_again() {
    let worker = Worker::new(Script::Fail(u32::MAX));
    worker.deliver(1, "unit.once", None);
    sleep(HOUR).await;
    assert_eq!(worker.runs(), 1);
    assert_eq!(worker.dead_letter().1, 1);
}

#[tokio::test(start_paused = true)]
async fn a_notification_whose_deadline_passes_meanwhile_becomes_a_dead_letter() {
    for time_left in [Duration::ZERO, Duration::from_millis(500)] {
        let worker = Worker::new(Script::Fail(u32::MAX));
        worker.deliver(1, "unit.note", Some(time_left));
        sleep(HOUR).await;
        assert!(worker.runs() <= 1);
        assert!(worker.dead_letter().0.contains("deadline"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_tried_again_takes_room() {
    let worker = Worker::new(Script::Fail(u32::MAX));
    let has_room = async || {
        timeout(Duration::from_millis(10), worker.dispatcher.room())
            .await
            .is_ok()
    };
    worker.deliver(1, "unit.note", None);
    assert!(has_room().await);
    worker.deliver(2, "unit.note", None);
    sleep(Duration::from_millis(10)).await;
    assert!(!has_room().await);
    assert_eq!(worker.dispatcher.load().0, 2);
    sleep(HOUR).await;
    assert!(has_room().await);
    assert_eq!(worker.dispatcher.load().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_is_dropped_at_abort_loses_nothing() {
    for method in ["unit.call", "unit.note"] {
        let worker = Worker::new(Script::Bomb);
        worker.deliver(1, method, None);
        sleep(HOUR).await;
        worker.dispatcher.abort();
        timeout(HOUR, worker.dispatcher.idle()).await.unwrap();
        // It stays pending in the group, for another worker.
        assert!(worker.io.sent.lock().unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_what_is_dropped_at_its_deadline_ends_the_request() {
    let worker = Worker::new(Script::Bomb);
    worker.deliver(1, "unit.call", Some(HOUR));
    sleep(2 * HOUR).await;
    worker.dispatcher.idle().await;
    let sent = worker.io.sent.lock().unwrap();
    assert!(
        matches!(
            sent[..],
            [Outgoing::Settle {
                acknowledge: Some(_),
                ..
            }]
        ),
        "{sent:?}"
    );
}
