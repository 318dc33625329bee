use proptest::prelude::*;

use super::*;

mod urls;

fn refused(builder: ConfigBuilder) -> String {
    builder.build().unwrap_err().to_string()
}

fn url_refused(url: &str) -> String {
    refused(Config::builder().url(url))
}

fn json(text: &str) -> Result<Config, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn defaults() {
    let config = Config::builder().build().unwrap();
    assert_eq!(config.address(), "redis://127.0.0.1:6379");
    assert_eq!(config.stream(), "rpc");
    assert_eq!(config.mode(), Mode::Broadcast);
    assert_eq!(config.group(), "rpc-workers");
    assert_eq!(config.consumer(), None);
    assert_eq!(config.session_id(), None);
    assert_eq!(config.start(), Start::Now);
    assert_eq!(config.max_len(), None);
    assert_eq!(config.block_timeout(), Duration::from_secs(2));
    assert_eq!(config.connect_timeout(), Duration::from_secs(5));
    assert_eq!(config.heartbeat_interval(), Duration::from_secs(1));
    assert_eq!(config.death_time(), Duration::from_secs(5));
    assert_eq!(config.max_pack(), 16);
    assert!(config.busy_poll());
    assert_eq!(config.max_queue_size(), 1000);
    assert_eq!(config.max_backlog(), 1_000_000);
    assert_eq!(config.max_payload_size(), 16 << 20);
    assert_eq!(config.concurrency(), 1024);
    assert_eq!(config.call_timeout(), Duration::from_secs(30));
    assert_eq!(config.codec(), Codec::Json);
    assert_eq!(config.close_grace(), Duration::from_secs(10));
    assert!(config.fail_fast());
    assert!(!config.receive_own());
    assert!(!config.obey_close_signal());
    assert_eq!(config.settings(), ChannelSettings::default());
    assert_eq!(json("{}").unwrap(), config);
    assert_eq!(Config::from_url("redis://127.0.0.1:6379").unwrap(), config);
}

#[test]
fn the_three_ways_agree_in_group_mode() {
    let session = SessionId::generate();
    let built = Config::builder()
        .url("redis://u:p@example.com:7000/3")
        .stream("{calc}")
        .group("work é")
        .group("workers")
        .consumer("me")
        .session_id(session)
        .max_len(5)
        .block_timeout(Duration::from_millis(250))
        .connect_timeout(Duration::from_secs(60))
        .heartbeat_interval(Duration::from_millis(200))
        .death_time(Duration::from_secs(2))
        .max_pack(4)
        .busy_poll(false)
        .max_queue_size(7)
        .concurrency(3)
        .call_timeout(Duration::from_secs(3600))
        .codec(Codec::Json)
        .close_grace(Duration::ZERO)
        .max_backlog(77)
        .max_payload_size(4096)
        .max_deliveries(9)
        .retry_backoff(Duration::from_millis(5))
        .fail_fast(false)
        .receive_own(true)
        .obey_close_signal(true)
        .build()
        .unwrap();
    assert_eq!(built.mode(), Mode::Group);

    let options = "stream=%7Bcalc%7D&group=workers&consumer=me&max_len=5&block_timeout=250ms&connect_timeout=1m\
                   &heartbeat_interval=200ms&death_time=2s&max_pack=4&busy_poll=false\
                   &max_queue_size=7&concurrency=3&call_timeout=1h&codec=json&close_grace=0s&max_backlog=77&max_payload_size=4096&max_deliveries=9&retry_backoff=5ms&fail_fast=false&receive_own=true\
                   &obey_close_signal=true";
    let url = format!("redis://u:p@example.com:7000/3?session_id={session}&{options}");
    assert_eq!(Config::from_url(url).unwrap(), built);

    let table = format!(
        r#"{{ "url": "redis://u:p@example.com:7000/3", "stream": "{{calc}}", "group": "workers", "consumer": "me",
             "session_id": "{session}", "max_len": 5, "block_timeout": "250ms", "connect_timeout": "60s",
             "heartbeat_interval": "200ms", "death_time": "2s", "max_pack": 4, "busy_poll": false,
             "max_queue_size": 7, "concurrency": "3", "call_timeout": "60m", "codec": "json", "close_grace": "0s", "max_backlog": 77, "max_payload_size": 4096, "max_deliveries": 9, "retry_backoff": "5ms", "fail_fast": false, "receive_own": true,
             "obey_close_signal": "true", "start": null }}"#
    );
    assert_eq!(json(&table).unwrap(), built);
}

