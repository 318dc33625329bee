//! A TCP proxy before Redis, for what networks do: connections that are reset in the middle of a batch, that swallow what
//! is sent, that are slow.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock::{self, Micros};

/// Smaller chunks are not cut: there is no middle of a batch in them.
const WORTH_CUTTING: usize = 100;

/// How many bytes may be on their way in one direction of one connection.
const MOST_DELAYED: usize = 4 << 20;

/// Listens on a port of its own, and carries connections to one port of this machine until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// The way that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To Redis.
    Up,
    /// From Redis.
    Down,
}

#[derive(Debug, Default)]
struct Shared {
    upstream: u16,
    connections: Mutex<Vec<Arc<Connection>>>,
    refuses: AtomicBool,
    delay_us: AtomicU64,
    jitter_us: AtomicU64,
    cuts_up: Cuts,
    cuts_down: Cuts,
}

/// Whether a chunk is to be cut, and how many have been.
#[derive(Debug, Default)]
struct Cuts {
    ordered: AtomicBool,
    made: AtomicU64,
}

#[derive(Debug, Default)]
struct Connection {
    opened: Micros,
    /// When it was first used for a blocking read.
    reads: OnceLock<Micros>,
    swallows: AtomicBool,
    closed: AtomicBool,
    reset: Notify,
}

