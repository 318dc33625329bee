//! The service that the behaviours call.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_core::{Context, service};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProbeError {
    Code(u32),
    Told { reason: String },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) session: String,
    pub(crate) method: String,
    pub(crate) token: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) left: Option<Duration>,
}

#[service(name = "probe")]
pub(crate) trait Probe {
    async fn echo(&self, text: String) -> String;
    /// The text so many times.
    async fn repeat(&self, text: String, times: usize) -> String;
    async fn bytes(&self, data: Vec<u8>) -> Vec<u8>;
    async fn fail(&self, code: u32) -> Result<u32, ProbeError>;
    async fn panic(&self) -> u32;
    /// Waits until the test opens the gate.
    async fn gated(&self, n: u64) -> u64;
    /// The same, and a caller who gives it up does not stop it.
    #[rpc(no_cancel)]
    async fn stubborn(&self, n: u64) -> u64;
    /// Waits for its token to fire, and tells the test; it is not dropped before, because it waits elsewhere.
    async fn until_cancelled(&self, #[ctx] cx: &Context) -> u32;
    /// Waits for the gate, and says which run this was; repeated calls get the same answer.
    #[rpc(dedupe = "1s")]
    async fn once(&self) -> u64;
    /// Fails or panics at the first runs, and says which run this was.
    #[rpc(dedupe = "10m")]
    async fn once_if(&self, fails: u64, panics: u64) -> Result<u64, String>;
    #[rpc(notify, dedupe = "10m")]
    async fn note_once(&self, n: u64);
    async fn who(&self) -> String;
    async fn seen(&self, #[ctx] cx: &Context) -> Seen;
    async fn sum(&self, a: i64, b: Option<i64>) -> i64;
    #[rpc(notify)]
    async fn note(&self, n: u64);
    /// Fails so many times, then succeeds.
    #[rpc(notify)]
    async fn flaky(&self, fails: u64) -> Result<(), String>;
    /// Never ends, and panics when it is dropped.
    async fn bomb(&self) -> u32;
    /// Blocks its thread until the test opens the gate.
    async fn block(&self) -> u32;
    /// Calls the caller back, who calls back, and so on.
    async fn ping_pong(&self, #[ctx] cx: &Context, depth: u32) -> Result<u32, String>;
}

/// What an older version of the client believes.
pub(crate) mod older {
    #[rpc_core::service(name = "probe")]
    pub(crate) trait Probe {
        async fn sum(&self, a: i64) -> i64;
        async fn echo(&self, number: u32) -> String;
        async fn gone(&self) -> u32;
    }
}

/// A service that has nothing to do with the other.
pub(crate) mod other {
    #[rpc_core::service]
    pub(crate) trait Other {
        async fn thing(&self) -> u32;
    }

    impl Other for u32 {
        async fn thing(&self) -> u32 {
            *self
        }
    }
}

/// Shared with the test, which looks in and holds the gate.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) name: String,
    pub(crate) gate: Semaphore,
    pub(crate) notes: Mutex<Vec<u64>>,
    pub(crate) gated: Mutex<Vec<u64>>,
    pub(crate) runs: AtomicU64,
    pub(crate) running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
}

impl Observed {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            gate: Semaphore::new(0),
            notes: Mutex::default(),
            gated: Mutex::default(),
            runs: AtomicU64::new(0),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
        })
    }

    pub(crate) fn open_gate(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

/// Counts a handler as running, until it ends or is dropped.
struct Running<'a>(&'a Observed);

impl<'a> Running<'a> {
    fn new(observed: &'a Observed) -> Self {
        observed.runs.fetch_add(1, Ordering::SeqCst);
        let now = observed.running.fetch_add(1, Ordering::SeqCst) + 1;
        observed.most_running.fetch_max(now, Ordering::SeqCst);
        Self(observed)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Probe for Arc<Observed> {
    async fn echo(&self, text: String) -> String {
        let _running = Running::new(self);
        text
    }

    async fn repeat(&self, text: String, times: usize) -> String {
        text.repeat(times)
    }

    async fn bytes(&self, data: Vec<u8>) -> Vec<u8> {
        data
    }

    async fn fail(&self, code: u32) -> Result<u32, ProbeError> {
        match code {
            0 => Ok(0),
            1 => Err(ProbeError::Told {
                reason: "süß & \"quoted\"".to_owned(),
            }),
            code => Err(ProbeError::Code(code)),
        }
    }

    async fn panic(&self) -> u32 {
        panic!("on purpose, in a test")
    }

    async fn gated(&self, n: u64) -> u64 {
        let _running = Running::new(self);
        self.gated.lock().unwrap().push(n);
        self.gate.acquire().await.unwrap().forget();
        n
    }

    async fn stubborn(&self, n: u64) -> u64 {
        self.gated(n).await
    }

    async fn until_cancelled(&self, cx: &Context) -> u32 {
        let _running = Running::new(self);
        let (observed, cancelled) = (Arc::clone(self), cx.cancellation().clone());
        tokio::spawn(async move {
            cancelled.cancelled().await;
            observed.notes.lock().unwrap().push(1);
        });
        std::future::pending().await
    }

    async fn once(&self) -> u64 {
        let _running = Running::new(self);
        let run = self.runs();
        self.gate.acquire().await.unwrap().forget();
        run
    }

    async fn once_if(&self, fails: u64, panics: u64) -> Result<u64, String> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(run > panics, "on purpose, in a test");
        if run <= panics + fails {
            Err(format!("failure {run}"))
        } else {
            Ok(run)
        }
    }

    async fn note_once(&self, n: u64) {
        self.notes.lock().unwrap().push(n);
    }

    async fn who(&self) -> String {
        let _running = Running::new(self);
        self.name.clone()
    }

    async fn seen(&self, cx: &Context) -> Seen {
        Seen {
            session: cx.session().to_string(),
            method: cx.method().to_owned(),
            token: cx.headers().get("token").map(str::to_owned),
            attempt: cx.attempt(),
            left: cx.time_left(),
        }
    }

    async fn sum(&self, a: i64, b: Option<i64>) -> i64 {
        a + b.unwrap_or(100)
    }

    async fn note(&self, n: u64) {
        self.notes.lock().unwrap().push(n);
    }

    async fn flaky(&self, fails: u64) -> Result<(), String> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        if run <= fails {
            Err(format!("failure {run}"))
        } else {
            Ok(())
        }
    }

    async fn bomb(&self) -> u32 {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("on purpose, in a test");
            }
        }
        let _running = Running::new(self);
        let _bomb = Bomb;
        std::future::pending().await
    }

    async fn block(&self) -> u32 {
        let _running = Running::new(self);
        while self.gate.available_permits() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        0
    }

    async fn ping_pong(&self, cx: &Context, depth: u32) -> Result<u32, String> {
        if depth == 0 {
            return Ok(0);
        }
        let deeper = ProbeClient::new(cx.caller()).ping_pong(depth - 1).await;
        deeper.map(|n| n + 1).map_err(|error| error.to_string())
    }
}

pub(crate) fn server(observed: &Arc<Observed>) -> ProbeServer<Arc<Observed>> {
    ProbeServer::new(Arc::clone(observed))
}
