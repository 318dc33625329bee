//! One caller and one worker with nothing in them: a blocking socket each, and all that there is to say in one write, in front of
//! the blocking read. What is left of the time of a call is Redis, the kernel and waking who sleeps.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use bytes::{Bytes, BytesMut};

use super::entries::{Entry, Stop, take};
use super::worker::reply;
use super::{GROUP, REQUESTS, TRIM_EVERY, host, read_replies, read_requests, request};
use crate::consumer_group;
use crate::load::Echo;
use crate::tasks::ready;

/// How many lines Redis answers to an XADD: the length of an id, and the id.
const LINES_OF_ADD: usize = 2;

/// How many it answers to an XACK or XTRIM.
const LINES_OF_NUMBER: usize = 1;

/// How much one read of the socket takes.
const READ_SIZE: usize = 16 << 10;

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    received: BytesMut,
    /// What is written next, up to the read.
    commands: Vec<u8>,
    /// How many lines are answered to it.
    lines: usize,
    trimmed: Instant,
}

impl Connection {
    fn open(address: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(host(address)?)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket,
            received: BytesMut::new(),
            commands: Vec::new(),
            lines: 0,
            trimmed: Instant::now(),
        })
    }

    fn add(&mut self, stream: &[u8], parts: &[&[u8]]) {
        request::add(&mut self.commands, stream, parts);
        self.lines += LINES_OF_ADD;
    }

    /// Trims what has been processed, as often as the floor does.
    fn trim(&mut self, stream: &[u8], last: &[u8]) {
        if self.trimmed.elapsed() > TRIM_EVERY {
            self.trimmed = Instant::now();
            request::trim(&mut self.commands, stream, last);
            self.lines += LINES_OF_NUMBER;
        }
    }

    /// Writes all that was added, whose last command is a read, and waits for its entries.
    fn exchange(&mut self) -> anyhow::Result<Vec<Entry>> {
        self.socket.write_all(&self.commands)?;
        self.commands.clear();
        let mut needed = 1;
        loop {
            while self.received.len() < needed {
                let length = self.received.len();
                self.received.resize(length + READ_SIZE.max(needed - length), 0);
                let read = self.socket.read(&mut self.received[length..])?;
                self.received.truncate(length + read);
                ensure!(read > 0, "Redis closed the connection");
            }
            match self.take_answers() {
                Ok(entries) => return Ok(entries),
                Err(Stop::Incomplete(length)) => needed = length,
                Err(Stop::Unexpected(error)) => return Err(error),
            }
        }
    }

    /// Skips what was answered to the commands in front of the read, and takes its entries.
    fn take_answers(&mut self) -> Result<Vec<Entry>, Stop> {
        while self.lines > 0 {
            let end = self.received.iter().position(|byte| *byte == b'\n');
            let end = end.ok_or(Stop::Incomplete(self.received.len() + 1))?;
            let line = self.received.split_to(end + 1);
            if line[0] == b'-' {
                return Err(Stop::Unexpected(anyhow!("Redis refused a command")));
            }
            self.lines -= 1;
        }
        take(&mut self.received)
    }
}

/// Answers one request after the other.
pub(crate) async fn serve(address: &str) -> anyhow::Result<()> {
    consumer_group::create(address, REQUESTS, GROUP).await?;
    let mut connection = Connection::open(address)?;
    let [requests, group] = [REQUESTS.as_bytes(), GROUP.as_bytes()];
    let mut read = Vec::new();
    read_requests(&mut read);
    // The runtime is to see that this process is asked to end.
    tokio::task::spawn_blocking(move || {
        ready("");
        loop {
            connection.commands.extend_from_slice(&read);
            for entry in connection.exchange()? {
                let (inbox, reply) = reply(&entry.value)?;
                connection.add(inbox, &[reply]);
                request::command(&mut connection.commands, &[b"XACK", requests, group, &entry.id]);
                connection.lines += LINES_OF_NUMBER;
                connection.trim(requests, &entry.id);
            }
        }
    })
    .await?
}

/// A caller's connection; calls wait for each other.
#[derive(Debug, Clone)]
pub(crate) struct Client(Arc<Mutex<Inbox>>);

#[derive(Debug)]
struct Inbox {
    name: String,
    last: Bytes,
    connection: Connection,
}

impl Client {
    /// Connects, and uses the inbox of that name.
    pub(crate) fn connect(address: &str, inbox: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Inbox {
            name: inbox.to_owned(),
            last: Bytes::from_static(b"0"),
            connection: Connection::open(address)?,
        }))))
    }
}

impl Echo for Client {
    type Reply = Bytes;

    /// Blocks its thread: it has it to itself.
    async fn echo(&self, payload: &str) -> anyhow::Result<Bytes> {
        const SEQUENCE: &[u8] = b"0";
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inbox { name, last, connection } = &mut *inbox;
        let name = name.as_bytes();
        connection.add(REQUESTS.as_bytes(), &[name, b" ", SEQUENCE, b" ", payload.as_bytes()]);
        connection.trim(name, last);
        loop {
            read_replies(&mut connection.commands, name, last);
            // None if the BLOCK ran out.
            if let Some(entry) = connection.exchange()?.pop() {
                *last = entry.id;
                let reply = entry.value.get(SEQUENCE.len() + 1..).context("a reply is cut")?;
                return Ok(entry.value.slice_ref(reply));
            }
        }
    }
}
