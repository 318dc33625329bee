//! Making calls: where they go, how long they may take, and the future that waits for one.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytestring::ByteString;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::arguments::{self, EncodeArguments};
use crate::codec::{Codec, Payload};
use crate::descriptor::MethodDescriptor;
use crate::error::CallError;
use crate::in_flight::Ending;
use crate::message::{Headers, Kind, MAX_HEADERS, Outcome, Request, Target};

/// What to do about a result of another form than expected.
const COMPARE: &str = "compare the method's signature in client and server";

/// Where calls go and how: a stream, one session, or a service in this process. A cheap clone.
///
/// Generated clients are made of one: `CalculatorClient::new(&channel)`, `CalculatorClient::new(cx.caller())`,
/// `CalculatorClient::new(CalculatorServer::new(service))`.
#[derive(Clone)]
pub struct Caller {
    /// `None` for a channel that nobody holds any more.
    route: Option<Arc<dyn Route>>,
    target: Target,
    codec: Codec,
    timeout: Timeout,
    /// What calls may not outlast, whatever their timeout.
    deadline: Option<Instant>,
    headers: Headers,
}

/// What carries calls out.
pub(crate) trait Route: Send + Sync {
    /// Makes a call and waits for its end.
    fn call(self: Arc<Self>, target: Target, draft: Draft) -> Pin<Box<dyn Future<Output = Ending> + Send>>;
}

/// A request before it is sent.
pub(crate) struct Draft {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) kind: Kind,
    timeout: Timeout,
    deadline: Option<Instant>,
    headers: Headers,
    arguments: Payload,
}

impl Draft {
    /// The bytes that its arguments take.
    pub(crate) fn size(&self) -> usize {
        self.arguments.size()
    }

    /// When it is given up, if it was started at `started`.
    pub(crate) fn deadline(&self, started: Instant, default_timeout: Duration) -> Option<Instant> {
        let timeout = self.timeout.resolve(self.method, self.kind, default_timeout);
        let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
        // The earlier of the two that are set.
        deadline.into_iter().chain(self.deadline).min()
    }

    /// The request, as number `sequence` of its session.
    pub(crate) fn into_request(self, sequence: u64, deadline: Option<Instant>, packable: Option<Duration>) -> Request {
        Request {
            sequence,
            kind: self.kind,
            method: ByteString::from_static(self.method.name()),
            deadline,
            attempt: 1,
            at_most_once: self.method.is_at_most_once(),
            packable,
            headers: self.headers,
            arguments: self.arguments,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    /// The method's, else the channel's.
    Default,
    After(Duration),
    Never,
}

impl Timeout {
    /// `None` for never: only when asked for, and for notifications, which nobody waits for.
    fn resolve(self, method: &MethodDescriptor, kind: Kind, default: Duration) -> Option<Duration> {
        match (self, kind) {
            (Self::After(timeout), _) => Some(timeout),
            (Self::Never, _) => None,
            (Self::Default, Kind::Call) => Some(method.timeout().unwrap_or(default)),
            (Self::Default, Kind::Notification) => method.timeout(),
        }
    }
}

impl Caller {
    pub(crate) fn new(route: Option<Arc<dyn Route>>, target: Target, codec: Codec) -> Self {
        Self {
            route,
            target,
            codec,
            timeout: Timeout::Default,
            deadline: None,
            headers: Headers::new(),
        }
    }

    pub(crate) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// Gives calls `timeout` to return, instead of the method's or the channel's default.
    ///
    /// Notifications given one are not run after it.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout: Timeout::After(timeout),
            ..self.clone()
        }
    }

    /// Lets calls wait for ever.
    #[must_use]
    pub fn without_timeout(&self) -> Self {
        Self {
            timeout: Timeout::Never,
            ..self.clone()
        }
    }

    /// Sends a header along with each call, in place of an earlier one of that name.
    #[must_use]
    pub fn with_header(&self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let mut caller = self.clone();
        caller.headers.insert(name, value);
        caller
    }

    /// Gives calls an idempotency key: of calls with one key to one method that is marked `dedupe`, one runs, and the others
    /// get its result for as long as that says. Without a key a call's own identity is it.
    ///
    /// It travels as the header [`IDEMPOTENCY_KEY`](crate::IDEMPOTENCY_KEY).
    #[must_use]
    pub fn with_idempotency_key(&self, key: impl Into<String>) -> Self {
        self.with_header(crate::IDEMPOTENCY_KEY, key)
    }

    /// Calls a method that returns a plain value.
    pub fn call<T: DeserializeOwned, A: EncodeArguments>(
        &self,
        method: &'static MethodDescriptor,
        arguments: &A,
    ) -> Call<T> {
        self.start(method, Kind::Call, arguments, |method, outcome| match outcome {
            Outcome::Returned(payload) => read(method, &payload),
            Outcome::Failed(_) => Err(CallError::BadResult {
                method,
                reason: format!("the server returned an error, which this client does not expect; {COMPARE}"),
            }),
            Outcome::Fault(fault) => Err(CallError::from_fault(method, fault)),
        })
    }

