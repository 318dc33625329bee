//! How channels end, and what they refuse to begin.

use std::time::Duration;

use rpc_core::{CallError, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn closing_ends_waiting_calls<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    let calls: Vec<_> = (0..10).map(|n| tokio::spawn(probe.gated(n))).collect();
    eventually(SOON, "all calls run", async || observed.running() == 10).await;
    channel.close().await;
    for call in calls {
        assert_eq!(call.await.unwrap(), Err(CallError::Closed { method: "probe.gated" }));
    }
    assert_eq!(probe.who().await, Err(CallError::Closed { method: "probe.who" }));
    assert_eq!(channel.stats().in_flight, 0);
    // Again, and from a clone: it is closed already.
    channel.clone().close().await;
    channel.closed().await;
}

pub(crate) async fn closing_lets_handlers_finish<B: Backend>() {
    for mode in [Mode::Group, Mode::Broadcast] {
        let backend = B::start(mode).await;
        let observed = Observed::new("one");
        let server_channel = backend.serve(server(&observed)).await;
        let probe = ProbeClient::new(&backend.client().await);
        let call = tokio::spawn(probe.gated(1));
        eventually(SOON, "the handler runs", async || observed.running() == 1).await;
        let closing = tokio::spawn(async move { server_channel.close().await });
        observed.open_gate();
        assert_eq!(call.await.unwrap().unwrap(), 1);
        closing.await.unwrap();
    }
}

pub(crate) async fn handlers_that_outlast_the_grace_are_dropped<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend
        .serve_with(server(&observed), |settings| {
            settings.close_grace = Duration::from_millis(100)
        })
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let _call = tokio::spawn(probe.gated(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    server_channel.close().await;
    assert_eq!(observed.running(), 0);
}

pub(crate) async fn what_outlasts_the_grace_is_run_by_another_worker<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let (one, two) = (Observed::new("one"), Observed::new("two"));
    let first = backend
        .serve_with(server(&one), |settings| {
            settings.close_grace = Duration::from_millis(100)
        })
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let call = tokio::spawn(probe.gated(7));
    eventually(SOON, "the handler runs", async || one.running() == 1).await;
    let _second = backend.serve(server(&two)).await;
    two.open_gate();
    first.close().await;
    assert_eq!(call.await.unwrap().unwrap(), 7);
    assert_eq!(two.runs(), 1);
}

pub(crate) async fn dropping_the_last_handle_ends_the_channel<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    drop(channel);
    // The client holds its channel.
    assert_eq!(probe.who().await.unwrap(), "one");
    let _call = tokio::spawn(probe.gated(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    drop(server_channel);
    eventually(SOON, "the handler is dropped", async || observed.running() == 0).await;
    // Nothing of the server is left, not even what its handlers hold.
    eventually(SOON, "the service is dropped", async || {
        std::sync::Arc::strong_count(&observed) == 1
    })
    .await;
}

pub(crate) async fn a_signal_closes_those_who_obey<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let (one, two) = (Observed::new("obedient"), Observed::new("stubborn"));
    let obedient = backend
        .serve_with(server(&one), |settings| settings.obey_close_signal = true)
        .await;
    let stubborn = backend.serve(server(&two)).await;
    let client = backend.client().await;
    client.signal_close();
    obedient.closed().await;
    assert_eq!(ProbeClient::new(&client).who().await.unwrap(), "stubborn");
    stubborn.close().await;
}

pub(crate) async fn services_with_the_same_names_are_refused<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let builder = RpcChannel::builder(backend.connect_with(|_| {}).await);
    let builder = builder.serve(server(&Observed::new("one"))).unwrap();
    let conflict = builder.serve(server(&Observed::new("two"))).unwrap_err();
    assert!(conflict.to_string().contains("service `probe`"), "{conflict}");
}

pub(crate) async fn a_handler_that_blocks_its_thread_does_not_hold_up_closing<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend
        .serve_with(server(&observed), |settings| {
            settings.close_grace = Duration::from_millis(50)
        })
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let _call = tokio::spawn(probe.block());
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    tests::within(SOON, server_channel.close()).await;
    assert_eq!(observed.running(), 1);
    observed.open_gate();
}

pub(crate) async fn a_session_that_closes_takes_no_more_calls<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let client = backend.client().await;
    let probe = ProbeClient::new(client.session(server_channel.session_id()));
    let held = tokio::spawn(probe.gated(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    let closing = tokio::spawn(async move { server_channel.close().await });
    eventually(SOON, "calls are refused", async || match probe.who().await {
        Ok(_) => false,
        Err(CallError::Overloaded { reason, .. }) => reason == "the session is closing",
        Err(other) => panic!("{other:?}"),
    })
    .await;
    observed.open_gate();
    assert_eq!(held.await.unwrap().unwrap(), 1);
    closing.await.unwrap();
}
