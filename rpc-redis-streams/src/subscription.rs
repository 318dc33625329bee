//! Following a broadcast stream: how far it has been read, and what was missed of it.

use std::time::Duration;

use rpc_core::EntryId;
use rpc_core::io::Endpoint;
use tokio::time::Instant;

use crate::config::Start;
use crate::connection::Connection;
use crate::connector::Connector;
use crate::error::RedisStreamsError;
use crate::extent::{Extent, last_id};
use crate::gaps::{Gaps, Missed};
use crate::lasting::Lasting;
use crate::shared::Shared;

/// How often it is looked whether something was missed, while something comes.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// One subscriber's place in the stream.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// The last entry that has been read.
    cursor: EntryId,
    gaps: Gaps,
    /// Whether something has come since the last look, and when that was.
    has_news: bool,
    looked: Instant,
    /// What was missed in all.
    total: u64,
    missing: Lasting,
}

impl Subscription {
    /// Begins where the configuration says.
    pub(crate) async fn start(io: &Shared, connection: &mut Connection) -> Result<Self, RedisStreamsError> {
        let stream = &io.destination.keys.requests;
        let extent = match extent(connection, &io.connector, stream).await {
            Ok(extent) => extent,
            // Scripts may be forbidden. Then what is missed is not noticed.
            Err(RedisStreamsError::CommandRefused { .. }) => Extent {
                last: last_id(connection, &io.connector, stream).await?,
                ..Extent::default()
            },
            Err(error) => return Err(error),
        };
        let cursor = match io.config.start() {
            Start::Beginning => EntryId::ZERO,
            Start::After(id) => id,
            Start::Now => extent.last,
        };
        Ok(Self {
            cursor,
            gaps: Gaps::new(cursor, &extent),
            has_news: false,
            looked: Instant::now(),
            total: 0,
            missing: Lasting::default(),
        })
    }

    /// The last entry that has been read.
    pub(crate) fn cursor(&self) -> EntryId {
        self.cursor
    }

    /// So many entries were read, of which `last` is the last.
    pub(crate) fn read(&mut self, entries: usize, last: EntryId) {
        self.cursor = last;
        self.gaps.read(entries);
        self.has_news = true;
    }

    /// The stream was found to end at `last`. One that ends before what was read is another one, under the same name: it is
    /// read from its start.
    pub(crate) fn ends_at(&mut self, last: EntryId, stream: &str) {
        let read = self.cursor;
        if last < read {
            tracing::warn!(stream, %last, %read, "the stream was replaced (redis has lost data, or somebody deleted it); reading it from its start");
            self.cursor = EntryId::ZERO;
            self.gaps = Gaps::of_new_stream();
        }
    }

    /// How long until it is time to look for what was missed; `None` while nothing new has come.
    pub(crate) fn until_look(&self) -> Option<Duration> {
        self.has_news
            .then(|| LOOK_INTERVAL.saturating_sub(self.looked.elapsed()))
    }

    /// Looks for what was missed, counts it and says so. Not while something is being read.
    ///
    /// # Errors
    /// When the connection is of no use any more.
    pub(crate) async fn look(
        &mut self,
        io: &Shared,
        endpoint: &dyn Endpoint,
        connection: &mut Connection,
    ) -> Result<(), RedisStreamsError> {
        self.has_news = false;
        self.looked = Instant::now();
        let extent = match extent(connection, &io.connector, &io.destination.keys.requests).await {
            Ok(extent) => extent,
            Err(RedisStreamsError::CommandRefused { answer, .. }) => {
                tracing::debug!(answer, "it is not known whether requests were missed");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (missed, at_least) = match self.gaps.look(self.cursor, &extent) {
            Missed::Exactly(missed) => (missed, false),
            Missed::AtLeast(missed) => (missed, true),
        };
        if missed == 0 {
            return Ok(());
        }
        endpoint.missed(missed);
        self.total += missed;
        if self.missing.is_due() {
            tracing::warn!(
                stream = io.destination.keys.requests,
                missed,
                at_least,
                total = self.total,
                "requests were trimmed before this subscriber could read them: raise `max_len` if it must not miss any"
            );
        }
        Ok(())
    }
}

async fn extent(connection: &mut Connection, connector: &Connector, stream: &str) -> Result<Extent, RedisStreamsError> {
    const COMMAND: &str = "EVAL of XINFO STREAM";
    let mut question = redis::pipe();
    question.add_command(Extent::question(stream));
    let answer = connector.ask(connection, COMMAND, &question).await?.pop();
    let answer = answer.unwrap_or_default();
    Extent::read(answer.clone()).ok_or_else(|| RedisStreamsError::unexpected(COMMAND, answer))
}
