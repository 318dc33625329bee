//! A TCP proxy in front of a server, for what networks do to connections.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Listens on a port of its own, and carries connections to one port of this machine until it is dropped.
///
/// Needs a runtime of several threads, or one that does not block: it runs in the test's.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

/// Connections are counted; each knows its number.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Connections below this number carry nothing any more, and stay open.
    swallows_below: u64,
    /// Connections below this number are closed.
    closed_below: u64,
    /// New connections are closed at once.
    refuses: bool,
}

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

impl Proxy {
    /// Starts a proxy in front of the server on port `upstream`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let (weather, seen) = watch::channel(Weather::default());
        Self {
            port,
            weather,
            accepting: tokio::spawn(accept(listener, upstream, seen)),
        }
    }

    /// Where the proxy is, for clients of Redis.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Lets the connections that are open now carry nothing any more, in neither direction. They stay open, and new ones
    /// work: this is how a connection looks whose other end, or a router in between, has vanished.
    pub fn swallow(&self) {
        let next = CONNECTIONS.load(Ordering::SeqCst);
        self.weather.send_modify(|weather| weather.swallows_below = next);
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        let next = CONNECTIONS.load(Ordering::SeqCst);
        self.weather.send_modify(|weather| {
            weather.closed_below = next;
            weather.refuses = true;
        });
    }

    /// The end of [`cut`](Self::cut): new connections work.
    pub fn mend(&self) {
        self.weather.send_modify(|weather| weather.refuses = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, upstream: u16, weather: watch::Receiver<Weather>) {
    while let Ok((client, _)) = listener.accept().await {
        let number = CONNECTIONS.fetch_add(1, Ordering::SeqCst);
        if weather.borrow().refuses {
            continue;
        }
        let mut weather = weather.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else {
                return;
            };
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("an open connection");
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let watching = weather.clone();
            tokio::select! {
                () = carry(from_client, to_server, number, &watching) => {}
                () = carry(from_server, to_client, number, &watching) => {}
                _ = weather.wait_for(|weather| number < weather.closed_below) => {}
            }
        });
    }
}

/// Until somebody closes the connection.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, weather: &watch::Receiver<Weather>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if number >= weather.borrow().swallows_below && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redis::aio::MultiplexedConnection;

    use super::*;
    use crate::{RedisServer, within};

    const LIMIT: Duration = Duration::from_secs(20);

    async fn connect(proxy: &Proxy) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(proxy.url())?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_millis(300)));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn ping(connection: &mut MultiplexedConnection) -> redis::RedisResult<String> {
        redis::cmd("PING").query_async(connection).await
    }

    #[tokio::test]
    async fn what_is_swallowed_is_silent_and_what_is_cut_is_gone() {
        within(LIMIT, async {
            let server = RedisServer::start().await;
            let proxy = Proxy::start(server.port()).await;
            let mut first = connect(&proxy).await.unwrap();
            assert_eq!(ping(&mut first).await.unwrap(), "PONG");
            proxy.swallow();
            assert!(ping(&mut first).await.unwrap_err().is_timeout());
            let mut second = connect(&proxy).await.unwrap();
            assert_eq!(ping(&mut second).await.unwrap(), "PONG");
            proxy.cut();
            assert!(ping(&mut second).await.is_err());
            assert!(connect(&proxy).await.is_err());
            proxy.mend();
            let mut third = connect(&proxy).await.unwrap();
            assert_eq!(ping(&mut third).await.unwrap(), "PONG");
        })
        .await;
    }
}
