//! The channel: serves and calls, both at once.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::caller::{Caller, Route};
use crate::dispatch::Dispatcher;
use crate::error::IoError;
use crate::id::SessionId;
use crate::io::{Outgoing, Peer, RpcIo};
use crate::message::Target;
use crate::service::{Reach, Service, ServiceConflict, Services};
use crate::shared::{Alive, Shared};
use crate::stats::{ChannelStats, Counters};

/// One endpoint: serves any number of services and calls any number of others. A cheap clone.
///
/// When the last clone is dropped, and with it the last client made of it, the channel ends at once: handlers are
/// dropped and waiting calls end as `Closed`. [`RpcChannel::close`] ends it gracefully.
///
/// ```
/// use rpc_core::{MemoryBroker, Mode, RpcChannel, service};
///
/// #[service]
/// trait Greeter {
///     async fn greet(&self, name: String) -> String;
/// }
///
/// struct Polite;
///
/// impl Greeter for Polite {
///     async fn greet(&self, name: String) -> String {
///         format!("Good day, {name}")
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = MemoryBroker::new(Mode::Group);
/// let server = RpcChannel::builder(broker.connect())
///     .serve(GreeterServer::new(Polite))?
///     .start()
///     .await?;
/// let client = RpcChannel::open(broker.connect()).await?;
///
/// let greeting = GreeterClient::new(&client).greet("Ada".to_owned()).await?;
/// assert_eq!(greeting, "Good day, Ada");
/// server.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RpcChannel {
    alive: Arc<Alive>,
}

impl RpcChannel {
    /// Opens a channel that only calls.
    ///
    /// # Errors
    /// What the IO says when it cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(io: impl RpcIo) -> Result<Self, IoError> {
        Self::builder(io).start().await
    }

    /// Begins with a channel that serves: add services, then start it.
    pub fn builder(io: impl RpcIo) -> ChannelBuilder {
        ChannelBuilder {
            io: Arc::new(io),
            services: Services::default(),
        }
    }

    /// The session of this channel.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.shared().io.session()
    }

    /// Calls the services of one session, through its inbox, and nobody else's.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Caller {
        Caller::new(
            Some(self.alive.clone()),
            Target::Session(id),
            self.shared().settings.codec,
        )
    }

    /// The servers that are registered under the stream.
    ///
    /// # Errors
    /// What the IO says when it cannot be asked.
    pub async fn peers(&self) -> Result<Vec<Peer>, IoError> {
        self.shared().io.peers().await
    }

    /// What this channel has done, in numbers.
    #[must_use]
    pub fn stats(&self) -> ChannelStats {
        let shared = self.shared();
        let counters = &shared.counters;
        let (queue_length, running) = shared.dispatcher.load();
        ChannelStats {
            calls: counters.calls.get(),
            replies: counters.replies.get(),
            late_replies: counters.late_replies.get(),
            handled: counters.handled.get(),
            dropped: counters.dropped.get(),
            refused: counters.refused.get(),
            expired: counters.expired.get(),
            cancelled: counters.cancelled.get(),
            repeated: counters.repeated.get(),
            failed_notifications: counters.failed_notifications.get(),
            missed: counters.missed.get(),
            malformed: counters.malformed.get(),
            queue_length,
            running,
            in_flight: shared.in_flight.len(),
        }
    }

    /// Closes the channel: stops reading, lets handlers finish within `close_grace`, writes what they return, and
    /// deregisters. Calls that still wait then end as `Closed`.
    ///
    /// Goes on even if this future is dropped; may be called more than once.
    pub async fn close(&self) {
        self.shared().begin_close();
        self.closed().await;
    }

    /// Waits until the channel is closed, by whomever.
    pub async fn closed(&self) {
        self.shared().closed.cancelled().await;
    }

    /// Asks every other channel of the stream that is configured to obey (`obey_close_signal`) to close.
    pub fn signal_close(&self) {
        self.shared().io.send(Outgoing::SignalClose);
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.alive.shared
    }
}

impl fmt::Debug for RpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcChannel")
            .field("io", &self.shared().io)
            .finish_non_exhaustive()
    }
}

/// Calls go to the stream: to one worker of a group, or to every subscriber.
impl From<&RpcChannel> for Caller {
    fn from(channel: &RpcChannel) -> Self {
        Self::new(
            Some(channel.alive.clone()),
            Target::Stream,
            channel.shared().settings.codec,
        )
    }
}

/// What a channel is to serve, before it starts.
#[must_use = "a channel does not run before `start`"]
pub struct ChannelBuilder {
    io: Arc<dyn RpcIo>,
    services: Services,
}

impl ChannelBuilder {
    /// Adds a service, such as `CalculatorServer::new(..)`.
    ///
    /// All are added before the channel starts: a worker that serves only a part would refuse calls to the rest.
    ///
    /// # Errors
    /// When a service of this channel answers to one of its names already.
    pub fn serve(mut self, service: impl Service) -> Result<Self, ServiceConflict> {
        self.services.add(Arc::new(service), Reach::Stream)?;
        Ok(self)
    }

    /// Adds a service that is reached only through this channel's session, by [`Context::caller`] and
    /// [`RpcChannel::session`]: for servers that call their clients back.
    ///
    /// A channel that serves nothing else takes no requests from the stream.
    ///
    /// # Errors
    /// When a service of this channel answers to one of its names already.
    ///
    /// [`Context::caller`]: crate::Context::caller
    pub fn serve_callbacks(mut self, service: impl Service) -> Result<Self, ServiceConflict> {
        self.services.add(Arc::new(service), Reach::Session)?;
        Ok(self)
    }

    /// Starts the channel: when this returns, whatever is sent to it arrives.
    ///
    /// # Errors
    /// What the IO says when it cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<RpcChannel, IoError> {
        let Self { io, services } = self;
        let runtime = Handle::current();
        let counters = Arc::new(Counters::default());
        let dispatcher = Dispatcher::new(services, Arc::clone(&io), Arc::clone(&counters), runtime.clone());
        let shared = Arc::new(Shared::new(Arc::clone(&io), dispatcher, counters, runtime));
        let alive = Arc::new(Alive::new(Arc::clone(&shared)));
        let channel: Arc<dyn Route> = alive.clone();
        shared.dispatcher.set_channel(Arc::downgrade(&channel));
        drop(channel);
        io.open(shared.clone(), &shared.dispatcher.services().on_stream())
            .await?;
        alive.opened();
        shared.runtime.spawn(Arc::clone(&shared).judge_refusals());
        shared.runtime.spawn(Arc::clone(&shared).watch_servers());
        Ok(RpcChannel { alive })
    }
}

impl fmt::Debug for ChannelBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder")
            .field("io", &self.io)
            .field("services", &self.services)
            .finish()
    }
}
