//! Where the server is, who we are there, and what is never shown of it.

use redis::ConnectionAddr;

use super::*;

#[test]
fn urls_of_tcp() {
    let config = Config::from_url("redis://ann:s%2Fcret@example.com:7000/3?stream=calc").unwrap();
    let info = config.connection_info();
    assert_eq!(*info.addr(), ConnectionAddr::Tcp("example.com".into(), 7000));
    assert_eq!(info.redis_settings().username(), Some("ann"));
    assert_eq!(info.redis_settings().password(), Some("s/cret"));
    assert_eq!(info.redis_settings().db(), 3);
    assert!(info.tcp_settings().nodelay());
    assert_eq!(config.address(), "redis://example.com:7000/3");

    let config = Config::from_url("redis://:pw@[::1]/").unwrap();
    let info = config.connection_info();
    assert_eq!(*info.addr(), ConnectionAddr::Tcp("::1".into(), 6379));
    assert_eq!(
        (info.redis_settings().username(), info.redis_settings().password()),
        (None, Some("pw"))
    );
    assert_eq!(config.address(), "redis://[::1]:6379");
}

#[cfg(unix)]
#[test]
fn urls_of_unix_sockets() {
    let config = Config::from_url("unix:///run/my%20redis.sock?db=2&user=ann&pass=s%40cret&stream=calc").unwrap();
    let info = config.connection_info();
    assert_eq!(*info.addr(), ConnectionAddr::Unix("/run/my redis.sock".into()));
    assert_eq!(info.redis_settings().username(), Some("ann"));
    assert_eq!(info.redis_settings().password(), Some("s@cret"));
    assert_eq!(info.redis_settings().db(), 2);
    assert_eq!(config.stream(), "calc");
    assert_eq!(config.address(), "unix:///run/my redis.sock?db=2");
    for bad in ["unix://run/redis.sock", "unix://", "unix:///", "unix:///s?user=ann"] {
        assert!(
            url_refused(bad).contains("write unix:///path"),
            "{bad}: {}",
            url_refused(bad)
        );
    }
    assert!(url_refused("unix:///s?pass=a&pass=b").starts_with("pass is given twice"));
}

#[test]
fn malformed_urls_say_what_to_write() {
    for (url, part) in [
        ("", "no scheme; write redis://host:port"),
        ("localhost:6379", "no scheme; write redis://host:port"),
        ("redis://", "write redis://host:port"),
        ("redis:///1", "write redis://host:port"),
        ("redis://h:port", "invalid port number; write redis://host:port"),
        ("redis://0.0.0.0", "no host to connect to"),
        (
            "http://h",
            "unknown scheme \"http\"; write redis://, rediss:// or unix://",
        ),
        ("redis://h/one", "url is \"one\"; write the number of a database"),
        ("redis://h/1/2", "url is \"1/2\"; write the number of a database"),
        ("redis://h/-1", "write the number of a database"),
        ("redis://h#insecure", "a fragment (#) means nothing here"),
        (
            "redis://ann@h",
            "a user without a password; write redis://user:password@host:port, or redis://:password@host:port",
        ),
    ] {
        let message = url_refused(url);
        assert!(message.contains(part), "{url}: {message}");
    }
}

#[cfg(not(feature = "tls"))]
#[test]
fn tls_needs_its_feature() {
    assert_eq!(
        url_refused("rediss://h"),
        "url: rediss:// needs TLS; enable the feature `tls` of rpc-redis-streams, or write redis://"
    );
}

#[cfg(feature = "tls")]
#[test]
fn tls_is_on_with_its_feature() {
    let config = Config::from_url("rediss://h").unwrap();
    let info = config.connection_info();
    assert!(matches!(info.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
    assert_eq!(config.address(), "rediss://h:6379");
}

#[test]
fn passwords_are_never_shown() {
    let url = "redis://ursula:hunter2@h?stream=calc";
    let builder = Config::builder().url(url);
    assert!(!format!("{builder:?}").contains("hunter2"));
    let config = builder.build().unwrap();
    for shown in [format!("{config:?}"), format!("{config:#?}"), config.address()] {
        assert!(!shown.contains("hunter2") && !shown.contains("ursula"), "{shown}");
    }
    // Also when they are malformed, or where they don't belong.
    for bad in [
        "redis://ursula:hunter2@",
        "redis://ursula:hunter2@h:port",
        "redis://ursula:hunter2@h/x",
        "http://ursula:hunter2@h",
        "ursula:hunter2@h",
        "redis://ursula:x/hunter2@h",
        "redis://ursula:x?hunter2@h",
        "redis://ursula:x#hunter2@h",
        "redis://ursula:x?stream=hunter2@h",
        "redis://ursula:hunter2%ff@h",
        "redis://h?password=hunter2",
        "unix:///s?pass=hunter2&pass=hunter2",
        "rediss://ursula:hunter2@h#insecure",
    ] {
        let error = Config::from_url(bad).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        let table = serde_json::json!({ "url": bad }).to_string();
        assert!(!json(&table).unwrap_err().contains("hunter2"), "{bad}");
    }
}

#[test]
fn configs_differ_by_their_login() {
    let of = |url| Config::from_url(url).unwrap();
    assert_eq!(of("redis://:a@h"), of("redis://:a@h:6379/0"));
    for other in [
        "redis://:b@h",
        "redis://h",
        "redis://u:a@h",
        "redis://:a@h/1",
        "redis://:a@g",
    ] {
        assert_ne!(of("redis://:a@h"), of(other));
    }
}
