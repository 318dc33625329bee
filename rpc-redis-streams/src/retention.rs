//! How much of the stream is kept.

use rpc_core::Mode;

/// What is kept of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retention {
    /// Everything that some group has not settled.
    Processed,
    /// About so many entries, settled or not.
    MaxLen(u64),
}

impl Retention {
    /// The default of `mode`, unless a bound is asked for.
    pub(crate) fn new(mode: Mode, max_len: Option<u64>) -> Self {
        match (mode, max_len) {
            (_, Some(max_len)) => Self::MaxLen(max_len),
            (Mode::Group, None) => Self::Processed,
            (Mode::Broadcast, None) => Self::MaxLen(crate::config::DEFAULT_BROADCAST_MAX_LEN),
        }
    }

    /// How it stands in the stream's `meta`.
    pub(crate) fn to_meta(self) -> String {
        match self {
            Self::Processed => "processed".to_owned(),
            Self::MaxLen(n) => format!("maxlen {n}"),
        }
    }

    pub(crate) fn from_meta(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            Some(("maxlen", n)) => n.parse().ok().map(Self::MaxLen),
            _ => (text == "processed").then_some(Self::Processed),
        }
    }

    /// The bound to be given to XADD.
    pub(crate) fn max_len(self) -> Option<u64> {
        match self {
            Self::Processed => None,
            Self::MaxLen(n) => Some(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_reads_back_from_meta() {
        for retention in [Retention::Processed, Retention::MaxLen(7)] {
            assert_eq!(Retention::from_meta(&retention.to_meta()), Some(retention));
        }
        assert_eq!(Retention::from_meta("maxlen many"), None);
        assert_eq!(Retention::from_meta("for ever"), None);
    }
}
