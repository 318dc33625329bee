//! A service and an IO for unit tests: the one does what it is told, the other writes down what it is asked to send.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use async_trait::async_trait;

use crate::codec::Payload;
use crate::context::Context;
use crate::descriptor::{MethodDescriptor, ServiceDescriptor};
use crate::error::IoError;
use crate::id::SessionId;
use crate::io::{ChannelSettings, Claim, Endpoint, KeyedRun, Mode, Outgoing, Peer, RpcIo};
use crate::message::{Fault, FaultKind, Outcome};
use crate::service::{HandlerFuture, Service};

pub(crate) static METHODS: [MethodDescriptor; 3] = [
    MethodDescriptor::new("unit.call"),
    MethodDescriptor::new("unit.note").notification(),
    MethodDescriptor::new("unit.once").notification().at_most_once(),
];
static UNIT: ServiceDescriptor = ServiceDescriptor::new("unit", "", &METHODS);

/// What every method of the service does.
#[derive(Clone, Copy)]
pub(crate) enum Script {
    /// Fails so many times, then returns.
    Fail(u32),
    /// Never ends, and panics when it is dropped.
    Bomb,
    /// Cannot read its arguments.
    Misread,
}

pub(crate) struct Unit {
    pub(crate) script: Script,
    pub(crate) runs: Arc<AtomicU32>,
}

impl Unit {
    pub(crate) fn new(script: Script) -> (Self, Arc<AtomicU32>) {
        let runs = Arc::new(AtomicU32::new(0));
        let unit = Self {
            script,
            runs: Arc::clone(&runs),
        };
        (unit, runs)
    }
}

impl Service for Unit {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        &UNIT
    }

    fn call(&self, _: &'static MethodDescriptor, _: Context, _: Payload) -> HandlerFuture {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        match self.script {
            Script::Fail(fails) if run <= fails => {
                Box::pin(async { Outcome::Fault(Fault::new(FaultKind::Panicked, "on purpose")) })
            }
            Script::Fail(_) => Box::pin(async { Outcome::Returned(Payload::empty()) }),
            Script::Misread => {
                Box::pin(async { Outcome::Fault(Fault::new(FaultKind::BadArguments, "argument `a` is missing")) })
            }
            Script::Bomb => Box::pin(async {
                let _bomb = Bomb;
                pending().await
            }),
        }
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, in a test");
    }
}

/// Sends nothing anywhere; acknowledgements are never confirmed.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) session: SessionId,
    pub(crate) mode: Mode,
    pub(crate) settings: ChannelSettings,
    pub(crate) peers: Vec<Peer>,
    pub(crate) peers_asked: AtomicU32,
    pub(crate) sent: Mutex<Vec<Outgoing>>,
    /// What it has to say to whoever has it fetch arguments; if nothing, he waits for ever.
    pub(crate) fetched: Mutex<Option<Result<Payload, Fault>>>,
    pub(crate) endpoint: OnceLock<Arc<dyn Endpoint>>,
}

impl Noted {
    pub(crate) fn new(mode: Mode, settings: ChannelSettings, peers: Vec<Peer>) -> Arc<Self> {
        Arc::new(Self {
            session: SessionId::generate(),
            mode,
            settings,
            peers,
            peers_asked: AtomicU32::new(0),
            sent: Mutex::default(),
            fetched: Mutex::default(),
            endpoint: OnceLock::new(),
        })
    }
}

#[async_trait]
impl RpcIo for Arc<Noted> {
    fn session(&self) -> SessionId {
        self.session
    }

    fn stream(&self) -> &str {
        "test"
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn settings(&self) -> ChannelSettings {
        self.settings
    }

    async fn open(&self, endpoint: Arc<dyn Endpoint>, _: &[&'static ServiceDescriptor]) -> Result<(), IoError> {
        assert!(self.endpoint.set(endpoint).is_ok());
        Ok(())
    }

    fn send(&self, message: Outgoing) {
        self.sent.lock().unwrap().push(message);
    }

    async fn peers(&self) -> Result<Vec<Peer>, IoError> {
        self.peers_asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.peers.clone())
    }

    async fn backlog(&self) -> Result<Option<u64>, IoError> {
        Ok(None)
    }

    async fn fetch(&self, _: &Payload) -> Result<Payload, Fault> {
        let fetched = self.fetched.lock().unwrap().take();
        match fetched {
            Some(fetched) => fetched,
            None => pending().await,
        }
    }

    async fn claim(&self, _: &KeyedRun) -> Result<Claim, IoError> {
        Ok(Claim::Granted)
    }

    async fn drain(&self) {}

    async fn close(&self) {}

    fn abort(&self) {}
}
