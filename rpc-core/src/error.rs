//! What a caller sees when a call does not return.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::id::SessionId;
use crate::message::{Fault, FaultKind};

/// Why a call did not return a value.
///
/// `E` is the method's own error type; [`Infallible`] for methods that return plain values. Every call ends in a value
/// or in one of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E = Infallible> {
    /// The method ran and returned this error.
    #[error("the service returned an error: {0:?}")]
    Service(E),

    /// No reply came in time. The method may have run, may be running, or may never have started.
    #[error("{method}: no reply within {timeout:?}: {standing}")]
    DeadlineExceeded {
        /// The method that was called.
        method: &'static str,
        /// How long the caller waited.
        timeout: Duration,
        /// What may be the reason, and what to do about it, for a person: no connection, or how many servers of it were alive and
        /// how many requests waited or ran, and when that was seen.
        standing: String,
    },

    /// No live server serves the method; nothing was sent.
    #[error(
        "{method}: no live server of the stream `{stream}` serves it ({}); start one, compare the names of stream and service, or \
         have calls wait for servers to come with `fail_fast(false)` on the client", listed(.served)
    )]
    NoWorkers {
        /// The method that was called.
        method: &'static str,
        /// The stream.
        stream: String,
        /// The services of the stream that somebody serves.
        served: Vec<String>,
    },

    /// The servers had no room for the call; it did not run.
    #[error("{method}: overloaded: {reason}; retry after a pause")]
    Overloaded {
        /// The method that was called.
        method: &'static str,
        /// Who refused it, and why.
        reason: String,
    },

    /// The server has no such method.
    #[error("{method}: method not found: {reason}; compare the versions of client and server")]
    MethodNotFound {
        /// The method that was called.
        method: &'static str,
        /// What the server has instead.
        reason: String,
    },

    /// The arguments could not be encoded here, or not be decoded by the server; the method did not run.
    #[error("{method}: bad arguments: {reason}; compare the method's signature in client and server")]
    BadArguments {
        /// The method that was called.
        method: &'static str,
        /// Which argument, and what is wrong with it.
        reason: String,
    },

    /// The arguments are larger than the caller may send or the server takes; the method did not run.
    #[error("{method}: too large: {reason}; send less, or raise that at both ends")]
    TooLarge {
        /// The method that was called.
        method: &'static str,
        /// Their size, the limit, and whose it is.
        reason: String,
    },

    /// The method ran, but its result could not be encoded or sent there, or not be taken or decoded here.
    #[error("{method}: unusable result: {reason}")]
    BadResult {
        /// The method that was called.
        method: &'static str,
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// The handler panicked; the server carries on.
    #[error("{method}: the handler panicked: {reason}; the server's log names the call and the place")]
    Panicked {
        /// The method that was called.
        method: &'static str,
        /// The message of the panic.
        reason: String,
    },

    /// The worker that ran the call died. It may have run in part, and will not be run again.
    #[error("{method}: worker lost: {reason}")]
    WorkerLost {
        /// The method that was called.
        method: &'static str,
        /// Why nobody else runs it, and what to do.
        reason: String,
    },

    /// The session that the call was addressed to no longer lives.
    #[error("{method}: session {session} is gone; ask the stream for a live one")]
    SessionGone {
        /// The method that was called.
        method: &'static str,
        /// The session that was called.
        session: SessionId,
    },

    /// Whether the call ran, or will run, can no longer be known.
    #[error("{method}: outcome unknown: {reason}; call again only if it may run twice")]
    Indeterminate {
        /// The method that was called.
        method: &'static str,
        /// What was lost.
        reason: String,
    },

    /// The channel was closed before the call ended.
    #[error(
        "{method}: the channel is closed; a call that was under way may have run: call again, on a new one, only if it may run twice"
    )]
    Closed {
        /// The method that was called.
        method: &'static str,
    },

    /// The call could not be sent; it did not run.
    #[error("{method}: not sent: {error}")]
    Io {
        /// The method that was called.
        method: &'static str,
        /// What the IO said.
        error: IoError,
    },

    /// The server reports a fault that this version has no name for.
    #[error("{method}: the server refused: {reason}; it may be newer than this client")]
    Other {
        /// The method that was called.
        method: &'static str,
        /// What the server said.
        reason: String,
    },
}