    /// Calls a method that returns a `Result`.
    pub fn call_fallible<T, E, A>(&self, method: &'static MethodDescriptor, arguments: &A) -> Call<T, E>
    where
        T: DeserializeOwned,
        E: DeserializeOwned,
        A: EncodeArguments,
    {
        self.start(method, Kind::Call, arguments, |method, outcome| match outcome {
            Outcome::Returned(payload) => read(method, &payload),
            Outcome::Failed(payload) => Err(read(method, &payload).map_or_else(|error| error, CallError::Service)),
            Outcome::Fault(fault) => Err(CallError::from_fault(method, fault).widen()),
        })
    }

    /// Sends a notification: it ends when the IO has accepted it.
    pub fn notify<A: EncodeArguments>(&self, method: &'static MethodDescriptor, arguments: &A) -> Call<()> {
        self.start(method, Kind::Notification, arguments, |_, _| Ok(()))
    }

    fn start<T, E, A: EncodeArguments>(
        &self,
        method: &'static MethodDescriptor,
        kind: Kind,
        arguments: &A,
        read: fn(&'static str, Outcome) -> Result<T, CallError<E>>,
    ) -> Call<T, E> {
        let name = method.name();
        // Encoded now, in the caller's task, while the arguments are borrowed; sent at the first poll.
        let arguments = arguments::encode(self.codec, arguments);
        let headers = self.headers.iter().len();
        let pending = match (arguments, &self.route) {
            (Ok(_), _) if headers > MAX_HEADERS => failed(CallError::BadArguments {
                method: name,
                reason: format!("there are {headers} headers, and a call carries {MAX_HEADERS} at the most"),
            }),
            (Ok(arguments), Some(route)) => {
                let draft = Draft {
                    method,
                    kind,
                    timeout: self.timeout,
                    deadline: self.deadline,
                    headers: self.headers.clone(),
                    arguments,
                };
                Arc::clone(route).call(self.target, draft)
            }
            (Ok(_), None) => failed(CallError::Closed { method: name }),
            (Err(error), _) => failed(CallError::BadArguments {
                method: name,
                reason: error.to_string(),
            }),
        };
        Call {
            method: name,
            pending: Some(pending),
            polled: false,
            abort_on_drop: true,
            read,
        }
    }
}

fn failed(error: CallError) -> Pin<Box<dyn Future<Output = Ending> + Send>> {
    Box::pin(ready(Err(error)))
}

fn read<T: DeserializeOwned, E>(method: &'static str, payload: &Payload) -> Result<T, CallError<E>> {
    payload.decode().map_err(|error| CallError::BadResult {
        method,
        reason: format!("{error}; {COMPARE}"),
    })
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("target", &self.target)
            .field("closed", &self.route.is_none())
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .finish()
    }
}

/// A call: a future that ends in what the method returned, or in why it did not.
///
/// It is sent when it is first polled. Dropping it then cancels the call: if no handler has started it, none will; one that
/// runs is dropped, and its context's token fires, unless the method is marked `no_cancel`. A notification cannot be
/// cancelled once it is sent. [`Call::abort_on_drop`] lets a dropped call go on.
#[must_use = "a call is not made unless it is awaited"]
pub struct Call<T, E = Infallible> {
    method: &'static str,
    /// `None` after the end.
    pending: Option<Pin<Box<dyn Future<Output = Ending> + Send>>>,
    polled: bool,
    abort_on_drop: bool,
    read: fn(&'static str, Outcome) -> Result<T, CallError<E>>,
}

impl<T, E> Future for Call<T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.polled = true;
        let Some(pending) = &mut self.pending else {
            // Polled after its end, which is the caller's mistake; a pending future is the mildest answer.
            return Poll::Pending;
        };
        let Poll::Ready(ending) = pending.as_mut().poll(cx) else {
            return Poll::Pending;
        };
        self.pending = None;
        Poll::Ready(match ending {
            Ok(outcome) => (self.read)(self.method, outcome),
            Err(error) => Err(error.widen()),
        })
    }
}

impl<T, E> Call<T, E> {
    /// Whether dropping this future cancels the call, as it does by default.
    ///
    /// With `false`, a call that has been sent goes on in the background until it ends, by its deadline at the latest, and
    /// its result is thrown away. For that it needs the tokio runtime in which it is dropped; outside of one it is
    /// cancelled all the same.
    pub fn abort_on_drop(self, abort: bool) -> Self {
        let mut call = self;
        call.abort_on_drop = abort;
        call
    }
}

impl<T, E> Drop for Call<T, E> {
    fn drop(&mut self) {
        if !self.abort_on_drop
            && self.polled
            && let Some(pending) = self.pending.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(pending);
        }
    }
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{METHODS, Script, Unit};

    fn in_process(script: Script) -> Caller {
        Caller::in_process(Arc::new(Unit::new(script).0))
    }

    #[tokio::test]
    async fn too_many_headers_are_refused_before_they_are_sent() {
        let mut caller = in_process(Script::Fail(0));
        caller.headers = (0..MAX_HEADERS).map(|n| (n.to_string(), "")).collect();
        assert_eq!(caller.call(&METHODS[0], &()).await, Ok(()));
        let error = caller
            .with_header("more", "")
            .call::<(), _>(&METHODS[0], &())
            .await
            .unwrap_err();
        assert!(matches!(error, CallError::BadArguments { .. }));
        assert!(
            error.to_string().contains("1025 headers, and a call carries 1024"),
            "{error}"
        );
    }
}
