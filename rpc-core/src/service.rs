//! Services: what they are called, what they can do, and how a call reaches their methods.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::codec::{Codec, Payload};
use crate::context::Context;
use crate::message::{Fault, FaultKind, Kind, Outcome};

/// A running handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Something whose methods can be called; `#[service]` writes it as `NameServer<T>`.
pub trait Service: Send + Sync + 'static {
    /// What the service is called and what it can do.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Starts `method`, which is one of the descriptor's.
    fn call(&self, method: &'static MethodDescriptor, cx: Context, arguments: Payload) -> HandlerFuture;
}

/// What a service is called and what it can do: the method table, which serializes, so that a server can hand it out.
#[derive(Debug, Serialize)]
pub struct ServiceDescriptor {
    name: &'static str,
    docs: &'static str,
    methods: &'static [MethodDescriptor],
}

impl ServiceDescriptor {
    /// Describes a service; `#[service]` writes this.
    #[must_use]
    pub const fn new(name: &'static str, docs: &'static str, methods: &'static [MethodDescriptor]) -> Self {
        Self { name, docs, methods }
    }

    /// The wire name, which prefixes the methods'.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The doc comment of the trait.
    #[must_use]
    pub const fn docs(&self) -> &'static str {
        self.docs
    }

    /// The methods, in the order of the trait.
    #[must_use]
    pub const fn methods(&self) -> &'static [MethodDescriptor] {
        self.methods
    }
}

/// One method of a service.
#[derive(Debug, Serialize)]
pub struct MethodDescriptor {
    name: &'static str,
    aliases: &'static [&'static str],
    docs: &'static str,
    arguments: &'static [ArgumentDescriptor],
    returns: &'static str,
    kind: Kind,
    timeout: Option<Duration>,
    at_most_once: bool,
}

impl MethodDescriptor {
    /// Describes a method of that wire name (`service.method`) without arguments; `#[service]` writes this.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            docs: "",
            arguments: &[],
            returns: "()",
            kind: Kind::Call,
            timeout: None,
            at_most_once: false,
        }
    }

    /// Other wire names (`service.alias`) by which it can be called.
    #[must_use]
    pub const fn with_aliases(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// The doc comment.
    #[must_use]
    pub const fn with_docs(self, docs: &'static str) -> Self {
        Self { docs, ..self }
    }

    /// What it takes, and returns as a Rust type.
    #[must_use]
    pub const fn with_signature(self, arguments: &'static [ArgumentDescriptor], returns: &'static str) -> Self {
        Self {
            arguments,
            returns,
            ..self
        }
    }

    /// Makes it a notification.
    #[must_use]
    pub const fn notification(self) -> Self {
        Self {
            kind: Kind::Notification,
            ..self
        }
    }

    /// How long callers wait unless they say otherwise.
    #[must_use]
    pub const fn with_timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Forbids that it is run twice, even if a worker dies.
    #[must_use]
    pub const fn at_most_once(self) -> Self {
        Self {
            at_most_once: true,
            ..self
        }
    }

    /// The wire name, `service.method`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Other wire names by which it can be called.
    #[must_use]
    pub const fn aliases(&self) -> &'static [&'static str] {
        self.aliases
    }

    /// The doc comment.
    #[must_use]
    pub const fn docs(&self) -> &'static str {
        self.docs
    }

    /// The arguments on the wire, in order.
    #[must_use]
    pub const fn arguments(&self) -> &'static [ArgumentDescriptor] {
        self.arguments
    }

    /// The Rust type it returns.
    #[must_use]
    pub const fn returns(&self) -> &'static str {
        self.returns
    }

    /// Whether its callers wait for a reply.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// How long callers wait unless they say otherwise; `None` for the channel's default.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Whether it must not be run twice.
    #[must_use]
    pub const fn is_at_most_once(&self) -> bool {
        self.at_most_once
    }
}

/// One argument of a method.
#[derive(Debug, Serialize)]
pub struct ArgumentDescriptor {
    /// Its name in the trait.
    pub name: &'static str,
    /// Its Rust type, as written in the trait.
    pub rust_type: &'static str,
    /// Whether callers may leave it out.
    pub optional: bool,
}

