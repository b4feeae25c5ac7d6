//! One writer, many waiting units of work, one `COMMIT` for all that queue up meanwhile (group commit).
//!
//! A unit of work is a savepoint inside the shared transaction. When it is done it releases the savepoint, hands the
//! connection to the next in line, and waits. The committer queues for the connection like everybody else; the lock is
//! fair, so by its turn everyone who was in line has joined the batch. One fsync then acknowledges all of them.

use std::sync::Arc;

use sqlx::{Connection, Row, SqliteConnection};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, oneshot};
use tokio::task::JoinHandle;

use super::vectors::Indexes;
use crate::store::engine::Change;
use crate::store::{Result, StoreError};

/// Access to the only connection that writes.
pub(super) struct Writer {
    seat: Arc<Mutex<Seat>>,
    wake: Arc<Notify>,
    committer: JoinHandle<()>,
}

/// What whoever holds the lock sits on.
struct Seat {
    connection: Option<SqliteConnection>,
    state: State,
    /// Units of work that are released and wait for the commit.
    waiting: Vec<oneshot::Sender<std::result::Result<(), Arc<sqlx::Error>>>>,
    /// What they change in the in-memory indexes once they are durable.
    changes: Vec<Change>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// No transaction.
    Idle,
    /// A transaction, between two units of work.
    Open,
    /// A unit of work was dropped: its savepoint must be rolled back.
    Abandoned,
    /// A control statement was cut short: nobody knows.
    Unclear,
}

/// The right to write, for one unit of work.
pub(super) struct Turn {
    seat: Option<OwnedMutexGuard<Seat>>,
    wake: Arc<Notify>,
    changes: Vec<Change>,
}

impl Writer {
    pub(super) fn start(connection: SqliteConnection, indexes: Arc<Indexes>) -> Self {
        let seat = Arc::new(Mutex::new(Seat {
            connection: Some(connection),
            state: State::Idle,
            waiting: Vec::new(),
            changes: Vec::new(),
        }));
        let wake = Arc::new(Notify::new());
        let committer = tokio::spawn({
            let (seat, wake) = (Arc::clone(&seat), Arc::clone(&wake));
            async move {
                loop {
                    wake.notified().await;
                    seat.lock().await.commit(&indexes).await;
                }
            }
        });
        Self { seat, wake, committer }
    }

    /// Waits for the turn and opens a savepoint.
    pub(super) async fn turn(&self) -> Result<Turn> {
        let mut seat = Arc::clone(&self.seat).lock_owned().await;
        let wake = Arc::clone(&self.wake);
        to_the_end(async move {
            seat.settle().await?;
            if seat.state == State::Idle {
                seat.control("begin immediate", State::Open).await?;
            }
            seat.control("savepoint unit", State::Open).await?;
            Ok(Turn { seat: Some(seat), wake, changes: Vec::new() })
        })
        .await
    }

    /// Commits what waits, puts the whole log into the database, and cuts it to nothing; `false` while a reader needs it.
    pub(super) async fn empty_log(&self, indexes: &Arc<Indexes>) -> Result<bool> {
        let mut seat = Arc::clone(&self.seat).lock_owned().await;
        let indexes = Arc::clone(indexes);
        to_the_end(async move {
            seat.commit(&indexes).await;
            // Others wait: it is asked again rather than waited for.
            sqlx::raw_sql("pragma busy_timeout = 50").execute(seat.connection()?).await?;
            let outcome = sqlx::query("pragma wal_checkpoint(truncate)").fetch_one(seat.connection()?).await;
            sqlx::raw_sql("pragma busy_timeout = 5000").execute(seat.connection()?).await?;
            Ok(outcome?.try_get::<i64, _>(0)? == 0)
        })
        .await
    }

    /// Commits what waits and closes the connection.
    pub(super) async fn close(&self, indexes: &Indexes) {
        let mut seat = self.seat.lock().await;
        seat.commit(indexes).await;
        self.committer.abort();
        if let Some(connection) = seat.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "closing the database");
        }
    }
}

