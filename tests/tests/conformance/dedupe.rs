//! Calls with an idempotency key.

use std::time::Duration;

use rpc_core::{CallError, ChannelSettings, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn calls_with_one_key_run_once_and_get_one_result<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("shared");
    let _workers = [
        backend.serve(server(&observed)).await,
        backend.serve(server(&observed)).await,
    ];
    let channel = backend.client().await;
    let payment = ProbeClient::new(&channel).with_idempotency_key("payment 7 {é}");
    // By two clients, while it runs and after it has returned.
    let other = ProbeClient::new(&backend.client().await).with_idempotency_key("payment 7 {é}");
    let calls: Vec<_> = (0..10)
        .map(|n| tokio::spawn(if n % 2 == 0 { payment.once() } else { other.once() }))
        .collect();
    eventually(SOON, "one runs", async || observed.running() == 1).await;
    observed.open_gate();
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(1));
    }
    assert_eq!(payment.once().await, Ok(1));
    assert_eq!(observed.runs(), 1);
    // Another method, or another key, is another call.
    assert_eq!(payment.once_if(0, 0).await, Ok(2));
    assert_eq!(payment.with_idempotency_key("payment 8").once().await, Ok(3));
}

pub(crate) async fn a_result_is_forgotten_after_its_window<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    observed.open_gate();
    let _server = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    assert_eq!(probe.once().await, Ok(1));
    eventually(SOON, "it is run again", async || probe.once().await == Ok(2)).await;
}

pub(crate) async fn the_methods_own_error_is_a_result_and_a_panic_is_none<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    let panicked = probe.once_if(1, 1).await;
    assert!(matches!(panicked, Err(CallError::Panicked { .. })), "{panicked:?}");
    for _ in 0..3 {
        assert_eq!(
            probe.once_if(1, 1).await,
            Err(CallError::Service("failure 2".to_owned()))
        );
    }
    assert_eq!(observed.runs(), 2);
    let stats = server_channel.stats();
    assert_eq!((stats.handled, stats.repeated), (2, 2));
}

pub(crate) async fn a_key_may_be_held_for_as_long_as_a_call_may_take<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    let for_ever = probe.with_timeout(Duration::from_millis(u64::MAX));
    assert_eq!(for_ever.once_if(0, 0).await, Ok(1));
    assert_eq!(probe.without_timeout().once_if(0, 0).await, Ok(1));
}

pub(crate) async fn a_subscriber_holds_no_more_repeats_than_its_queue<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let observed = Observed::new("one");
    let short = |settings: &mut ChannelSettings| settings.max_queue_size = 5;
    let serving = backend.serve_with(server(&observed), short).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    let first = tokio::spawn(probe.once());
    eventually(SOON, "the first runs", async || observed.running() == 1).await;
    let repeats: Vec<_> = (0..10).map(|_| tokio::spawn(probe.once())).collect();
    eventually(SOON, "half of them are dropped", async || serving.stats().dropped == 5).await;
    observed.open_gate();
    assert_eq!(first.await.unwrap(), Ok(1));
    let mut refused = 0;
    for repeat in repeats {
        match repeat.await.unwrap() {
            Ok(run) => assert_eq!(run, 1),
            Err(CallError::Overloaded { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 5);
}

pub(crate) async fn a_call_without_a_key_is_run<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await);
    assert_eq!(probe.once_if(0, 0).await, Ok(1));
    assert_eq!(probe.once_if(0, 0).await, Ok(2));
}

pub(crate) async fn a_dropped_call_gives_its_key_up<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    let dropped = tokio::spawn(probe.once());
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    let repeated = tokio::spawn(probe.once());
    dropped.abort();
    observed.open_gate();
    // Which of the two got the gate is chance, but the repeated one has an answer.
    let run = repeated.await.unwrap().unwrap();
    assert!(run == 1 || run == 2, "{run}");
}

pub(crate) async fn a_repeated_notification_is_not_run<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    for n in 0..5 {
        probe.note_once(n).await.unwrap();
    }
    eventually(SOON, "four are repeats", async || server_channel.stats().repeated == 4).await;
    assert_eq!(observed.notes.lock().unwrap().len(), 1);
}

pub(crate) async fn every_subscriber_and_every_group_runs_a_key_once<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let subscribers = ["one", "two"].map(Observed::new);
    let mut channels = Vec::new();
    for subscriber in &subscribers {
        channels.push(backend.serve(server(subscriber)).await);
    }
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    probe.note_once(1).await.unwrap();
    probe.note_once(2).await.unwrap();
    for (subscriber, channel) in subscribers.iter().zip(&channels) {
        eventually(SOON, "the second is a repeat", async || channel.stats().repeated == 1).await;
        assert_eq!(subscriber.notes.lock().unwrap().len(), 1);
    }

    let backend = B::start(Mode::Group).await;
    let groups = ["billing", "audit"].map(Observed::new);
    let mut channels = Vec::new();
    for group in &groups {
        let io = backend.connect_as(&group.name, ChannelSettings::default()).await;
        let builder = RpcChannel::builder(io).serve(server(group)).unwrap();
        channels.push(builder.start().await.unwrap());
    }
    let probe = ProbeClient::new(&backend.client().await).with_idempotency_key("k");
    probe.note_once(1).await.unwrap();
    probe.note_once(2).await.unwrap();
    for (group, channel) in groups.iter().zip(&channels) {
        eventually(SOON, "the second is a repeat", async || channel.stats().repeated == 1).await;
        assert_eq!(group.notes.lock().unwrap().len(), 1);
    }
}
