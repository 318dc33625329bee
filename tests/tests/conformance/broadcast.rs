//! Several subscribers, who all run every call.

use std::time::Duration;

use rpc_core::{CallError, Mode};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, older, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn every_subscriber_runs_a_call_and_the_first_answer_wins<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let subscribers = ["one", "two", "three"].map(Observed::new);
    let mut channels = Vec::new();
    for subscriber in &subscribers {
        channels.push(backend.serve(server(subscriber)).await);
    }
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    for _ in 0..100 {
        let first = probe.who().await.unwrap();
        assert!(["one", "two", "three"].contains(&first.as_str()));
    }
    for subscriber in &subscribers {
        eventually(SOON, "every subscriber runs all", async || subscriber.runs() == 100).await;
    }
    eventually(SOON, "later answers are ignored", async || {
        channel.stats().late_replies == 200
    })
    .await;
    assert_eq!(channel.stats().in_flight, 0);
}

pub(crate) async fn every_subscriber_runs_a_notification<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let subscribers = ["one", "two"].map(Observed::new);
    let mut channels = Vec::new();
    for subscriber in &subscribers {
        channels.push(backend.serve(server(subscriber)).await);
    }
    let channel = backend.client().await;
    ProbeClient::new(&channel).note(7).await.unwrap();
    for subscriber in &subscribers {
        eventually(SOON, "every subscriber has it", async || {
            *subscriber.notes.lock().unwrap() == [7]
        })
        .await;
    }
    assert_eq!(channel.stats().late_replies, 0);
}

pub(crate) async fn nobody_hears_oneself_unless_asked_for<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let (deaf, other, vain) = (Observed::new("deaf"), Observed::new("other"), Observed::new("vain"));
    let deaf_channel = backend.serve(server(&deaf)).await;
    let _other = backend.serve(server(&other)).await;
    assert_eq!(ProbeClient::new(&deaf_channel).who().await.unwrap(), "other");
    let vain_channel = backend
        .serve_with(server(&vain), |settings| settings.receive_own = true)
        .await;
    ProbeClient::new(&vain_channel).note(1).await.unwrap();
    eventually(SOON, "it hears itself", async || *vain.notes.lock().unwrap() == [1]).await;
    eventually(SOON, "all have read everything", async || {
        *deaf.notes.lock().unwrap() == [1]
    })
    .await;
    assert_eq!(deaf.runs(), 0);
}

pub(crate) async fn a_method_that_nobody_serves_is_met_with_silence<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let hasty = older::ProbeClient::new(&backend.client().await).with_timeout(Duration::from_millis(300));
    assert!(matches!(hasty.gone().await, Err(CallError::DeadlineExceeded { .. })));
}

pub(crate) async fn a_full_queue_drops_the_oldest_and_their_callers_are_told<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let observed = Observed::new("slow");
    let subscriber = backend
        .serve_with(server(&observed), |settings| {
            settings.max_queue_size = 5;
            settings.concurrency = 1;
        })
        .await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel).with_timeout(SOON);
    let busy = tokio::spawn(probe.gated(0));
    eventually(SOON, "the only handler is busy", async || observed.running() == 1).await;
    let mut calls = Vec::new();
    for n in 1..=10 {
        calls.push(tokio::spawn(probe.gated(n)));
        // One after the other, so that it is known which are the oldest.
        eventually(SOON, "the call has arrived", async || {
            let stats = subscriber.stats();
            stats.queue_length as u64 + stats.dropped == n
        })
        .await;
    }
    assert_eq!(subscriber.stats().dropped, 5);
    let kept = calls.split_off(5);
    // The only subscriber has declined: that is final, long before the deadline.
    for call in calls {
        let refused = call.await.unwrap();
        assert!(matches!(refused, Err(CallError::Overloaded { .. })), "{refused:?}");
    }
    observed.open_gate();
    busy.await.unwrap().unwrap();
    for (n, call) in (6..).zip(kept) {
        assert_eq!(call.await.unwrap().unwrap(), n);
    }
    assert_eq!(*observed.gated.lock().unwrap(), [0, 6, 7, 8, 9, 10]);
}

pub(crate) async fn a_refusal_does_not_beat_an_answer<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let (full, slow) = (Observed::new("full"), Observed::new("slow"));
    let full_channel = backend
        .serve_with(server(&full), |settings| {
            settings.max_queue_size = 1;
            settings.concurrency = 1;
        })
        .await;
    let _slow = backend.serve(server(&slow)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel).with_timeout(SOON);
    let calls: Vec<_> = (0..5).map(|n| tokio::spawn(probe.gated(n))).collect();
    eventually(SOON, "one subscriber has dropped some", async || {
        full_channel.stats().dropped == 3
    })
    .await;
    eventually(SOON, "the refusals have arrived", async || channel.stats().replies >= 3).await;
    eventually(SOON, "the other one runs them all", async || slow.running() == 5).await;
    assert!(calls.iter().all(|call| !call.is_finished()));
    slow.open_gate();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

pub(crate) async fn a_subscriber_that_closes_does_not_beat_an_answer<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let (leaving, staying) = (Observed::new("leaving"), Observed::new("staying"));
    let leaving_channel = backend
        .serve_with(server(&leaving), |settings| {
            settings.close_grace = Duration::from_millis(10)
        })
        .await;
    let _staying = backend.serve(server(&staying)).await;
    let channel = backend.client().await;
    let call = tokio::spawn(ProbeClient::new(&channel).gated(1));
    eventually(SOON, "both run it", async || {
        leaving.running() == 1 && staying.running() == 1
    })
    .await;
    leaving_channel.close().await;
    eventually(SOON, "the refusal has arrived", async || channel.stats().replies == 1).await;
    assert!(!call.is_finished());
    staying.open_gate();
    assert_eq!(call.await.unwrap().unwrap(), 1);
}

pub(crate) async fn a_subscriber_does_not_wait_for_its_own_answer<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let full = Observed::new("full");
    let full_channel = backend
        .serve_with(server(&full), |settings| {
            settings.max_queue_size = 1;
            settings.concurrency = 1;
        })
        .await;
    let caller = backend.serve(server(&Observed::new("caller"))).await;
    let probe = ProbeClient::new(&caller).with_timeout(Duration::from_secs(100));
    let calls: Vec<_> = (0..3).map(|n| tokio::spawn(probe.gated(n))).collect();
    eventually(SOON, "one was dropped", async || full_channel.stats().dropped == 1).await;
    // Long before the deadline: the only other subscriber has declined.
    eventually(SOON, "its caller is told", async || {
        calls.iter().any(|call| call.is_finished())
    })
    .await;
}
