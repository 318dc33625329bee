//! One caller, one server.

use std::time::Duration;

use rpc_core::{CallError, ChannelSettings, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, ProbeError, Seen, older, server};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn a_call_returns_what_the_method_returned<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    assert_eq!(probe.echo("hello".to_owned()).await.unwrap(), "hello");
    assert_eq!(probe.who().await.unwrap(), "one");
    let stats = channel.stats();
    assert_eq!(
        (stats.calls, stats.replies, stats.late_replies, stats.in_flight),
        (2, 2, 0, 0)
    );
}

pub(crate) async fn a_services_own_error_arrives_typed<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let probe = ProbeClient::new(&backend.client().await);
    assert_eq!(probe.fail(0).await, Ok(0));
    assert_eq!(probe.fail(7).await, Err(CallError::Service(ProbeError::Code(7))));
    let told = ProbeError::Told {
        reason: "süß & \"quoted\"".to_owned(),
    };
    assert_eq!(probe.fail(1).await, Err(CallError::Service(told)));
}

pub(crate) async fn faults_are_typed_and_the_server_carries_on<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let server_channel = backend.serve(server(&Observed::new("one"))).await;
    let channel = backend.client().await;
    let (probe, older) = (ProbeClient::new(&channel), older::ProbeClient::new(&channel));
    match older.gone().await {
        Err(CallError::MethodNotFound { method, reason }) => {
            assert_eq!(method, "probe.gone");
            assert!(reason.contains("probe.echo"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    match older.echo(3).await {
        Err(CallError::BadArguments { reason, .. }) => assert!(reason.contains("argument `text`"), "{reason}"),
        other => panic!("{other:?}"),
    }
    match probe.panic().await {
        Err(CallError::Panicked { reason, .. }) => assert_eq!(reason, "on purpose, in a test"),
        other => panic!("{other:?}"),
    }
    assert_eq!(probe.echo("still here".to_owned()).await.unwrap(), "still here");
    assert_eq!(server_channel.stats().refused, 1);
}

/// Sizes from nothing to 1 MiB, mostly small, in an order that no one can guess and every run repeats.
fn payload(n: u64) -> String {
    let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17);
    let size = match random % 1000 {
        0 => 1 << 20,
        1..=20 => 64 << 10,
        21..=200 => 4 << 10,
        201..=250 => 0,
        _ => (random % 100) as usize,
    };
    let mut text = format!("{n}:");
    text.extend(std::iter::repeat_n('x', size));
    if size == 0 { String::new() } else { text }
}

pub(crate) async fn ten_thousand_interleaved_calls_get_their_own_answers<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel).with_timeout(Duration::from_secs(100));
    let callers: Vec<_> = (0..100_u64)
        .map(|caller| {
            let probe = probe.clone();
            tokio::spawn(async move {
                for n in 0..100 {
                    let text = payload(caller * 100 + n);
                    assert_eq!(probe.echo(text.clone()).await.unwrap(), text);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(observed.runs(), 10_000);
    assert_eq!(channel.stats().in_flight, 0);
}

pub(crate) async fn text_and_bytes_arrive_unchanged<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let probe = ProbeClient::new(&backend.client().await);
    for text in [
        "",
        "\0",
        "line\nbreak\r\n",
        "日本語 🦀 \u{202e}",
        "call x json\n1 2 3 4\n",
    ] {
        assert_eq!(probe.echo(text.to_owned()).await.unwrap(), text);
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    assert_eq!(probe.bytes(bytes.clone()).await.unwrap(), bytes);
}

pub(crate) async fn the_context_tells_who_calls_and_what_is_left<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel)
        .with_timeout(SOON)
        .with_header("token", "secret");
    let Seen {
        session,
        method,
        token,
        attempt,
        left,
    } = probe.seen().await.unwrap();
    assert_eq!(session, channel.session_id().to_string());
    assert_eq!(method, "probe.seen");
    assert_eq!(token.as_deref(), Some("secret"));
    assert_eq!(attempt, 1);
    assert!(left.is_some_and(|left| left <= SOON && left > SOON / 2), "{left:?}");
    assert_eq!(probe.without_timeout().seen().await.unwrap().left, None);
}

pub(crate) async fn optional_arguments_may_be_left_out<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let _server = backend.serve(server(&Observed::new("one"))).await;
    let channel = backend.client().await;
    assert_eq!(older::ProbeClient::new(&channel).sum(1).await.unwrap(), 101);
    assert_eq!(ProbeClient::new(&channel).sum(1, Some(2)).await.unwrap(), 3);
}

pub(crate) async fn a_call_without_a_reply_ends_at_its_deadline<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let hasty = ProbeClient::new(&channel).with_timeout(Duration::from_millis(300));
    match hasty.gated(1).await {
        Err(CallError::DeadlineExceeded {
            method,
            timeout,
            standing,
        }) => {
            assert!(standing.starts_with("1 live server serves it"), "{standing}");
            assert_eq!(method, "probe.gated");
            assert!(timeout >= Duration::from_millis(299), "{timeout:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(channel.stats().in_flight, 0);
    // The handler is dropped at the deadline, too.
    eventually(SOON, "the handler is dropped", async || observed.running() == 0).await;
    eventually(SOON, "it counts as expired", async || {
        server_channel.stats().expired == 1
    })
    .await;
}

pub(crate) async fn an_expired_call_is_not_run<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let patient = backend.connect_with(|settings| settings.fail_fast = false).await;
    let channel = RpcChannel::open(patient).await.unwrap();
    let hasty = ProbeClient::new(&channel).with_timeout(Duration::from_millis(100));
    // Nobody serves it in time: it waits in the stream.
    assert!(matches!(
        hasty.echo("too late".to_owned()).await,
        Err(CallError::DeadlineExceeded { .. })
    ));
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    assert_eq!(
        ProbeClient::new(&channel).echo("in time".to_owned()).await.unwrap(),
        "in time"
    );
    assert_eq!(observed.runs(), 1);
    assert_eq!(server_channel.stats().expired, 1);
}

pub(crate) async fn a_late_reply_is_ignored<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    // It goes on until its reply comes, although the client has given it up.
    let call = tokio::spawn(probe.stubborn(1));
    eventually(SOON, "the handler runs", async || observed.running() == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(channel.stats().in_flight, 0);
    observed.open_gate();
    eventually(SOON, "the late reply is counted", async || {
        channel.stats().late_replies == 1
    })
    .await;
    assert_eq!(probe.echo("next".to_owned()).await.unwrap(), "next");
}

pub(crate) async fn a_notification_is_run_and_not_answered<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    for n in 0..10 {
        probe.note(n).await.unwrap();
    }
    eventually(SOON, "all notes are taken", async || {
        observed.notes.lock().unwrap().len() == 10
    })
    .await;
    let stats = channel.stats();
    assert_eq!((stats.replies, stats.late_replies, stats.in_flight), (0, 0, 0));
}

pub(crate) async fn no_more_handlers_run_at_once_than_allowed<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend
        .serve_with(server(&observed), |settings| settings.concurrency = 3)
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let calls: Vec<_> = (0..20).map(|n| tokio::spawn(probe.gated(n))).collect();
    eventually(SOON, "as many as allowed run", async || observed.running() == 3).await;
    observed.open_gate();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap(), n as u64);
    }
    assert_eq!(observed.most_running.load(std::sync::atomic::Ordering::SeqCst), 3);
}