impl Proxy {
    /// Starts a proxy before the server on this port.
    pub(crate) async fn start(upstream: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            upstream,
            ..Shared::default()
        });
        let accepting = tokio::spawn(Arc::clone(&shared).accept(listener));
        Ok(Self {
            port,
            shared,
            accepting,
        })
    }

    /// Where the proxy is, for clients of Redis.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Resets the connection on which the next larger chunk goes in this direction, after half of that chunk: with RST, at
    /// both ends.
    pub(crate) fn cut_in_mid_chunk(&self, direction: Direction) {
        self.shared.cuts(direction).ordered.store(true, Ordering::Relaxed);
    }

    /// How many connections were reset in the middle of a chunk that went in this direction.
    pub(crate) fn cuts_made(&self, direction: Direction) -> u64 {
        self.shared.cuts(direction).made.load(Ordering::Relaxed)
    }

    /// All connections that are open now carry nothing any more, in neither direction, and stay open; new ones work.
    pub(crate) fn swallow_on_open_connections(&self) {
        for connection in self.shared.connections().iter() {
            connection.swallows.store(true, Ordering::Relaxed);
        }
    }

    /// Resets the connections that swallow.
    pub(crate) fn reset_swallowing(&self) {
        let connections = self.shared.connections();
        let swallowing = connections
            .iter()
            .filter(|connection| connection.swallows.load(Ordering::Relaxed));
        swallowing.for_each(|connection| connection.reset.notify_one());
    }

    /// Resets all connections, and whoever connects again, until told otherwise.
    pub(crate) fn refuse(&self, refuses: bool) {
        let connections = self.shared.connections();
        self.shared.refuses.store(refuses, Ordering::Relaxed);
        if refuses {
            connections.iter().for_each(|connection| connection.reset.notify_one());
        }
    }

    /// From now on every chunk takes `delay`, and up to `jitter` more or less, in each direction; the order stays.
    pub(crate) fn delay(&self, delay: Duration, jitter: Duration) {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).expect("a short time");
        self.shared.delay_us.store(micros(delay), Ordering::Relaxed);
        self.shared.jitter_us.store(micros(jitter), Ordering::Relaxed);
    }

    /// How many open connections have been used for blocking reads.
    pub(crate) fn readers(&self) -> usize {
        let connections = self.shared.connections();
        let open = connections
            .iter()
            .filter(|connection| !connection.closed.load(Ordering::Relaxed));
        open.filter(|connection| connection.reads.get().is_some()).count()
    }

    /// When connections that were opened after `at` were first used for blocking reads, in this order.
    pub(crate) fn readers_since(&self, at: Micros) -> Vec<Micros> {
        let connections = self.shared.connections();
        let new = connections.iter().filter(|connection| connection.opened >= at);
        let mut times: Vec<Micros> = new.filter_map(|connection| connection.reads.get().copied()).collect();
        times.sort_unstable();
        times
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.refuse(true);
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cuts(&self, direction: Direction) -> &Cuts {
        match direction {
            Direction::Up => &self.cuts_up,
            Direction::Down => &self.cuts_down,
        }
    }

    /// Whether the next chunk is to be cut; true once for each cut that was ordered.
    fn take_cut(&self, direction: Direction) -> bool {
        let cuts = self.cuts(direction);
        let ordered = cuts.ordered.swap(false, Ordering::Relaxed);
        cuts.made.fetch_add(u64::from(ordered), Ordering::Relaxed);
        ordered
    }

    fn time_to_deliver(&self) -> Option<Duration> {
        let delay = self.delay_us.load(Ordering::Relaxed);
        let jitter = self.jitter_us.load(Ordering::Relaxed);
        let micros = (delay + fastrand::u64(0..=2 * jitter)).saturating_sub(jitter);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((client, _)) = listener.accept().await else {
                continue;
            };
            let Some(connection) = self.admit() else {
                let _ = client.set_zero_linger();
                continue;
            };
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                // Redis is down: then so is the way to it.
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)).await {
                    shared.carry(&connection, client, server).await;
                } else {
                    let _ = client.set_zero_linger();
                }
                connection.closed.store(true, Ordering::Relaxed);
            });
        }
    }

    /// Enters a new connection, unless there are to be none: in one step, so that none slips through.
    fn admit(&self) -> Option<Arc<Connection>> {
        let mut connections = self.connections();
        if self.refuses.load(Ordering::Relaxed) {
            return None;
        }
        let connection = Arc::new(Connection {
            opened: clock::now(),
            ..Connection::default()
        });
        connections.push(Arc::clone(&connection));
        Some(connection)
    }

    async fn carry(&self, connection: &Connection, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let end = tokio::select! {
            end = self.pump(connection, Direction::Up, &mut from_client, &mut to_server) => end,
            end = self.pump(connection, Direction::Down, &mut from_server, &mut to_client) => end,
            () = connection.reset.notified() => End::Reset,
        };
        if end == End::Reset {
            let _ = to_client.as_ref().set_zero_linger();
            let _ = to_server.as_ref().set_zero_linger();
        }
    }

    /// Carries bytes in one direction until somebody closes the connection, or it is to be reset.
    async fn pump(
        &self,
        connection: &Connection,
        direction: Direction,
        from: &mut OwnedReadHalf,
        to: &mut OwnedWriteHalf,
    ) -> End {
        let mut buffer = vec![0; 64 << 10];
        // What is on its way, and when it arrives.
        let mut delayed: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
        loop {
            let on_its_way: usize = delayed.iter().map(|(_, chunk)| chunk.len()).sum();
            let next = delayed.front().map(|(at, _)| *at);
            let swallows = || connection.swallows.load(Ordering::Relaxed);
            tokio::select! {
                read = from.read(&mut buffer), if on_its_way < MOST_DELAYED => {
                    let chunk = match read {
                        Ok(0) | Err(_) => return End::Closed,
                        Ok(length) => &buffer[..length],
                    };
                    if swallows() {
                        continue;
                    }
                    if direction == Direction::Up && connection.reads.get().is_none() && is_blocking_read(chunk) {
                        let _ = connection.reads.set(clock::now());
                    }
                    if chunk.len() >= WORTH_CUTTING && self.take_cut(direction) {
                        let _ = to.write_all(&chunk[..chunk.len() / 2]).await;
                        return End::Reset;
                    }
                    match self.time_to_deliver() {
                        None if delayed.is_empty() => {
                            if to.write_all(chunk).await.is_err() {
                                return End::Closed;
                            }
                        }
                        delay => {
                            let at = Instant::now() + delay.unwrap_or_default();
                            // Bytes don't overtake each other.
                            let at = delayed.back().map_or(at, |(last, _)| at.max(*last));
                            delayed.push_back((at, chunk.to_vec()));
                        }
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some((_, chunk)) = delayed.pop_front()
                        && !swallows()
                        && to.write_all(&chunk).await.is_err()
                    {
                        return End::Closed;
                    }
                }
            }
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// Whether XREAD or XREADGROUP begins in this chunk, as far as can be told without parsing.
fn is_blocking_read(chunk: &[u8]) -> bool {
    chunk.windows(5).any(|window| window == b"XREAD")
}
