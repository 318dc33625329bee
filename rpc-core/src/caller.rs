//! Making calls: where they go, how long they may take, and the future that waits for one.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::arguments::{self, EncodeArguments};
use crate::codec::{Codec, CodecError, Payload};
use crate::context::Context;
use crate::error::CallError;
use crate::handler;
use crate::id::{CallId, SessionId};
use crate::in_flight::Ending;
use crate::message::{Headers, Kind, Outcome, Request, Target};
use crate::service::{MethodDescriptor, Reach, Service, Services};
use crate::shared::Alive;

/// Where calls go and how: a stream, one session, or a service in this process. A cheap clone.
///
/// Generated clients are made of one: `CalculatorClient::new(&channel)`, `CalculatorClient::new(cx.caller())`,
/// `CalculatorClient::new(CalculatorServer::new(service))`.
#[derive(Clone)]
pub struct Caller {
    route: Route,
    timeout: Timeout,
    /// What calls may not outlast, whatever their timeout.
    deadline: Option<Instant>,
    headers: Headers,
}

#[derive(Clone)]
enum Route {
    Channel(Arc<Alive>, Target),
    InProcess(Arc<Services>),
    /// To a channel that nobody holds any more.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timeout {
    /// The method's, else the channel's.
    Default,
    After(Duration),
    Never,
}

impl Caller {
    pub(crate) fn channel(alive: Arc<Alive>, target: Target) -> Self {
        Self::by(Route::Channel(alive, target))
    }

    pub(crate) fn closed() -> Self {
        Self::by(Route::Closed)
    }

    /// Calls `service` in this process, without any IO: for tests of a service and of what uses its client.
    ///
    /// Arguments and results are encoded and decoded as on a wire. A panic ends the call as it would remotely.
    #[must_use]
    pub fn in_process(service: Arc<dyn Service>) -> Self {
        let mut services = Services::default();
        // The first service of a table meets no names that it could conflict with.
        let _ = services.add(service, Reach::Stream);
        Self::by(Route::InProcess(Arc::new(services)))
    }

    fn by(route: Route) -> Self {
        Self {
            route,
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
                reason: "the server returned an error, which this client's signature does not have".to_owned(),
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
        // Encoded now, in the caller's task, while the arguments are borrowed; sent at the first poll.
        let arguments = arguments::encode(Codec::default(), arguments);
        let caller = self.clone();
        Call {
            method: method.name(),
            pending: Box::pin(async move { caller.run(method, kind, arguments).await }),
            read,
        }
    }

    async fn run(
        self,
        method: &'static MethodDescriptor,
        kind: Kind,
        arguments: Result<Payload, CodecError>,
    ) -> Ending {
        let name = method.name();
        let arguments = arguments.map_err(|error| CallError::BadArguments {
            method: name,
            reason: error.to_string(),
        })?;
        let request = |started: Instant, default_timeout, sequence| {
            let timeout = self.timeout_of(method, kind, default_timeout);
            let deadline = timeout.and_then(|timeout| started.checked_add(timeout));
            Request {
                sequence,
                kind,
                method: name.into(),
                // The earlier of the two that are set.
                deadline: deadline.into_iter().chain(self.deadline).min(),
                attempt: 1,
                headers: self.headers.clone(),
                arguments,
                at_most_once: method.is_at_most_once(),
            }
        };
        match &self.route {
            Route::Channel(alive, target) => alive.call(name, kind, *target, request).await,
            Route::InProcess(services) => {
                let started = Instant::now();
                in_process(services, started, request(started, crate::DEFAULT_CALL_TIMEOUT, 1)).await
            }
            Route::Closed => Err(CallError::Closed { method: name }),
        }
    }

    /// `None` for never: only when asked for, and for notifications, which nobody waits for.
    fn timeout_of(&self, method: &MethodDescriptor, kind: Kind, default: Duration) -> Option<Duration> {
        match (self.timeout, kind) {
            (Timeout::After(timeout), _) => Some(timeout),
            (Timeout::Never, _) => None,
            (Timeout::Default, Kind::Call) => Some(method.timeout().unwrap_or(default)),
            (Timeout::Default, Kind::Notification) => method.timeout(),
        }
    }
}

fn read<T: DeserializeOwned, E>(method: &'static str, payload: &Payload) -> Result<T, CallError<E>> {
    payload.decode().map_err(|error| CallError::BadResult {
        method,
        reason: error.to_string(),
    })
}

async fn in_process(services: &Services, started: Instant, request: Request) -> Ending {
    let Some(method) = services.find(&request.method, Reach::Stream) else {
        return Ok(Outcome::Fault(services.not_found(&request.method)));
    };
    let name = method.descriptor.name();
    let call = CallId {
        session: SessionId::generate(),
        sequence: request.sequence,
    };
    let cx = Context::new(
        call,
        name,
        request.headers,
        request.deadline,
        request.attempt,
        Weak::new(),
    );
    let handler = handler::run(method, cx, request.arguments);
    match handler.await {
        Some(outcome) => Ok(outcome),
        None => Err(CallError::DeadlineExceeded {
            method: name,
            timeout: request.deadline.map_or(Duration::MAX, |deadline| deadline - started),
        }),
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let route: &dyn fmt::Debug = match &self.route {
            Route::Channel(_, target) => target,
            Route::InProcess(services) => services,
            Route::Closed => &"closed",
        };
        f.debug_struct("Caller")
            .field("route", route)
            .field("timeout", &self.timeout)
            .field("headers", &self.headers)
            .finish()
    }
}

/// A call: a future that ends in what the method returned, or in why it did not.
///
/// It is sent when it is first polled. Dropping it gives the call up: its reply, if there is one, is ignored.
#[must_use = "a call is not made unless it is awaited"]
pub struct Call<T, E = Infallible> {
    method: &'static str,
    pending: Pin<Box<dyn Future<Output = Ending> + Send>>,
    read: fn(&'static str, Outcome) -> Result<T, CallError<E>>,
}

impl<T, E> Future for Call<T, E> {
    type Output = Result<T, CallError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let ending = ready!(self.pending.as_mut().poll(cx));
        Poll::Ready(match ending {
            Ok(outcome) => (self.read)(self.method, outcome),
            Err(error) => Err(error.widen()),
        })
    }
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}
