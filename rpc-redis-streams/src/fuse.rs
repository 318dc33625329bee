//! Writing what is ready in front of a blocking read, in the same write on the reader's connection: Redis and this process
//! are woken once instead of twice.
//!
//! A reader that is about to block offers its connection for a moment. If the writer has something small to write just
//! then, it writes that and the blocking read together, reads its own answers, and gives the connection back to wait on.
//! What comes later, while the read is blocked, goes over the writer's own connection: a write never waits behind a BLOCK.

use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::commands::Commands;
use crate::connection::{Broken, Connection};
use crate::resp::Value;
use crate::shared::WATCHDOG;
use crate::turns::let_others_run;

/// How long an offer stands: those whom the last answer has woken, callers or handlers, get their turn; then the writer, whom
/// they wake; and the writer once more, because it lets others add to what it writes.
const TURNS: usize = 3;

/// Where a reader leaves its connection, and the writer finds it.
#[derive(Default)]
pub(crate) struct Fuse {
    offer: Mutex<Option<Offer>>,
}

/// A connection whose reader is about to block.
pub(crate) struct Offer {
    connection: Connection,
    /// The blocking read, and what is asked along with it.
    read: Commands,
    /// How long it blocks at the most.
    block: Duration,
    back: oneshot::Sender<Result<Connection, Broken>>,
}

impl Fuse {
    fn offer(&self) -> MutexGuard<'_, Option<Offer>> {
        self.offer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `read`, which blocks for so long, over `connection`, behind what the writer has to write, and waits for the answers.
    pub(crate) async fn read(
        &self,
        connection: &mut Connection,
        read: Commands,
        block: Duration,
    ) -> Result<Vec<Value>, Broken> {
        let (count, limit) = (read.len(), block + WATCHDOG);
        let (back, returned) = oneshot::channel();
        *self.offer() = Some(Offer {
            connection: mem::replace(connection, Connection::given_away()),
            read,
            block,
            back,
        });
        for _ in 0..TURNS {
            let_others_run().await;
            if self.offer().is_none() {
                break;
            }
        }
        // Taken out in a statement of its own: the lock is not held while anything is sent.
        let offer = self.offer().take();
        *connection = match offer {
            Some(mut offer) => {
                offer.connection.send(offer.read.pieces(), limit).await?;
                offer.connection
            }
            // The writer waits longer than a reader may, because what it repeats may run twice.
            None => match timeout(limit, returned).await {
                Ok(back) => back.unwrap_or_else(|_| Err(Broken::Lost(io::ErrorKind::ConnectionAborted.into())))?,
                Err(_) => return Err(Broken::Silent),
            },
        };
        connection.receive(count, limit).await
    }

    /// Takes the connection of a reader that is about to block, if there is one.
    pub(crate) fn take(&self) -> Option<Offer> {
        self.offer().take()
    }
}

impl Offer {
    /// How long its read blocks at the most. One that has ended in vain is not always noticed while answers are left lying.
    pub(crate) fn block(&self) -> Duration {
        self.block
    }

    /// Writes `commands` and the blocking read behind them; returns the answers to `commands`.
    ///
    /// Where these are of no interest and of so many bytes, they are left to come with those to the read, until `hurry` is done.
    pub(crate) async fn write(
        mut self,
        commands: &mut Commands,
        limit: Duration,
        idle: Option<usize>,
        hurry: impl Future<Output = ()>,
    ) -> Result<Vec<Value>, Broken> {
        let count = commands.len();
        commands.append(&self.read);
        let connection = &mut self.connection;
        let answers = async {
            connection.send(commands.pieces(), limit).await?;
            if let Some(size) = idle {
                connection.linger(size, hurry).await?;
            }
            connection.receive(count, limit).await
        }
        .await;
        match answers {
            Ok(answers) => {
                // Its reader may have been stopped.
                let _ = self.back.send(Ok(self.connection));
                Ok(answers)
            }
            Err(broken) => {
                let _ = self
                    .back
                    .send(Err(Broken::Lost(io::ErrorKind::ConnectionAborted.into())));
                Err(broken)
            }
        }
    }
}
