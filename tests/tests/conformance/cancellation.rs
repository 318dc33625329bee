//! Calls that their callers give up.

use std::time::Duration;

use rpc_core::{ChannelSettings, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn a_dropped_call_ends_its_handler<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let serving = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    let call = tokio::spawn(probe.until_cancelled());
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    call.abort();
    eventually(SOON, "the handler is dropped", async || observed.running() == 0).await;
    eventually(SOON, "its token has fired", async || {
        observed.notes.lock().unwrap().len() == 1
    })
    .await;
    assert_eq!(channel.stats().in_flight, 0);
    assert_eq!(serving.stats().cancelled, 1);
    assert_eq!(probe.echo("next".to_owned()).await.unwrap(), "next");
    assert_eq!(channel.stats().late_replies, 0);
}

pub(crate) async fn a_dropped_call_that_has_not_started_never_runs<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let one_at_a_time = |settings: &mut ChannelSettings| settings.concurrency = 1;
    let _server = backend.serve_with(server(&observed), one_at_a_time).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    let first = tokio::spawn(probe.gated(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    let dropped = tokio::spawn(probe.gated(2));
    eventually(SOON, "the second is made", async || channel.stats().calls == 2).await;
    let last = tokio::spawn(probe.gated(3));
    eventually(SOON, "the third is made", async || channel.stats().calls == 3).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    // A worker that comes now has to learn of it, too.
    let late = Observed::new("late");
    let _late = backend.serve_with(server(&late), one_at_a_time).await;
    observed.open_gate();
    late.open_gate();
    assert_eq!(first.await.unwrap(), Ok(1));
    assert_eq!(last.await.unwrap(), Ok(3));
    let ran = [
        observed.gated.lock().unwrap().clone(),
        late.gated.lock().unwrap().clone(),
    ]
    .concat();
    assert!(!ran.contains(&2), "{ran:?}");
}

pub(crate) async fn every_subscriber_drops_a_dropped_call<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let subscribers = ["one", "two"].map(Observed::new);
    let mut channels = Vec::new();
    for subscriber in &subscribers {
        channels.push(backend.serve(server(subscriber)).await);
    }
    let probe = ProbeClient::new(&backend.client().await);
    let call = tokio::spawn(probe.gated(1));
    for subscriber in &subscribers {
        eventually(SOON, "the handler runs", async || subscriber.running() == 1).await;
    }
    call.abort();
    for subscriber in &subscribers {
        eventually(SOON, "the handler is dropped", async || subscriber.running() == 0).await;
    }
}

pub(crate) async fn a_handler_that_panics_when_its_call_is_dropped_is_settled<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let serving = backend.serve(server(&observed)).await;
    let probe = ProbeClient::new(&backend.client().await);
    let call = tokio::spawn(probe.bomb());
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    call.abort();
    eventually(SOON, "it is settled as cancelled", async || {
        serving.stats().cancelled == 1
    })
    .await;
    assert_eq!(probe.echo("next".to_owned()).await.unwrap(), "next");
}

pub(crate) async fn a_method_marked_no_cancel_runs_to_its_end<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let serving = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    let stubborn = tokio::spawn(probe.stubborn(1));
    let other = tokio::spawn(probe.gated(2));
    eventually(SOON, "both run", async || observed.running() == 2).await;
    stubborn.abort();
    assert!(stubborn.await.unwrap_err().is_cancelled());
    // Cancelled later, so when it is dropped, the first has heard of its own cancellation.
    other.abort();
    eventually(SOON, "the other is dropped", async || observed.running() == 1).await;
    observed.open_gate();
    eventually(SOON, "it has run to its end", async || {
        channel.stats().late_replies == 1
    })
    .await;
    assert_eq!(serving.stats().cancelled, 1);
}

pub(crate) async fn a_call_that_is_not_aborted_goes_on<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let call = tokio::spawn(ProbeClient::new(&channel).gated(1).abort_on_drop(false));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(channel.stats().in_flight, 1);
    observed.open_gate();
    eventually(SOON, "it ends", async || channel.stats().in_flight == 0).await;
    assert_eq!(channel.stats().replies, 1);
}

pub(crate) async fn a_dropped_call_to_a_session_ends_its_handler<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let serving = RpcChannel::builder(backend.connect_with(|_| {}).await)
        .serve_callbacks(server(&observed))
        .unwrap()
        .start()
        .await
        .unwrap();
    let client = backend.client().await;
    let call = tokio::spawn(ProbeClient::new(client.session(serving.session_id())).gated(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    call.abort();
    eventually(SOON, "the handler is dropped", async || observed.running() == 0).await;
    assert_eq!(serving.stats().cancelled, 1);
}
