//! Services, and how a call reaches their methods.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use rustc_hash::FxBuildHasher;
use serde::Serialize;

use crate::codec::{Codec, Payload};
use crate::context::Context;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor, service_of};
use crate::message::{Fault, FaultKind, Outcome};
use crate::pace::Pace;

/// A running handler.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Something whose methods can be called; `#[service]` writes it as `NameServer<T>`.
pub trait Service: Send + Sync + 'static {
    /// What the service is called and what it can do.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Starts `method`, which is one of the descriptor's.
    fn call(&self, method: &'static MethodDescriptor, cx: Context, arguments: Payload) -> HandlerFuture;
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
            Err(error) => {
                let message = format!("{error}; return something that the codec can write");
                Self::Fault(Fault::new(FaultKind::BadResult, message))
            }
        }
    }
}

/// The services of a channel, found by the wire names of their methods.
#[derive(Default)]
pub(crate) struct Services {
    methods: HashMap<&'static str, Method, FxBuildHasher>,
    descriptors: Vec<(&'static ServiceDescriptor, Reach)>,
}

/// A method that can be run.
#[derive(Clone)]
pub(crate) struct Method {
    pub(crate) service: Arc<dyn Service>,
    pub(crate) descriptor: &'static MethodDescriptor,
    /// Of its handlers here.
    pub(crate) pace: Arc<Pace>,
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
            service: descriptor.name(),
            wire_name,
        };
        if self
            .descriptors
            .iter()
            .any(|(other, _)| other.name() == descriptor.name())
        {
            return Err(conflict(descriptor.name()));
        }
        // Checked before anything is inserted, so that a refused service leaves no methods behind.
        let wire_names = || {
            descriptor.methods().iter().flat_map(|m| {
                std::iter::once(m.name())
                    .chain(m.aliases().iter().copied())
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
                    pace: Arc::default(),
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

    pub(crate) fn is_empty(&self) -> bool {
        self.methods.is_empty()
    }

    /// The services that everybody on the stream can call.
    pub(crate) fn on_stream(&self) -> Vec<&'static ServiceDescriptor> {
        let on_stream = self.descriptors.iter().filter(|(_, reach)| *reach == Reach::Stream);
        on_stream.map(|(descriptor, _)| *descriptor).collect()
    }

    /// What to tell a caller who asked for `wire_name` in vain.
    pub(crate) fn not_found(&self, wire_name: &str) -> Fault {
        let service = service_of(wire_name);
        let message = match self.descriptors.iter().find(|(d, _)| d.name() == service) {
            Some((descriptor, _)) => {
                let names: Vec<_> = descriptor.methods().iter().map(|m| m.name()).collect();
                format!("this server has {}", names.join(", "))
            }
            None => {
                let names: Vec<_> = self.descriptors.iter().map(|(d, _)| d.name()).collect();
                match names[..] {
                    [] => "this channel serves nothing: a client serves callbacks with `serve_callbacks`".to_owned(),
                    _ => format!(
                        "this server serves {} and not {service}, which all workers of a group have to serve alike",
                        names.join(", ")
                    ),
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

/// Two services of one channel would answer to the same name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service `{service}`: `{wire_name}` is already served by this channel; give one of them another `name`")]
pub struct ServiceConflict {
    service: &'static str,
    wire_name: &'static str,
}
