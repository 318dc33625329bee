//! One connection to Redis: commands and their answers.

use std::future::Future;
use std::io::{self, IoSlice};
use std::time::Duration;

use redis::{Cmd, Pipeline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::commands::Commands;
use crate::pieces::Pieces;
use crate::resp::{Decoder, Garbled, Value};
use crate::socket::Socket;

/// How long a write may stay unanswered before its connection counts as dead. Longer than a Redis that pauses to load
/// or to fork: what is repeated on a new connection may run twice.
pub(crate) const WRITE_LIMIT: Duration = Duration::from_secs(12);

/// One connection, for one question at a time.
pub(crate) struct Connection {
    socket: Box<dyn Socket>,
    /// How many bytes have to be there before this process is woken.
    wakes_at: usize,
    decoder: Decoder,
    /// A question was not asked or not answered to its end: what comes next would be taken for the answer to another.
    broken: bool,
}

/// Why a command or pipeline has no answer.
pub(crate) enum Broken {
    /// The connection is of no use any more.
    Lost(io::Error),
    /// Something was received that is not of Redis's protocol.
    Garbled(Garbled),
    /// Nothing came in time.
    Silent,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(error) => error.fmt(f),
            Self::Garbled(garbled) => garbled.fmt(f),
            Self::Silent => f.write_str("no answer in time"),
        }
    }
}

impl Connection {
    pub(crate) fn new(socket: Box<dyn Socket>) -> Self {
        Self {
            socket,
            wakes_at: 1,
            decoder: Decoder::default(),
            broken: false,
        }
    }

    /// Sends all commands at once; returns one answer for each. An error that Redis gives to one of them is its answer.
    ///
    /// A connection that did not answer, or whose user did not wait for it, fails from then on.
    pub(crate) async fn run(&mut self, pipeline: &Pipeline, limit: Duration) -> Result<Vec<Value>, Broken> {
        self.exchange(&pipeline.get_packed_pipeline().into(), pipeline.len(), limit)
            .await
    }

    /// The same, of commands that were not built with the redis crate.
    pub(crate) async fn ask(&mut self, commands: &Commands, limit: Duration) -> Result<Vec<Value>, Broken> {
        self.exchange(commands.pieces(), commands.len(), limit).await
    }

    /// Sends one command; an error that Redis gives is the answer.
    pub(crate) async fn one(&mut self, command: Cmd, limit: Duration) -> Result<Value, Broken> {
        let mut answers = self.exchange(&command.get_packed_command().into(), 1, limit).await?;
        Ok(answers.pop().unwrap_or_default())
    }

    /// Sends commands and receives `count` answers, within `limit`.
    pub(crate) async fn exchange(
        &mut self,
        commands: &Pieces,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Value>, Broken> {
        self.send(commands, limit).await?;
        self.receive(count, limit).await
    }

    /// Sends commands; their answers are to be received. Fails if nothing is taken for as long as `limit`: where nobody
    /// receives, sending ends when the buffers on the way are full.
    pub(crate) async fn send(&mut self, commands: &Pieces, limit: Duration) -> Result<(), Broken> {
        if self.broken {
            let why = "the connection was given up";
            return Err(Broken::Lost(io::Error::new(io::ErrorKind::NotConnected, why)));
        }
        self.broken = true;
        let mut slices = commands.slices();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sent = within(limit, self.socket.write_vectored(rest)).await?;
            if sent == 0 {
                return Err(Broken::Lost(io::ErrorKind::WriteZero.into()));
            }
            IoSlice::advance_slices(&mut rest, sent);
        }
        within(limit, self.socket.flush()).await?;
        self.broken = false;
        Ok(())
    }

    /// The next `count` answers. The connection fails if nothing is received for as long as `limit`, or nobody waits for
    /// them.
    pub(crate) async fn receive(&mut self, count: usize, limit: Duration) -> Result<Vec<Value>, Broken> {
        self.broken = true;
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            answers.push(self.next(limit).await?);
        }
        self.broken = false;
        Ok(answers)
    }

    /// Stands in for a connection that somebody else has for a while.
    pub(crate) fn given_away() -> Self {
        Self {
            broken: true,
            ..Self::new(Box::new(tokio::io::empty()))
        }
    }

    /// Waits for more than `size` bytes of answers that are of no interest by themselves, until `hurry` is done: to wake this
    /// process costs more than they are worth.
    pub(crate) async fn linger(&mut self, size: usize, hurry: impl Future<Output = ()>) -> Result<(), Broken> {
        self.wake_at(size + 1);
        tokio::select! {
            biased;
            filled = self.fill() => filled.map_err(Broken::Lost),
            () = hurry => Ok(()),
        }
    }

    fn wake_at(&mut self, bytes: usize) {
        if self.wakes_at != bytes {
            self.wakes_at = bytes;
            self.socket.wake_at(bytes);
        }
    }

    async fn next(&mut self, limit: Duration) -> Result<Value, Broken> {
        loop {
            if let Some(answer) = self.decoder.next().map_err(Broken::Garbled)? {
                return Ok(answer);
            }
            self.wake_at(1);
            within(limit, self.fill()).await?;
        }
    }

    /// Receives something. Cancel safe.
    async fn fill(&mut self) -> io::Result<()> {
        match self.socket.read_buf(&mut self.decoder.room()).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// The limit is one for silence: what is large takes long on a slow line.
async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> Result<T, Broken> {
    match timeout(limit, step).await {
        Ok(done) => done.map_err(Broken::Lost),
        Err(_) => Err(Broken::Silent),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    #[cfg(target_os = "linux")]
    use tokio::net::TcpStream;

    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn lingering_ends_with_the_first_byte_more_than_is_known_already() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut redis, _) = listener.accept().await.unwrap();
        let mut connection = Connection::new(Box::new(socket));
        let limit = Duration::from_secs(20);
        redis.write_all(b"+OK\r\n").await.unwrap();
        let mut hurried = false;
        let hurry = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            hurried = true;
        };
        assert!(connection.linger(5, hurry).await.is_ok());
        assert!(hurried, "woken for what is of no interest");
        // All the same it is there for who asks for it.
        assert!(connection.receive(1, limit).await.is_ok());

        redis.write_all(b"+OK\r\n+").await.unwrap();
        let lingered = timeout(limit, connection.linger(5, std::future::pending())).await;
        assert!(matches!(lingered, Ok(Ok(()))));
        redis.write_all(b"MORE\r\n").await.unwrap();
        assert!(connection.receive(2, limit).await.is_ok());

        drop(redis);
        let lingered = timeout(limit, connection.linger(5, std::future::pending())).await;
        assert!(matches!(lingered, Ok(Err(Broken::Lost(_)))));
    }

    #[tokio::test]
    async fn sending_to_somebody_who_does_not_receive_ends_at_the_limit() {
        let (socket, _silent) = duplex(64);
        let mut connection = Connection::new(Box::new(socket));
        let mut large = redis::cmd("SET");
        large.arg("key").arg(vec![0; 1 << 20]);
        let answer = connection.one(large, Duration::from_millis(50)).await;
        assert!(matches!(answer, Err(Broken::Silent)));
        // What was sent in part is not to be followed by something else.
        let answer = connection.one(redis::cmd("PING"), Duration::from_secs(5)).await;
        assert!(matches!(answer, Err(Broken::Lost(_))));
    }
}
