//! The connection over which a server beats: each question has one limit for all of its answers.

use std::io;
use std::time::{Duration, Instant};

use redis::{ConnectionLike, RedisError, RedisResult, Value};

/// A connection of the redis crate, whose own limit is one for each answer, and which goes on waiting for the others of a
/// pipeline after one has not come: a beat of seven commands would take seven times as long to fail.
pub(crate) struct PatientConnection {
    inner: redis::Connection,
    limit: Duration,
}

impl PatientConnection {
    pub(crate) fn new(inner: redis::Connection, limit: Duration) -> RedisResult<Self> {
        inner.set_write_timeout(Some(limit))?;
        Ok(Self { inner, limit })
    }

    fn answers(&mut self, question: &[u8], count: usize) -> RedisResult<Vec<Value>> {
        let until = Instant::now() + self.limit;
        self.inner.send_packed_command(question)?;
        let mut answers = Vec::with_capacity(count);
        while answers.len() < count {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(silence());
            }
            self.inner.set_read_timeout(Some(left))?;
            // A socket on which nothing comes in time says "resource temporarily unavailable".
            let answer = self.inner.recv_response();
            answers.push(answer.map_err(|error| if error.is_timeout() { silence() } else { error })?);
        }
        Ok(answers)
    }
}

fn silence() -> RedisError {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into()
}

impl ConnectionLike for PatientConnection {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        Ok(self.answers(command, 1)?.pop().unwrap_or(Value::Nil))
    }

    fn req_packed_commands(&mut self, commands: &[u8], offset: usize, count: usize) -> RedisResult<Vec<Value>> {
        let mut answers = self.answers(commands, offset + count)?;
        Ok(answers.split_off(offset))
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }

    fn check_connection(&mut self) -> bool {
        self.inner.check_connection()
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_pipeline_without_answers_fails_within_one_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            // What the client says of itself on connecting is answered; nothing after that is.
            let received = socket.read(&mut buffer).unwrap();
            let commands = buffer[..received].iter().filter(|byte| **byte == b'*').count();
            socket.write_all(&b"+OK\r\n".repeat(commands)).unwrap();
            while socket.read(&mut buffer).is_ok_and(|received| received > 0) {}
        });
        let client = redis::Client::open(url).unwrap();
        let limit = Duration::from_millis(300);
        let inner = client.get_connection_with_timeout(Duration::from_secs(5)).unwrap();
        let mut connection = PatientConnection::new(inner, limit).unwrap();
        let mut questions = redis::pipe();
        for _ in 0..7 {
            questions.cmd("PING");
        }
        let begun = Instant::now();
        assert!(questions.exec(&mut connection).is_err());
        let taken = begun.elapsed();
        assert!(taken >= limit && taken < 3 * limit, "{taken:?}");
        drop(connection);
        server.join().unwrap();
    }
}
