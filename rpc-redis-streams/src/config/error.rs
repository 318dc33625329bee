//! What is wrong with a configuration.

use std::time::Duration;

/// An option of a [`Config`](crate::Config) is malformed, out of its bounds, or out of place.
///
/// No message holds a password, or a url that may contain one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number or duration is too small or too large.
    #[error("{field} is {value}, but must be from {least} to {greatest}")]
    OutOfRange {
        /// The option.
        field: &'static str,
        /// What it was given.
        value: String,
        /// The smallest value that it takes.
        least: String,
        /// The largest value that it takes.
        greatest: String,
    },

    /// A server would count as dead after too few missed beats.
    #[error(
        "death_time is {death:?}, but must be at least three times heartbeat_interval, which is {interval:?}; \
         set it to {least:?} or more, or beat more often"
    )]
    TooSoonDead {
        /// The `death_time`.
        death: Duration,
        /// The `heartbeat_interval`.
        interval: Duration,
        /// The shortest death time at that interval.
        least: Duration,
    },

    /// A text is not of the form that the option takes.
    #[error("{field} is {value:?}; write {expected}")]
    Unreadable {
        /// The option.
        field: &'static str,
        /// What it was given.
        value: String,
        /// What to write.
        expected: &'static str,
    },

    /// A name cannot be part of a Redis key.
    #[error("{field} is {value:?}, but {rule}")]
    Name {
        /// The option.
        field: &'static str,
        /// What it was given; its beginning only, if it is long.
        value: String,
        /// What names have to be like.
        rule: &'static str,
    },

    /// There is no such option.
    #[error("unknown option {name:?}; known are {known}")]
    Unknown {
        /// The name as given.
        name: String,
        /// The names that there are.
        known: String,
    },

    /// An option was given in the url and beside it, or twice in the url.
    #[error("{field} is given twice, in the url or beside it; write it once")]
    Twice {
        /// The option.
        field: &'static str,
    },

    /// An option has no meaning in this mode.
    #[error("{field} is for {} mode only, but mode is {mode}; leave out {field}, or {remedy}", other(*.mode))]
    WrongMode {
        /// The option.
        field: &'static str,
        /// The mode of the configuration.
        mode: rpc_core::Mode,
        /// What to write to get the other mode.
        remedy: &'static str,
    },

    /// The url cannot be used; it is not shown, because it may contain a password.
    #[error("url: {reason}")]
    Url {
        /// What is wrong with it, and what to write.
        reason: String,
    },
}

fn other(mode: rpc_core::Mode) -> rpc_core::Mode {
    match mode {
        rpc_core::Mode::Broadcast => rpc_core::Mode::Group,
        rpc_core::Mode::Group => rpc_core::Mode::Broadcast,
    }
}

/// As much of a text as is shown in a message.
pub(super) fn beginning(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