impl Outcome {
    /// What a method that returns a plain value returned.
    pub fn from_value<T: Serialize + ?Sized>(codec: Codec, value: &T) -> Self {
        Self::encoded(codec.encode(value), Self::Returned)
    }

    /// What a method that returns a `Result` returned.
    pub fn from_result<T: Serialize, E: Serialize>(codec: Codec, result: &Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::from_value(codec, value),
            Err(error) => Self::encoded(codec.encode(error), Self::Failed),
        }
    }

    fn encoded(payload: Result<Payload, crate::CodecError>, wrap: fn(Payload) -> Self) -> Self {
        match payload {
            Ok(payload) => wrap(payload),
            Err(error) => Self::Fault(Fault::new(FaultKind::BadResult, error.to_string())),
        }
    }
}

/// The services of a channel, found by the wire names of their methods.
#[derive(Default)]
pub(crate) struct Services {
    methods: HashMap<&'static str, Method>,
    descriptors: Vec<(&'static ServiceDescriptor, Reach)>,
}

/// A method that can be run.
#[derive(Clone)]
pub(crate) struct Method {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) descriptor: &'static MethodDescriptor,
    reach: Reach,
}

/// Who can call a service of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everybody on the stream.
    Stream,
    /// Those who address this very session.
    Session,
}

impl Services {
    pub(crate) fn add(&mut self, service: Arc<dyn Service>, reach: Reach) -> Result<(), ServiceConflict> {
        let descriptor = service.descriptor();
        let conflict = |wire_name| ServiceConflict {
            service: descriptor.name,
            wire_name,
        };
        if self.descriptors.iter().any(|(other, _)| other.name == descriptor.name) {
            return Err(conflict(descriptor.name));
        }
        // Checked before anything is inserted, so that a refused service leaves no methods behind.
        let wire_names = || {
            descriptor.methods.iter().flat_map(|m| {
                std::iter::once(m.name)
                    .chain(m.aliases.iter().copied())
                    .map(move |n| (n, m))
            })
        };
        if let Some((taken, _)) = wire_names().find(|(name, _)| self.methods.contains_key(name)) {
            return Err(conflict(taken));
        }
        for (name, method) in wire_names() {
            self.methods.insert(
                name,
                Method {
                    service: Arc::clone(&service),
                    descriptor: method,
                    reach,
                },
            );
        }
        self.descriptors.push((descriptor, reach));
        Ok(())
    }

    /// The method that answers to `wire_name` when called by way of `reach`.
    pub(crate) fn find(&self, wire_name: &str, reach: Reach) -> Option<&Method> {
        self.methods
            .get(wire_name)
            .filter(|method| method.reach == Reach::Stream || reach == Reach::Session)
    }

    /// The services that everybody on the stream can call.
    pub(crate) fn on_stream(&self) -> Vec<&'static ServiceDescriptor> {
        let on_stream = self.descriptors.iter().filter(|(_, reach)| *reach == Reach::Stream);
        on_stream.map(|(descriptor, _)| *descriptor).collect()
    }

    /// What to tell a caller who asked for `wire_name` in vain.
    pub(crate) fn not_found(&self, wire_name: &str) -> Fault {
        let service = service_of(wire_name);
        let message = match self.descriptors.iter().find(|(d, _)| d.name == service) {
            Some((descriptor, _)) => {
                let names: Vec<_> = descriptor.methods.iter().map(|m| m.name).collect();
                format!("this server has {}", names.join(", "))
            }
            None => {
                let names: Vec<_> = self.descriptors.iter().map(|(d, _)| d.name).collect();
                match names[..] {
                    [] => "this channel serves nothing".to_owned(),
                    _ => format!("this server serves {}", names.join(", ")),
                }
            }
        };
        Fault::new(FaultKind::MethodNotFound, message)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.methods.keys()).finish()
    }
}

/// The service's part of a wire name: `calc` of `calc.add`.
pub(crate) fn service_of(wire_name: &str) -> &str {
    wire_name.rsplit_once('.').map_or(wire_name, |(service, _)| service)
}

/// Two services of one channel would answer to the same name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service `{service}`: `{wire_name}` is already served by this channel; give one of them another `name`")]
pub struct ServiceConflict {
    service: &'static str,
    wire_name: &'static str,
}
