//! Callers that call again as soon as they have their answer.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

/// The calling side of a contender.
pub(crate) trait Echo: Clone + Send + Sync + 'static {
    /// What comes back.
    type Reply: AsRef<[u8]>;

    /// Calls the worker, which answers with what it was given.
    fn echo(&self, payload: &str) -> impl Future<Output = anyhow::Result<Self::Reply>> + Send;
}

/// How callers call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// How many calls are under way at once.
    pub(crate) callers: usize,
    /// Bytes of each call and of each answer.
    pub(crate) payload: usize,
    /// For how long calls are begun.
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How long each call took, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// From the first call to the last answer.
    pub(crate) elapsed: Duration,
}

impl Load {
    /// Spreads the callers over `clients` and lets them call until the time is up.
    pub(crate) async fn run<C: Echo>(&self, clients: &[C]) -> anyhow::Result<Outcome> {
        // Made beforehand, so that no caller counts its making.
        let latencies = Arc::new(Mutex::new(Histogram::new_with_max(600_000_000_000, 3)?));
        let payloads: Vec<String> = (0..self.callers).map(|caller| payload(caller, self.payload)).collect();
        let begin = Instant::now();
        let end = begin + self.time;
        let mut callers = JoinSet::new();
        for (client, payload) in clients.iter().cycle().zip(payloads) {
            callers.spawn(call_until(end, client.clone(), payload, Arc::clone(&latencies)));
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        let elapsed = begin.elapsed();
        let latencies = Arc::into_inner(latencies).context("a caller has not ended")?;
        Ok(Outcome {
            latencies: latencies.into_inner().unwrap_or_else(PoisonError::into_inner),
            elapsed,
        })
    }
}

async fn call_until(
    end: Instant,
    client: impl Echo,
    payload: String,
    latencies: Arc<Mutex<Histogram<u64>>>,
) -> anyhow::Result<()> {
    let mut now = Instant::now();
    while now < end {
        let reply = client.echo(&payload).await?;
        let then = std::mem::replace(&mut now, Instant::now());
        // Also tells a reply that went to the wrong caller.
        ensure!(
            reply.as_ref() == payload.as_bytes(),
            "a call was not answered with its own payload"
        );
        let nanos = u64::try_from((now - then).as_nanos())?;
        latencies.lock().unwrap_or_else(PoisonError::into_inner).record(nanos)?;
    }
    Ok(())
}

/// As many bytes, another text for each caller, nothing that JSON would have to escape.
pub(crate) fn payload(caller: usize, length: usize) -> String {
    let mut payload = format!("{caller}-");
    payload.extend(std::iter::repeat_n("0123456789abcdef", length / 16 + 1));
    payload.truncate(length);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_length_and_differ() {
        assert_eq!(payload(17, 32), "17-0123456789abcdef0123456789abc");
        assert_ne!(payload(1, 32), payload(17, 32));
        assert_eq!(payload(1023, 4).len(), 4);
    }

    #[derive(Clone)]
    struct Instantly;

    impl Echo for Instantly {
        type Reply = String;

        async fn echo(&self, payload: &str) -> anyhow::Result<String> {
            tokio::task::yield_now().await;
            Ok(payload.to_owned())
        }
    }

    #[tokio::test]
    async fn all_callers_call_until_the_time_is_up() {
        let load = Load {
            callers: 3,
            payload: 32,
            time: Duration::from_millis(20),
        };
        let outcome = load.run(&[Instantly, Instantly]).await.unwrap();
        assert!(outcome.latencies.len() >= 3 && outcome.elapsed >= load.time);
    }
}
