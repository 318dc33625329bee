//! Several workers, of which one runs each call; and calls to one session.

use std::time::Duration;

use rpc_core::{CallError, ChannelSettings, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, older, other, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn each_call_is_run_by_one_worker_and_all_get_a_share<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let workers = ["one", "two", "three"].map(Observed::new);
    let mut channels = Vec::new();
    for worker in &workers {
        let one_at_a_time = |settings: &mut ChannelSettings| settings.concurrency = 1;
        channels.push(backend.serve_with(server(worker), one_at_a_time).await);
    }
    let probe = ProbeClient::new(&backend.client().await);
    // Each worker holds one call and can take no other.
    let held: Vec<_> = (0..3).map(|n| tokio::spawn(probe.gated(n))).collect();
    for worker in &workers {
        eventually(SOON, "every worker has one", async || worker.running() == 1).await;
    }
    workers.iter().for_each(|worker| worker.open_gate());
    for call in held {
        call.await.unwrap().unwrap();
    }
    let calls: Vec<_> = (0..600).map(|_| tokio::spawn(probe.who())).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(workers.iter().map(|worker| worker.runs()).sum::<u64>(), 603);
}

pub(crate) async fn calls_made_before_the_first_worker_are_run<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let channel = backend.client().await;
    let early = tokio::spawn(ProbeClient::new(&channel).echo("early".to_owned()));
    eventually(SOON, "the call is made", async || channel.stats().calls == 1).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    assert_eq!(early.await.unwrap().unwrap(), "early");
}

pub(crate) async fn a_worker_takes_no_more_than_it_has_room_for<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let (busy, free) = (Observed::new("busy"), Observed::new("free"));
    let busy_channel = backend
        .serve_with(server(&busy), |settings| settings.concurrency = 1)
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let held = tokio::spawn(probe.gated(1));
    eventually(SOON, "the worker is busy", async || busy.running() == 1).await;
    let others: Vec<_> = (0..50).map(|_| tokio::spawn(probe.who())).collect();
    // What the busy one left in the stream is there for another.
    let _free = backend.serve(server(&free)).await;
    for other in others {
        assert_eq!(other.await.unwrap().unwrap(), "free");
    }
    assert_eq!(busy_channel.stats().queue_length, 0);
    busy.open_gate();
    held.await.unwrap().unwrap();
}

pub(crate) async fn nested_calls_get_through_at_concurrency_one<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend
        .serve_with(server(&Observed::new("server")), |settings| settings.concurrency = 1)
        .await;
    let io = backend.connect_with(|settings| settings.concurrency = 1).await;
    let client = RpcChannel::builder(io)
        .serve_callbacks(server(&Observed::new("client")))
        .unwrap()
        .start()
        .await
        .unwrap();
    // The server holds its only slot while it calls the client back, whose handler holds its only slot.
    assert_eq!(ProbeClient::new(&client).ping_pong(1).await, Ok(1));
    // Deeper, both slots are taken by the very calls that wait for them: that ends by the deadline, which all of them
    // share. Whether this call's or a nested one's is noticed first does not matter.
    let hasty = ProbeClient::new(&client).with_timeout(Duration::from_millis(500));
    let ended = hasty.ping_pong(3).await.unwrap_err();
    assert!(ended.to_string().contains("no reply within"), "{ended}");
    eventually(SOON, "the slots are free again", async || {
        ProbeClient::new(&client)
            .with_timeout(Duration::from_secs(1))
            .ping_pong(1)
            .await
            == Ok(1)
    })
    .await;
}

pub(crate) async fn one_worker_of_each_group_runs_a_call<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let (one, two) = (Observed::new("one"), Observed::new("two"));
    let mut channels = Vec::new();
    for (observed, group) in [(&one, "first"), (&two, "second")] {
        let io = backend.connect_as(group, ChannelSettings::default()).await;
        let builder = RpcChannel::builder(io).serve(server(observed)).unwrap();
        channels.push(builder.start().await.unwrap());
    }
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    for _ in 0..10 {
        probe.who().await.unwrap();
    }
    eventually(SOON, "both groups run all", async || {
        one.runs() == 10 && two.runs() == 10
    })
    .await;
    eventually(SOON, "second answers are ignored", async || {
        channel.stats().late_replies == 10
    })
    .await;
}