pub(crate) async fn a_handler_that_panics_when_it_is_dropped_gives_its_slot_back<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend
        .serve_with(server(&observed), |settings| settings.concurrency = 1)
        .await;
    let probe = ProbeClient::new(&backend.client().await);
    let hasty = probe.with_timeout(Duration::from_millis(100));
    assert!(hasty.bomb().await.is_err());
    assert_eq!(probe.who().await.unwrap(), "one");
    server_channel.close().await;
}

pub(crate) async fn a_failed_notification_is_tried_again<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend
        .serve_with(server(&observed), |settings| {
            settings.retry_backoff = Duration::from_millis(10)
        })
        .await;
    let channel = backend.client().await;
    let probe = ProbeClient::new(&channel);
    probe.flaky(2).await.unwrap();
    eventually(SOON, "the third attempt succeeds", async || observed.runs() == 3).await;
    assert_eq!(server_channel.stats().failed_notifications, 2);
    // One that never succeeds is given up after as many attempts as are allowed, and the worker carries on.
    probe.flaky(u64::MAX).await.unwrap();
    eventually(SOON, "it has been tried three times", async || observed.runs() == 6).await;
    assert_eq!(probe.who().await.unwrap(), "one");
    assert_eq!(observed.runs(), 7);
}

pub(crate) async fn arguments_that_are_too_large_are_not_sent<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let server_channel = backend.serve(server(&observed)).await;
    let io = backend.connect_with(|settings| settings.max_payload_size = 1000).await;
    let channel = RpcChannel::open(io).await.unwrap();
    let probe = ProbeClient::new(&channel);
    // Encoded, the text has four bytes more: `["…"]`.
    assert_eq!(probe.echo("x".repeat(996)).await.unwrap().len(), 996);
    let error = probe.echo("x".repeat(997)).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "probe.echo: too large: its arguments have 1001 bytes, and this channel's `max_payload_size` is 1000; \
         send less, or raise that at both ends"
    );
    let after = probe.echo("after".to_owned()).await;
    assert_eq!((after.unwrap().as_str(), observed.runs()), ("after", 2));
    assert_eq!((channel.stats().calls, server_channel.stats().refused), (2, 0));
}

