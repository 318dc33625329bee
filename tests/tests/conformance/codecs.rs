//! Payloads in other forms than JSON.

use std::sync::Arc;
use std::time::Duration;

use rpc_core::{CallError, Codec, Mode, RpcChannel};
use tests::eventually;

use crate::backend::Backend;
use crate::probe::{Observed, ProbeClient, ProbeError, older, server};

const SOON: Duration = Duration::from_secs(20);

/// A channel that calls in `codec`, and can be called back.
async fn client<B: Backend>(backend: &B, codec: Codec) -> RpcChannel {
    let io = backend.connect_with(|settings| settings.codec = codec).await;
    let builder = RpcChannel::builder(io).serve_callbacks(server(&Observed::new("client")));
    builder.unwrap().start().await.unwrap()
}

/// The server is configured for JSON: it answers, and calls back, as it was called.
pub(crate) async fn whatever_works_in_json_works_in_messagepack<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channel = client(&backend, Codec::MessagePack).await;
    let (probe, older) = (ProbeClient::new(&channel), older::ProbeClient::new(&channel));

    assert_eq!(probe.echo("süß\n\0".to_owned()).await.unwrap(), "süß\n\0");
    let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    assert_eq!(probe.bytes(bytes.clone()).await.unwrap(), bytes);
    assert_eq!(probe.seen().await.unwrap().session, channel.session_id().to_string());

    assert_eq!(probe.fail(7).await, Err(CallError::Service(ProbeError::Code(7))));
    let told = probe.fail(1).await;
    assert!(
        matches!(told, Err(CallError::Service(ProbeError::Told { .. }))),
        "{told:?}"
    );
    assert!(matches!(probe.panic().await, Err(CallError::Panicked { .. })));
    match older.echo(3).await {
        Err(CallError::BadArguments { reason, .. }) => assert!(reason.contains("argument `text`"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(older.sum(1).await.unwrap(), 101);
    assert_eq!(probe.sum(1, None).await.unwrap(), 101);

    assert_eq!(probe.ping_pong(4).await, Ok(4));
    probe.note(9).await.unwrap();
    eventually(SOON, "the notification is run", async || {
        *observed.notes.lock().unwrap() == [9]
    })
    .await;
}

pub(crate) async fn clients_of_different_codecs_share_a_worker<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    let channels = [
        client(&backend, Codec::Json).await,
        client(&backend, Codec::MessagePack).await,
    ];
    // Many at once, so that calls and replies share entries.
    let callers: Vec<_> = (0..40)
        .map(|n| {
            let probe = ProbeClient::new(&channels[n % 2]);
            tokio::spawn(async move {
                for m in 0..50 {
                    let text = format!("{n}:{m}\n");
                    assert_eq!(probe.echo(text.clone()).await.unwrap(), text);
                    assert_eq!(probe.sum(m, Some(1)).await.unwrap(), m + 1);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    // A session calls another one in its own codec.
    let there = ProbeClient::new(channels[1].session(channels[0].session_id()));
    assert_eq!(there.who().await.unwrap(), "client");
}

pub(crate) async fn a_result_is_kept_in_the_codec_of_the_call_that_ran<B: Backend>() {
    let backend = B::start(Mode::Group).await;
    let observed = Observed::new("one");
    let _server = backend.serve(server(&observed)).await;
    for (first, then) in [(Codec::Json, Codec::MessagePack), (Codec::MessagePack, Codec::Json)] {
        let (first, then) = (client(&backend, first).await, client(&backend, then).await);
        let key = first.session_id().to_string();
        let ran = ProbeClient::new(&first).with_idempotency_key(&key).once_if(0, 0).await;
        let repeated = ProbeClient::new(&then).with_idempotency_key(&key).once_if(0, 0).await;
        assert!(ran.is_ok(), "{ran:?}");
        assert_eq!(ran, repeated);
    }
    assert_eq!(observed.runs(), 2);
}

pub(crate) async fn broadcast_calls_may_be_in_messagepack<B: Backend>() {
    let backend = B::start(Mode::Broadcast).await;
    let observed = [Observed::new("one"), Observed::new("two")];
    let _servers = [
        backend.serve(server(&observed[0])).await,
        backend.serve(server(&observed[1])).await,
    ];
    let channel = client(&backend, Codec::MessagePack).await;
    let probe = ProbeClient::new(&channel);
    assert_eq!(probe.echo("all".to_owned()).await.unwrap(), "all");
    let all = |observed: &Arc<Observed>| observed.runs() == 1;
    eventually(SOON, "both have run it", async || observed.iter().all(all)).await;
}