/// Runs `work` to its end even if the caller goes away: a request that is cancelled within a control statement would
/// leave a transaction of which nobody knows the state, and take the others of its batch with it.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(StoreError::Backend(error.into())))
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.committer.abort();
    }
}

impl Seat {
    fn connection(&mut self) -> Result<&mut SqliteConnection> {
        self.connection.as_mut().ok_or_else(|| StoreError::Backend(anyhow::anyhow!("the store is closed")))
    }

    /// Runs a statement that moves the transaction to `after`. Until it is through, the state is unclear.
    async fn control(&mut self, statement: &'static str, after: State) -> Result<()> {
        self.state = State::Unclear;
        sqlx::raw_sql(statement).execute(self.connection()?).await?;
        self.state = after;
        Ok(())
    }

    /// Brings the connection back to `Idle` or `Open` after a unit of work that was dropped.
    async fn settle(&mut self) -> Result<()> {
        if self.state == State::Abandoned
            && let Err(error) = self.control("rollback to unit; release unit", State::Open).await
        {
            tracing::warn!(%error, "rolling back a dropped unit of work");
        }
        if self.state == State::Unclear {
            self.fail(&Arc::new(sqlx::Error::WorkerCrashed));
            // There may be no transaction at all; then this fails and that is fine.
            if let Err(error) = sqlx::raw_sql("rollback").execute(self.connection()?).await {
                tracing::debug!(%error, "rollback of an unclear transaction");
            }
            self.state = State::Idle;
        }
        Ok(())
    }

    async fn commit(&mut self, indexes: &Indexes) {
        if let Err(error) = self.settle().await {
            tracing::error!(%error, "settling the writer");
        }
        if self.state != State::Open {
            return;
        }
        match self.control("commit", State::Idle).await {
            Ok(()) => {
                indexes.apply(std::mem::take(&mut self.changes));
                for waiter in self.waiting.drain(..) {
                    drop(waiter.send(Ok(())));
                }
            }
            Err(StoreError::Backend(error)) => {
                tracing::error!(%error, "commit failed");
                self.fail(&Arc::new(sqlx::Error::Io(std::io::Error::other(error.to_string()))));
            }
            Err(error) => tracing::error!(%error, "commit failed"),
        }
    }

    fn fail(&mut self, error: &Arc<sqlx::Error>) {
        self.changes.clear();
        for waiter in self.waiting.drain(..) {
            drop(waiter.send(Err(Arc::clone(error))));
        }
    }
}

impl Turn {
    /// The connection, inside this unit's savepoint.
    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection> {
        self.seat.as_mut().ok_or_else(|| StoreError::Backend(anyhow::anyhow!("the unit of work is over")))?.connection()
    }

    /// Remembers what to change in memory once the rows are durable.
    pub(super) fn remember(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Changes that are not durable yet: those of this unit and of the batch it joins.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Change> {
        self.seat.iter().flat_map(|seat| &seat.changes).chain(&self.changes)
    }

    /// Joins the batch and waits until it is durable.
    pub(super) async fn commit(mut self) -> Result<()> {
        let (done, durable) = oneshot::channel();
        to_the_end(async move {
            if let Some(seat) = self.seat.as_mut() {
                seat.control("release unit", State::Open).await?;
                seat.changes.append(&mut self.changes);
                seat.waiting.push(done);
            }
            self.seat = None;
            self.wake.notify_one();
            Ok(())
        })
        .await?;
        match durable.await {
            Ok(outcome) => outcome.map_err(|error| StoreError::Backend(anyhow::Error::new(error))),
            Err(_) => Err(StoreError::Backend(anyhow::anyhow!("the writer has stopped"))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.as_mut() {
            // An unclear state stays unclear: rolling back everything is then the only safe way.
            if seat.state == State::Open {
                seat.state = State::Abandoned;
            }
            self.wake.notify_one();
        }
    }
}
