//! What a handler can know about the call that it runs.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Route};
use crate::codec::Codec;
use crate::id::{CallId, SessionId};
use crate::message::{Headers, Target};

/// What a handler can know about the call that it runs; a cheap clone.
///
/// A method asks for it with an argument marked `#[ctx]`.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    call: CallId,
    method: &'static str,
    headers: Headers,
    deadline: Option<Instant>,
    attempt: u32,
    codec: Codec,
    /// None in process. Not strong: a handler that runs for ever must not keep a channel that nobody wants any more.
    channel: Option<Weak<dyn Route>>,
    /// Made when somebody asks for it: most handlers don't.
    cancellation: OnceLock<CancellationToken>,
}

impl Context {
    pub(crate) fn new(
        call: CallId,
        method: &'static str,
        headers: Headers,
        deadline: Option<Instant>,
        attempt: u32,
        codec: Codec,
        channel: Option<Weak<dyn Route>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                call,
                method,
                headers,
                deadline,
                attempt,
                codec,
                channel,
                cancellation: OnceLock::new(),
            }),
        }
    }

    /// The session that made the call.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.inner.call.session
    }

    /// Calls back: what a client made with this calls is run by the channel that made the call, and nobody else.
    ///
    /// Such calls end when this one does: at its deadline at the latest. They are written in the codec of this one, which the
    /// caller is known to read.
    ///
    /// ```
    /// # use rpc_core::{Context, service};
    /// #[service]
    /// trait Progress {
    ///     async fn report(&self, percent: u8);
    /// }
    ///
    /// async fn handler(cx: &Context) {
    ///     let _ = ProgressClient::new(cx.caller()).report(50).await;
    /// }
    /// ```
    #[must_use]
    pub fn caller(&self) -> Caller {
        let target = Target::Session(self.session());
        let channel = self.inner.channel.as_ref().and_then(Weak::upgrade);
        Caller::new(channel, target, self.inner.codec).until(self.deadline())
    }

    /// The identity of the call; the same at every attempt.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.inner.call
    }

    /// The wire name of the method, `service.method`.
    #[must_use]
    pub fn method(&self) -> &'static str {
        self.inner.method
    }

    /// What accompanies the call.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.inner.headers
    }

    /// When the caller gives up; the handler is dropped then.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.deadline
    }

    /// The time until the deadline; zero when it has passed, `None` without one.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// How often the call has been handed to a server, this time included: the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// Fires when the result is no longer wanted: the caller has given up, the deadline has passed, or the channel closes and its
    /// grace is over.
    ///
    /// The handler's future is dropped in the same moment. The token is for what the handler has spawned elsewhere.
    #[must_use]
    pub fn cancellation(&self) -> &CancellationToken {
        self.inner.cancellation.get_or_init(CancellationToken::new)
    }

    pub(crate) fn cancel(&self) {
        // Made even if nobody has asked yet: a clone of this context may ask later, and must then find it fired.
        self.cancellation().cancel();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("call", &self.inner.call)
            .field("method", &self.inner.method)
            .field("headers", &self.inner.headers)
            .field("attempt", &self.inner.attempt)
            .finish_non_exhaustive()
    }
}
