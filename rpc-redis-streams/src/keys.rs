//! The Redis keys of a stream: a contract, described in `docs/wire.md`.
//!
//! All keys of a stream live in one cluster slot, so that one transaction may touch them all. Redis hashes a key that
//! has `{tag}` in it by the tag alone, so `calc` and `{calc}:meta` meet. A stream that is named `{calc}` hashes like
//! `calc` too; its other keys get one more prefix, `{calc}:tag:meta`, so that the two streams share a slot and no key.

use rpc_core::SessionId;
use uuid::Uuid;

/// The names of all keys of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Stream: the requests, under the very name the user gave, where foreign readers find it.
    pub(crate) requests: String,
    /// Hash: what all who use the stream must agree on.
    pub(crate) meta: String,
    /// Stream: what every server of the stream must hear.
    pub(crate) control: String,
    /// Stream: the dead letters.
    pub(crate) dead: String,
    /// Sorted set: session of a broadcast subscriber -> time of its last beat.
    pub(crate) subscribers: String,
    /// Hash: consumer or session -> JSON description of the server.
    pub(crate) servers: String,
    prefix: String,
}

impl Keys {
    /// Whether the braces of `stream`, if it has any, are those of one tag around the whole name.
    ///
    /// Other braces would move the stream out of the slot of its other keys (`a{b}c` hashes as `b`), or make two
    /// streams share keys.
    pub(crate) fn accepts(stream: &str) -> bool {
        let name = tag(stream).unwrap_or(stream);
        !name.is_empty() && !name.contains(['{', '}'])
    }

    /// The keys of `stream`, a name that [`Keys::accepts`].
    pub(crate) fn new(stream: &str) -> Self {
        debug_assert!(Self::accepts(stream), "{stream}");
        let prefix = match tag(stream) {
            Some(_) => format!("{stream}:tag:"),
            None => format!("{{{stream}}}:"),
        };
        let key = |name: &str| format!("{prefix}{name}");
        Self {
            requests: stream.to_owned(),
            meta: key("meta"),
            control: key("control"),
            dead: key("dead"),
            subscribers: key("subscribers"),
            servers: key("servers"),
            prefix,
        }
    }

    /// Hash: group or session -> who runs the call with that idempotency key, or what it has returned.
    pub(crate) fn dedupe(&self, method: &str, key: &str) -> String {
        format!("{}dedupe:{method}:{key}", self.prefix)
    }

    /// String: a part of a payload that is too large for an entry.
    pub(crate) fn part(&self, name: Uuid, index: usize) -> String {
        format!("{}{name}:{index}", self.parts())
    }

    /// What the keys of all parts begin with.
    pub(crate) fn parts(&self) -> String {
        format!("{}parts:", self.prefix)
    }

    /// Sorted set: consumer of `group` -> time of its last beat.
    pub(crate) fn workers(&self, group: &str) -> String {
        format!("{}workers:{group}", self.prefix)
    }

    /// Stream: replies, and everything else addressed to `session`.
    pub(crate) fn inbox(&self, session: SessionId) -> String {
        // Once for each reply: not by way of `format!`, which takes five times as long.
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let session = &*session.as_uuid().hyphenated().encode_lower(&mut text);
        [&self.prefix, "inbox:", session].concat()
    }
}

/// What the braces around the whole of `stream` enclose.
fn tag(stream: &str) -> Option<&str> {
    stream.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// CRC16 (XMODEM), as in the cluster specification.
    fn crc16(bytes: &[u8]) -> u16 {
        bytes.iter().fold(0, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc: u16, _| {
                let carry = crc & 0x8000 != 0;
                (crc << 1) ^ if carry { 0x1021 } else { 0 }
            })
        })
    }

    /// The cluster slot of a key: by what stands between its first `{` and the next `}`, if that is not empty.
    fn slot(key: &str) -> u16 {
        let tag = key
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(tag, _)| tag)
            .filter(|tag| !tag.is_empty());
        crc16(tag.unwrap_or(key).as_bytes()) % 16384
    }

    fn all(keys: &Keys, group: &str, session: SessionId) -> Vec<String> {
        vec![
            keys.requests.clone(),
            keys.meta.clone(),
            keys.control.clone(),
            keys.dead.clone(),
            keys.subscribers.clone(),
            keys.servers.clone(),
            keys.workers(group),
            keys.inbox(session),
            keys.dedupe("calc.add", group),
            keys.part(*session.as_uuid(), 2),
        ]
    }

    #[test]
    fn the_slot_is_that_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}.bar"), 12182);
    }

    #[test]
    fn keys_are_those_of_the_contract() {
        let session: SessionId = "01930000-0000-7000-8000-0000000000aa".parse().unwrap();
        let calc = all(&Keys::new("calc"), "w", session);
        assert_eq!(
            calc,
            [
                "calc",
                "{calc}:meta",
                "{calc}:control",
                "{calc}:dead",
                "{calc}:subscribers",
                "{calc}:servers",
                "{calc}:workers:w",
                "{calc}:inbox:01930000-0000-7000-8000-0000000000aa",
                "{calc}:dedupe:calc.add:w",
                "{calc}:parts:01930000-0000-7000-8000-0000000000aa:2",
            ]
        );
        let tagged = all(&Keys::new("{calc}"), "w", session);
        assert_eq!(tagged[0], "{calc}");
        assert_eq!(tagged[1], "{calc}:tag:meta");
        assert_eq!(tagged[7], "{calc}:tag:inbox:01930000-0000-7000-8000-0000000000aa");
    }

    #[test]
    fn braces_are_refused_unless_they_are_one_tag_around_the_whole_name() {
        for name in [
            "", "{", "}", "{}", "a{b}", "{a}b", "a}b", "{{a}}", "{a}{b}", "}{", "{a", "a}",
        ] {
            assert!(!Keys::accepts(name), "{name}");
        }
        assert!(Keys::accepts("{a}") && Keys::accepts("a"));
    }

    proptest! {
        #[test]
        fn all_keys_of_a_stream_have_one_slot(stream in r"[^{}]{1,20}|\{[^{}]{1,20}\}", group in ".{1,10}") {
            let keys = Keys::new(&stream);
            let slots: HashSet<u16> = all(&keys, &group, SessionId::generate()).iter().map(|key| slot(key)).collect();
            prop_assert_eq!(slots.len(), 1);
        }

        #[test]
        fn two_streams_never_share_a_key(
            a in r"[a-c:]{1,4}|\{[a-c:]{1,4}\}|tag|\{tag\}",
            b in r"[a-c:]{1,4}|\{[a-c:]{1,4}\}|tag|\{tag\}",
            groups in (r"[a-c:{}]{1,4}|tag|meta", r"[a-c:{}]{1,4}|tag|meta"),
        ) {
            prop_assume!(a != b);
            let session = SessionId::generate();
            let (of_a, of_b) = (Keys::new(&a), Keys::new(&b));
            let of_a: HashSet<String> = all(&of_a, &groups.0, session).into_iter().collect();
            let of_b: HashSet<String> = all(&of_b, &groups.1, session).into_iter().collect();
            prop_assert!(of_a.is_disjoint(&of_b), "{:?} {:?}", of_a, of_b);
        }
    }
}