pub(crate) async fn a_worker_runs_its_own_calls<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let channel = backend.serve(server(&Observed::new("self"))).await;
    assert_eq!(ProbeClient::new(&channel).who().await.unwrap(), "self");
}

pub(crate) async fn calls_to_a_session_reach_that_session_alone<B: Backend>() {
    for mode in [Mode::Group, Mode::Broadcast] {
        let backend = B::start(mode).await;
        let (one, two) = (Observed::new("one"), Observed::new("two"));
        let (first, second) = (backend.serve(server(&one)).await, backend.serve(server(&two)).await);
        let client = backend.client().await;
        for (channel, name) in [(&first, "one"), (&second, "two")] {
            let probe = ProbeClient::new(client.session(channel.session_id()));
            assert_eq!(probe.who().await.unwrap(), name);
        }
        assert_eq!((one.runs(), two.runs()), (1, 1));
        // Nothing is served by the client.
        let nothing = ProbeClient::new(first.session(client.session_id()));
        assert!(matches!(nothing.who().await, Err(CallError::MethodNotFound { .. })));
    }
}

pub(crate) async fn a_session_that_is_gone_is_reported<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let gone = backend.serve(server(&Observed::new("gone"))).await;
    let client = backend.client().await;
    let probe = ProbeClient::new(client.session(gone.session_id()));
    assert_eq!(probe.who().await.unwrap(), "gone");
    gone.close().await;
    match probe.who().await {
        Err(CallError::SessionGone { session, .. }) => assert_eq!(session, gone.session_id()),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_group_that_lacks_a_method_does_not_speak_for_one_that_has_it<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("has it");
    let mut channels = Vec::new();
    let io = backend.connect_as("first", ChannelSettings::default()).await;
    let builder = RpcChannel::builder(io).serve(other::OtherServer::new(7)).unwrap();
    channels.push(builder.start().await.unwrap());
    let io = backend.connect_as("second", ChannelSettings::default()).await;
    let builder = RpcChannel::builder(io).serve(server(&observed)).unwrap();
    channels.push(builder.start().await.unwrap());
    let channel = backend.client().await;
    let call = tokio::spawn(ProbeClient::new(&channel).gated(1));
    eventually(SOON, "the one that has it runs it", async || observed.running() == 1).await;
    eventually(SOON, "the other one has declined", async || {
        channel.stats().replies == 1
    })
    .await;
    assert!(!call.is_finished());
    observed.open_gate();
    assert_eq!(call.await.unwrap().unwrap(), 1);
    assert_eq!(other::OtherClient::new(&channel).thing().await.unwrap(), 7);
    // What nobody has is still told at once.
    let nothing = older::ProbeClient::new(&channel)
        .with_timeout(Duration::from_secs(100))
        .gone();
    assert!(matches!(
        tests::within(SOON, nothing).await,
        Err(CallError::MethodNotFound { .. })
    ));
}

pub(crate) async fn a_queue_that_is_too_long_refuses_more_until_it_is_shorter<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _worker = backend
        .serve_with(server(&observed), |settings| settings.concurrency = 1)
        .await;
    let io = backend.connect_with(|settings| settings.max_backlog = 10).await;
    let probe = ProbeClient::new(&RpcChannel::open(io).await.unwrap());
    let held = tokio::spawn(probe.gated(0));
    eventually(SOON, "the worker is busy", async || observed.running() == 1).await;
    let mut accepted = 0;
    let refused = loop {
        match probe.note(accepted).await {
            Ok(()) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < 10_000, "nothing is refused");
    };
    match &refused {
        CallError::Overloaded { reason, .. } => assert!(
            reason.ends_with("requests wait for the group `workers`, and `max_backlog` is 10"),
            "{reason}"
        ),
        other => panic!("{other:?}"),
    }
    assert!(accepted >= 10, "{accepted}");
    let call = probe.who().await;
    assert!(matches!(call, Err(CallError::Overloaded { .. })), "{call:?}");
    observed.open_gate();
    held.await.unwrap().unwrap();
    eventually(SOON, "there is room again", async || probe.who().await.is_ok()).await;
    let notes = observed.notes.lock().unwrap().clone();
    assert_eq!(notes, (0..accepted).collect::<Vec<_>>(), "what was accepted has run");
}