pub(crate) async fn a_server_refuses_arguments_that_are_too_large_for_it<B: Backend>() {
    for mode in [Mode::Group, Mode::Broadcast] {
        let backend = B::start(mode).await;
        let observed = Observed::new("one");
        let small = |settings: &mut ChannelSettings| settings.max_payload_size = 1000;
        let server_channel = backend.serve_with(server(&observed), small).await;
        let client = backend.client().await;
        let error = ProbeClient::new(&client).echo("x".repeat(997)).await.unwrap_err();
        assert!(
            matches!(&error, CallError::TooLarge { reason, .. }
                if reason == "its arguments have 1001 bytes, and the server's `max_payload_size` is 1000"),
            "{error:?}"
        );
        // By way of its session, too.
        let direct = ProbeClient::new(client.session(server_channel.session_id()));
        let error = direct.echo("x".repeat(997)).await.unwrap_err();
        assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
        assert_eq!((observed.runs(), server_channel.stats().refused), (0, 2));
        assert_eq!(ProbeClient::new(&client).who().await.unwrap(), "one");
    }
}

pub(crate) async fn a_result_that_is_too_large_ends_its_call<B: Backend>() {
    let small = |settings: &mut ChannelSettings| settings.max_payload_size = 1000;
    for (client_is_small, whose) in [(true, "this channel's"), (false, "the server's")] {
        let backend = B::start(Mode::Group).await;
        let observed = Observed::new("one");
        let (_server, io) = if client_is_small {
            (
                backend.serve(server(&observed)).await,
                backend.connect_with(small).await,
            )
        } else {
            (
                backend.serve_with(server(&observed), small).await,
                backend.connect_with(|_| {}).await,
            )
        };
        let probe = ProbeClient::new(&RpcChannel::open(io).await.unwrap());
        assert_eq!(probe.repeat("x".to_owned(), 998).await.unwrap().len(), 998);
        let error = probe.repeat("x".to_owned(), 999).await.unwrap_err();
        assert!(matches!(error, CallError::BadResult { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "probe.repeat: unusable result: it has 1001 bytes, and {whose} `max_payload_size` is 1000; \
                 return less, or raise that at both ends"
            )
        );
        assert_eq!(probe.who().await.unwrap(), "one");
    }
}
