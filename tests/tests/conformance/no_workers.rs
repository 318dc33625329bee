//! Calls that no live server serves.

use std::time::Duration;

use rpc_core::{CallError, ChannelSettings, Mode, RpcChannel};
use tests::eventually;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, other, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn a_call_that_nobody_serves_is_refused<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let channel = backend.client().await;
    let begun = Instant::now();
    let refused = ProbeClient::new(&channel).echo("hello".to_owned()).await;
    match refused {
        Err(CallError::NoWorkers { method, stream, served }) => {
            assert_eq!((method, stream.is_empty(), served.len()), ("probe.echo", false, 0));
        }
        other => panic!("{other:?}"),
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "servers may be starting");
    assert_eq!(channel.stats().in_flight, 0);

    // Of what a worker of another service runs, the error says what it is.
    let io = backend.connect_as("others", ChannelSettings::default()).await;
    let builder = RpcChannel::builder(io).serve(other::OtherServer::new(3)).unwrap();
    let _other = builder.start().await.unwrap();
    assert_eq!(other::OtherClient::new(&channel).thing().await, Ok(3));
    let refused = ProbeClient::new(&channel).echo("hello".to_owned()).await.unwrap_err();
    assert!(
        refused.to_string().contains("its live servers serve other"),
        "{refused}"
    );

    // Nothing was written for a server to come.
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let echoed = ProbeClient::new(&channel).echo("at last".to_owned()).await;
    assert_eq!(echoed.as_deref(), Ok("at last"));
    assert_eq!(observed.runs(), 1);
}

pub(crate) async fn a_broadcast_call_that_nobody_serves_is_refused<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let alone = backend.serve(server(&Observed::new("alone"))).await;
    // It does not hear itself.
    let refused = ProbeClient::new(&alone).who().await;
    assert!(matches!(refused, Err(CallError::NoWorkers { .. })), "{refused:?}");
    let _other = backend.serve(server(&Observed::new("other"))).await;
    assert_eq!(ProbeClient::new(&alone).who().await.as_deref(), Ok("other"));
}

pub(crate) async fn a_restart_of_the_only_worker_fails_no_call<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    let first = backend.serve(server(&Observed::new("first"))).await;
    // Past the time in which nobody is said to be missing anyway.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(3500) {
        assert_eq!(probe.who().await.as_deref(), Ok("first"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.close().await;
    let meanwhile = tokio::spawn(probe.who());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let _second = backend.serve(server(&Observed::new("second"))).await;
    assert_eq!(meanwhile.await.unwrap().as_deref(), Ok("second"));
}

pub(crate) async fn without_fail_fast_calls_wait_for_servers<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let patient = backend.connect_with(|settings| settings.fail_fast = false).await;
    let channel = RpcChannel::open(patient).await.unwrap();
    let begun = Instant::now();
    let probe = ProbeClient::new(&channel).with_timeout(Duration::from_secs(4));
    let error = probe.echo("nobody".to_owned()).await.unwrap_err();
    assert!(begun.elapsed() >= Duration::from_millis(3900));
    let text = error.to_string();
    assert!(text.contains("no live server serves it"), "{text}");
}

pub(crate) async fn a_notification_waits_for_servers<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let channel = backend.client().await;
    assert_eq!(ProbeClient::new(&channel).note(1).await, Ok(()));
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    eventually(SOON, "it is run", async || *observed.notes.lock().unwrap() == [1]).await;
}