impl<E> CallError<E> {
    /// The method's own error, if that is what this is.
    pub fn into_service(self) -> Option<E> {
        match self {
            Self::Service(error) => Some(error),
            _ => None,
        }
    }
}

impl CallError {
    /// The same failure of a call whose method has errors of its own.
    pub(crate) fn widen<E>(self) -> CallError<E> {
        match self {
            Self::Service(never) => match never {},
            Self::DeadlineExceeded {
                method,
                timeout,
                standing,
            } => CallError::DeadlineExceeded {
                method,
                timeout,
                standing,
            },
            Self::NoWorkers { method, stream, served } => CallError::NoWorkers { method, stream, served },
            Self::Overloaded { method, reason } => CallError::Overloaded { method, reason },
            Self::MethodNotFound { method, reason } => CallError::MethodNotFound { method, reason },
            Self::BadArguments { method, reason } => CallError::BadArguments { method, reason },
            Self::TooLarge { method, reason } => CallError::TooLarge { method, reason },
            Self::BadResult { method, reason } => CallError::BadResult { method, reason },
            Self::Panicked { method, reason } => CallError::Panicked { method, reason },
            Self::WorkerLost { method, reason } => CallError::WorkerLost { method, reason },
            Self::SessionGone { method, session } => CallError::SessionGone { method, session },
            Self::Indeterminate { method, reason } => CallError::Indeterminate { method, reason },
            Self::Closed { method } => CallError::Closed { method },
            Self::Io { method, error } => CallError::Io { method, error },
            Self::Other { method, reason } => CallError::Other { method, reason },
        }
    }

    /// What a server's fault means to the caller of `method`.
    pub(crate) fn from_fault(method: &'static str, fault: Fault) -> Self {
        let reason = fault.message;
        match fault.kind {
            FaultKind::MethodNotFound => Self::MethodNotFound { method, reason },
            FaultKind::BadArguments => Self::BadArguments { method, reason },
            FaultKind::TooLarge => Self::TooLarge { method, reason },
            FaultKind::Overloaded => Self::Overloaded { method, reason },
            FaultKind::Panicked => Self::Panicked { method, reason },
            FaultKind::WorkerLost => Self::WorkerLost { method, reason },
            FaultKind::Closing | FaultKind::Indeterminate => Self::Indeterminate { method, reason },
            FaultKind::BadResult => Self::BadResult { method, reason },
            FaultKind::Other => Self::Other { method, reason },
        }
    }
}

fn listed(served: &[String]) -> String {
    match served {
        [] => "it has no live servers at all".to_owned(),
        _ => format!("its live servers serve {}", served.join(", ")),
    }
}

/// Why arguments of `size` bytes are not sent, or not taken.
pub(crate) fn too_large(size: usize, limit: usize, whose: &str) -> String {
    format!("its arguments have {size} bytes, and {whose} `max_payload_size` is {limit}")
}

/// What an IO reports when it fails; cheap to clone, because one failure may end many calls.
#[derive(Clone)]
pub struct IoError(Arc<dyn Error + Send + Sync>);

impl IoError {
    /// Wraps the IO's own error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// The IO's own error.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Debug for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for IoError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// By identity: two failures are the same one or not.
impl PartialEq for IoError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lower_case_and_name_the_call() {
        let fault = |kind| CallError::from_fault("calc.add", Fault::new(kind, "why")).to_string();
        for kind in [FaultKind::MethodNotFound, FaultKind::Overloaded, FaultKind::Other] {
            assert!(fault(kind).starts_with("calc.add: "), "{}", fault(kind));
        }
        let io = CallError::<Infallible>::Io {
            method: "calc.add",
            error: IoError::new("connection refused"),
        };
        assert_eq!(io.to_string(), "calc.add: not sent: connection refused");
    }

    #[test]
    fn widening_keeps_the_failure() {
        let closed: CallError<String> = CallError::Closed { method: "a.b" }.widen();
        assert_eq!(closed, CallError::Closed { method: "a.b" });
        assert_eq!(CallError::Service(3).into_service(), Some(3));
    }
}
