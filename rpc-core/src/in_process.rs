//! Calling a service in this process, without any IO: for tests of a service and of what uses its client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::caller::{Caller, Draft, Route};
use crate::codec::Codec;
use crate::context::Context;
use crate::error::CallError;
use crate::handler::Handler;
use crate::id::{CallId, SessionId};
use crate::in_flight::Ending;
use crate::message::{Outcome, Target};
use crate::service::{Reach, Service, Services};

struct InProcess {
    services: Services,
}

impl Caller {
    /// Calls `service` in this process, without any IO: for tests of a service and of what uses its client.
    ///
    /// Arguments and results are encoded and decoded as on a wire, in JSON, and a panic ends the call as it would remotely.
    /// There is no channel, so the handler's `cx.caller()` calls nobody: a `MemoryBroker` has one.
    #[must_use]
    pub fn in_process(service: Arc<dyn Service>) -> Self {
        let mut services = Services::default();
        // The first service of a table meets no names that it could conflict with.
        let _ = services.add(service, Reach::Stream);
        let route: Arc<dyn Route> = Arc::new(InProcess { services });
        Self::new(Some(route), Target::Stream, Codec::Json)
    }
}

impl Route for InProcess {
    fn call(self: Arc<Self>, _: Target, draft: Draft) -> Pin<Box<dyn Future<Output = Ending> + Send>> {
        Box::pin(async move { self.run(draft).await })
    }
}

impl InProcess {
    async fn run(&self, draft: Draft) -> Ending {
        let started = Instant::now();
        let deadline = draft.deadline(started, crate::DEFAULT_CALL_TIMEOUT);
        let request = draft.into_request(1, deadline, None);
        let Some(method) = self.services.find(&request.method, Reach::Stream) else {
            return Ok(Outcome::Fault(self.services.not_found(&request.method)));
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
            request.arguments.codec,
            None,
        );
        match Handler::new(method, cx, request.arguments).run().await {
            Some(outcome) => Ok(outcome),
            None => Err(CallError::DeadlineExceeded {
                method: name,
                timeout: deadline.map_or(Duration::MAX, |deadline| deadline - started),
                standing: "it runs in this process".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{METHODS, Script, Unit};

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_dropped_handler_does_not_reach_the_caller() {
        let unit = Arc::new(Unit::new(Script::Bomb).0);
        let caller = Caller::in_process(unit).with_timeout(Duration::from_secs(1));
        let ended: Result<(), CallError> = caller.call(&METHODS[0], &()).await;
        assert!(matches!(ended, Err(CallError::Panicked { .. })), "{ended:?}");
    }
}