#[test]
fn the_three_ways_agree_in_broadcast_mode() {
    for (start, text) in [
        (Start::Now, "now"),
        (Start::Beginning, "beginning"),
        (Start::After(EntryId { ms: 17, seq: 4 }), "17-4"),
    ] {
        let built = Config::builder().broadcast().start(start).build().unwrap();
        let url = format!("redis://127.0.0.1?mode=broadcast&start={text}");
        assert_eq!(Config::from_url(url).unwrap(), built);
        let table = format!(r#"{{ "mode": "broadcast", "start": "{text}" }}"#);
        assert_eq!(json(&table).unwrap(), built);
    }
}

#[cfg(feature = "messagepack")]
#[test]
fn the_three_ways_agree_on_messagepack() {
    let built = Config::builder().codec(Codec::MessagePack).build().unwrap();
    assert_eq!(built.settings().codec, Codec::MessagePack);
    assert_eq!(Config::from_url("redis://127.0.0.1?codec=msgpack").unwrap(), built);
    assert_eq!(json(r#"{ "codec": "msgpack" }"#).unwrap(), built);
}

#[cfg(not(feature = "messagepack"))]
#[test]
fn messagepack_needs_its_feature() {
    assert_eq!(
        url_refused("redis://h?codec=msgpack"),
        "codec is \"msgpack\"; write json, or msgpack with the feature `messagepack` of rpc-redis-streams"
    );
}

#[test]
fn a_group_implies_group_mode_and_needs_no_name() {
    assert_eq!(Config::builder().group("w").build().unwrap().mode(), Mode::Group);
    let unnamed = Config::builder().mode(Mode::Group).build().unwrap();
    assert_eq!((unnamed.mode(), unnamed.group()), (Mode::Group, "rpc-workers"));
    assert_eq!(json(r#"{ "mode": "group" }"#).unwrap(), unnamed);
}

#[test]
fn what_has_no_meaning_in_the_mode_is_refused() {
    assert_eq!(
        refused(Config::builder().group("w").broadcast()),
        "group is for group mode only, but mode is broadcast; leave out group, or ask for group mode"
    );
    assert_eq!(
        refused(Config::builder().consumer("me")),
        "consumer is for group mode only, but mode is broadcast; leave out consumer, or name a group"
    );
    assert_eq!(
        refused(Config::builder().group("w").start(Start::Beginning)),
        "start is for broadcast mode only, but mode is group; leave out start, or ask for broadcast mode, without a group"
    );
    assert!(url_refused("redis://h?mode=broadcast&group=w").starts_with("group is for group mode only"));
    let error = json(r#"{ "mode": "broadcast", "consumer": "me" }"#).unwrap_err();
    assert!(error.starts_with("consumer is for group mode only"), "{error}");
}

#[test]
fn numbers_and_times_have_bounds() {
    let new = Config::builder;
    let (zero, year) = (Duration::ZERO, Duration::from_secs(365 * 24 * 3600));
    for (builder, message) in [
        (
            new().max_queue_size(0),
            "max_queue_size is 0, but must be from 1 to 1000000",
        ),
        (new().concurrency(0), "concurrency is 0, but must be from 1 to 1000000"),
        (
            new().concurrency(usize::MAX),
            "concurrency is 18446744073709551615, but must be from 1 to 1000000",
        ),
        (
            new().max_payload_size(500_000_001),
            "max_payload_size is 500000001, but must be from 1 to 500000000",
        ),
        (
            new().max_backlog(0),
            "max_backlog is 0, but must be from 1 to 1000000000",
        ),
        (
            new().max_len(0),
            "max_len is 0, but must be from 1 to 18446744073709551615",
        ),
        (
            new().block_timeout(Duration::from_millis(9)),
            "block_timeout is 9ms, but must be from 10ms to 3600s",
        ),
        (
            new().block_timeout(Duration::from_secs(3601)),
            "block_timeout is 3601s, but must be from 10ms to 3600s",
        ),
        (
            new().call_timeout(zero),
            "call_timeout is 0ns, but must be from 1ms to 31536000s",
        ),
        (
            new().close_grace(year * 2),
            "close_grace is 63072000s, but must be from 0ns to 31536000s",
        ),
        (
            new().connect_timeout(zero),
            "connect_timeout is 0ns, but must be from 1ms to 3600s",
        ),
        (
            new().heartbeat_interval(Duration::from_millis(9)),
            "heartbeat_interval is 9ms, but must be from 10ms to 60s",
        ),
        (
            new().death_time(Duration::from_secs(601)),
            "death_time is 601s, but must be from 3s to 600s",
        ),
        (
            new().heartbeat_interval(Duration::from_secs(2)),
            "death_time is 5s, but must be at least three times heartbeat_interval, which is 2s; \
             set it to 6s or more, or beat more often",
        ),
    ] {
        assert_eq!(refused(builder), message);
    }
    for builder in [
        new().max_queue_size(1).concurrency(1).max_len(1).close_grace(zero),
        new().block_timeout(Duration::from_millis(10)).call_timeout(year),
        new()
            .block_timeout(Duration::from_secs(3600))
            .connect_timeout(Duration::from_millis(1)),
    ] {
        assert!(builder.build().is_ok());
    }
    assert!(
        json(r#"{ "concurrency": 0 }"#)
            .unwrap_err()
            .starts_with("concurrency is 0")
    );
    assert!(url_refused("redis://h?call_timeout=0s").starts_with("call_timeout is 0ns"));
}

#[test]
fn names_are_fit_for_keys() {
    let new = Config::builder;
    let (long, longest) = ("é".repeat(257), "é".repeat(256));
    for bad in ["", " ", "a b", "a\n", "\0", "a\u{2003}b", &long] {
        for (field, builder) in [
            ("stream", new().stream(bad)),
            ("group", new().group(bad)),
            ("consumer", new().group("w").consumer(bad)),
        ] {
            let message = refused(builder);
            assert!(message.starts_with(&format!("{field} is \"")), "{message}");
            assert!(
                message.ends_with("but a name has 1 to 512 bytes, without spaces and control characters"),
                "{message}"
            );
            assert!(message.len() < 300, "{message}");
        }
    }
    let config = new()
        .stream(&longest)
        .group("{w}:1")
        .consumer(&longest)
        .build()
        .unwrap();
    assert_eq!((config.group(), config.consumer()), ("{w}:1", Some(longest.as_str())));
    for bad in ["{}", "a{b}", "{a", "{{a}}", "a}"] {
        assert_eq!(
            refused(new().stream(bad)),
            format!("stream is {bad:?}, but braces may only stand around the whole name, as in {{calc}}")
        );
    }
    assert!(new().stream("{a}").build().is_ok());
}

#[test]
fn unreadable_values_say_what_to_write() {
    for (url, message) in [
        (
            "redis://h?concurrency=many",
            "concurrency is \"many\"; write a whole number",
        ),
        ("redis://h?max_len=-1", "max_len is \"-1\"; write a whole number"),
        ("redis://h?mode=queue", "mode is \"queue\"; write group or broadcast"),
        (
            "redis://h?receive_own=yes",
            "receive_own is \"yes\"; write true or false",
        ),
        ("redis://h?session_id=me", "session_id is \"me\"; write a UUID"),
        (
            "redis://h?start=later",
            "start is \"later\"; write now, beginning, or the id of an entry like 1700000000000-0",
        ),
        (
            "redis://h?call_timeout=1.5s",
            "call_timeout is \"1.5s\"; write a whole number and a unit, ms, s, m, h or d, like 500ms or 2s",
        ),
    ] {
        assert_eq!(url_refused(url), message);
    }
    for bad in [
        "",
        "s",
        // Of what?
        "5",
        "-1s",
        "1 s",
        "1S",
        "99999999999999999999",
        "9999999999999999999d",
    ] {
        let url = format!("redis://h?call_timeout={bad}");
        assert!(url_refused(&url).starts_with("call_timeout is"), "{bad}");
    }
    let error = json(r#"{ "call_timeout": -5 }"#).unwrap_err();
    assert!(error.starts_with("call_timeout is \"-5\"; write"), "{error}");
    let error = json(r#"{ "call_timeout": 1.5 }"#).unwrap_err();
    assert!(
        error.contains("expected a text, a whole number, true or false"),
        "{error}"
    );
}

#[test]
fn unknown_and_repeated_options_are_refused() {
    let known = "known are url, stream, mode, group, consumer, session_id, start, max_len, block_timeout, \
                 connect_timeout, heartbeat_interval, death_time, max_pack, busy_poll, max_queue_size, concurrency, call_timeout, codec, close_grace, max_backlog, max_payload_size, max_deliveries, retry_backoff, fail_fast, receive_own, \
                 obey_close_signal";
    let message = format!("unknown option \"timeout\"; {known}");
    assert_eq!(url_refused("redis://h?timeout=5s"), message);
    assert!(json(r#"{ "timeout": "5s" }"#).unwrap_err().starts_with(&message));

    let twice = "stream is given twice, in the url or beside it; write it once";
    assert_eq!(url_refused("redis://h?stream=a&stream=a"), twice);
    assert_eq!(refused(Config::builder().url("redis://h?stream=a").stream("a")), twice);
    assert!(
        json(r#"{ "url": "redis://h?stream=a", "stream": "a" }"#)
            .unwrap_err()
            .starts_with(twice)
    );
    assert!(
        json(r#"{ "stream": "a", "stream": "a" }"#)
            .unwrap_err()
            .starts_with(twice)
    );
    assert!(url_refused("redis://h?url=redis://g").starts_with("url is given twice"));
}

#[test]
fn identities_are_fresh_unless_they_are_set() {
    let config = Config::builder().group("w").build().unwrap();
    assert_ne!(config.session_or_fresh(), config.session_or_fresh());
    let (one, other) = (config.consumer_or_fresh(), config.clone().consumer_or_fresh());
    assert_ne!(one, other);
    let pid = std::process::id().to_string();
    assert!(one.split('-').any(|part| part == pid), "{one}");
    assert!(Config::builder().group("w").consumer(&one).build().is_ok(), "{one}");

    let session = SessionId::generate();
    let config = Config::builder()
        .group("w")
        .consumer("me")
        .session_id(session)
        .build()
        .unwrap();
    assert_eq!(
        (config.session_or_fresh(), config.consumer_or_fresh()),
        (session, "me".to_owned())
    );
}

proptest! {
    #[test]
    fn what_builds_also_reads_from_a_url_and_a_file(
        stream in "[a-z:&=?#%+é]{1,20}",
        group in "[a-z:&=?#%+é]{1,20}",
        block_ms in 10_u64..=3_600_000,
        call_ms in 1_u64..=1_000_000_000,
        queue in 1_usize..=1_000_000,
        max_len in proptest::option::of(1_u64..),
    ) {
        let mut builder = Config::builder()
            .stream(&stream)
            .group(&group)
            .block_timeout(Duration::from_millis(block_ms))
            .call_timeout(Duration::from_millis(call_ms))
            .max_queue_size(queue);
        let mut url = ::url::Url::parse("redis://127.0.0.1").unwrap();
        url.query_pairs_mut()
            .append_pair("stream", &stream)
            .append_pair("group", &group)
            .append_pair("block_timeout", &format!("{block_ms}ms"))
            .append_pair("call_timeout", &format!("{call_ms}ms"))
            .append_pair("max_queue_size", &queue.to_string());
        let mut table = serde_json::json!({
            "stream": stream, "group": group, "block_timeout": format!("{block_ms}ms"), "call_timeout": format!("{call_ms}ms"),
            "max_queue_size": queue,
        });
        if let Some(max_len) = max_len {
            builder = builder.max_len(max_len);
            url.query_pairs_mut().append_pair("max_len", &max_len.to_string());
            table["max_len"] = max_len.into();
        }
        let built = builder.build().unwrap();
        prop_assert_eq!(&Config::from_url(url).unwrap(), &built);
        prop_assert_eq!(&json(&table.to_string()).unwrap(), &built);
    }

    #[test]
    fn no_text_makes_the_reader_panic(url in ".{0,40}", rest in ".{0,40}", name in ".{0,10}") {
        let _ = Config::from_url(url);
        let _ = Config::from_url(format!("redis://{rest}"));
        let _ = Config::from_url(format!("unix://{rest}"));
        let _ = Config::builder().stream(name).build();
        let _ = Config::from_url(format!("redis://h?start={rest}&call_timeout={rest}"));
    }
}
