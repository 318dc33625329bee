//! What services are called and what they can do: the method table.

use std::time::Duration;

use serde::Serialize;

use crate::message::Kind;

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
    no_cancel: bool,
    dedupe: Option<Duration>,
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
            no_cancel: false,
            dedupe: None,
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

    /// Lets it run to its end when its caller gives it up.
    #[must_use]
    pub const fn no_cancel(self) -> Self {
        Self {
            no_cancel: true,
            ..self
        }
    }

    /// Keeps its results for `window`, and gives them to repeated calls.
    #[must_use]
    pub const fn dedupe(self, window: Duration) -> Self {
        Self {
            dedupe: Some(window),
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

    /// How long its results are kept for repeated calls; `None` if each call is run.
    #[must_use]
    pub const fn dedupe_window(&self) -> Option<Duration> {
        self.dedupe
    }

    /// Whether it ends early when its caller gives it up.
    #[must_use]
    pub const fn is_cancellable(&self) -> bool {
        !self.no_cancel
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

/// The service's part of a wire name: `calc` of `calc.add`.
pub(crate) fn service_of(wire_name: &str) -> &str {
    wire_name.rsplit_once('.').map_or(wire_name, |(service, _)| service)
}
