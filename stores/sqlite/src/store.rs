//! The store: a handle on one database.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::clock::Timestamp;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::store::{
    CommitFailure, Committed, InboxEntry, Look, Outbox, ReadFailure, Seen, Store, StoreInfo,
    TxStore, Unit, Work,
};
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::db::{self, Db, Shared};
use crate::error::Error;
use crate::failures::SqliteFailures;
use crate::group::{Bounds, run_group};
use crate::options::Options;
use crate::outbox::SqliteOutbox;
use crate::writer::{Call, Queue, Reply};
use crate::{inbox, lock, schema, unit, writer};

/// Looks at single rows at once.
const PEEKS_MAX: usize = 2;

/// A service's SQLite database: its own tables, and our inbox, outbox and failures beside them. Cheap to clone; the database closes
/// with [`Store::close`] or with the last clone.
///
/// One thread of its own writes. Deliveries that are ready at the same time share one commit and one sync, a savepoint each; a handler's
/// code runs on that thread, so **a handler that blocks stalls every other delivery of this database**.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("inventory.db");
/// use postrider_sqlite::Sqlite;
///
/// let store = Sqlite::open(path)?.migrate(&["CREATE TABLE stock(item TEXT PRIMARY KEY, left INTEGER NOT NULL)"])?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Sqlite {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sqlite")
            .field("location", &self.inner.info.location)
            .finish_non_exhaustive()
    }
}

struct Inner {
    info: StoreInfo,
    shared: Arc<Shared>,
    bounds: Bounds,
    mode: Mode,
}

enum Mode {
    /// A file: one thread writes.
    File(File),
    /// In memory: commits run on the caller's thread. `None`: closed.
    Memory(Mutex<Option<Db>>),
}

struct File {
    path: PathBuf,
    options: Options,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// For what must be answered at once: one short look at a time.
    look: Mutex<Option<Connection>>,
    readers: Mutex<Vec<Connection>>,
    /// Bounds the service's reads.
    reading: Arc<Semaphore>,
    /// Bounds our listings, so that a person who asks for many never takes what the service reads with.
    looking: Arc<Semaphore>,
    /// Bounds the relay's, so that no long report holds it up.
    relaying: Arc<Semaphore>,
    /// Bounds looks at single rows, which deliveries wait for.
    peeking: Arc<Semaphore>,
}

impl Sqlite {
    /// Opens or makes the database at `path`, takes its lock (`PATH.lock`), verifies that commits are durable, and makes our tables.
    /// Its directory must exist. Other processes may read it while it is open.
    ///
    /// # Errors
    /// [`Error::Locked`]: somebody else holds it. [`Error::Newer`], [`Error::NotUsable`], [`Error::Damaged`]: it cannot be used, and was not touched.
    /// [`Error::NotDurable`]: WAL or `synchronous=FULL` did not take.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Options::default().open(path)
    }

    /// How to open it otherwise.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    /// A database in memory, for tests: the same tables; commits and reads run on the caller's thread, so virtual time works.
    /// Nothing of it survives the last clone.
    ///
    /// # Errors
    /// SQLite could not make it.
    pub fn in_memory() -> Result<Self, Error> {
        Options::default().in_memory()
    }

    pub(crate) fn open_with(path: &Path, options: Options) -> Result<Self, Error> {
        let path = db::inspect(path)?;
        let held = lock::take(&path)?;
        let shared = Arc::new(Shared::default());
        let db = Db::open_file(&path, &options, shared.clone())?;
        let look = db::open_reader(&path, &options)?;
        let bounds = bounds(&options);
        let queue = Arc::new(Queue::new(options.queue_jobs_max));
        let thread =
            writer::start(queue.clone(), db, bounds, held).map_err(|e| Error::NotUsable {
                path: path.clone(),
                why: format!("its writer thread did not start: {e}"),
                source: Some(Arc::new(e)),
            })?;
        shared.outbox_changed.notify_one();
        let mode = Mode::File(File {
            queue,
            thread: Mutex::new(Some(thread)),
            look: Mutex::new(Some(look)),
            readers: Mutex::default(),
            reading: Arc::new(Semaphore::new(options.readers)),
            looking: Arc::new(Semaphore::new(1)),
            relaying: Arc::new(Semaphore::new(1)),
            peeking: Arc::new(Semaphore::new(PEEKS_MAX)),
            path: path.clone(),
            options,
        });
        Ok(Self::with(path.display().to_string(), shared, bounds, mode))
    }

    pub(crate) fn in_memory_with(options: Options) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let db = Db::open_memory(&options, shared.clone())?;
        let mode = Mode::Memory(Mutex::new(Some(db)));
        Ok(Self::with(
            ":memory:".to_owned(),
            shared,
            bounds(&options),
            mode,
        ))
    }

    fn with(location: String, shared: Arc<Shared>, bounds: Bounds, mode: Mode) -> Self {
        let info = StoreInfo {
            product: "SQLite",
            version: rusqlite::version().to_owned(),
            location,
            holds_messages: false,
        };
        Self {
            inner: Arc::new(Inner {
                info,
                shared,
                bounds,
                mode,
            }),
        }
    }

    /// Runs the service's migrations that have not run yet, in order, all in one commit. The n-th text is migration n for ever: add to
    /// the end, never change one. Blocks the calling thread until it is durable.
    ///
    /// # Errors
    /// [`Error::Migration`]: one does not run or is not the text that was applied. [`Error::Newer`]: more were applied than there
    /// are here. None of them took effect.
    pub fn migrate(self, migrations: &[&str]) -> Result<Self, Error> {
        let texts: Vec<String> = migrations.iter().map(|m| (*m).to_owned()).collect();
        self.exec_blocking(move |db| schema::migrate(db, &texts))?;
        Ok(self)
    }

    /// Reads, with what was committed so far. The connection refuses writes. Off the runtime's threads; at most [`Options::readers`] at once.
    ///
    /// Cancel safe. Needs a tokio runtime, except in memory.
    ///
    /// # Errors
    /// SQLite refused, or the store is closed.
    pub async fn read<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let room = |file: &File| file.reading.clone();
        self.on_reader(room, move |conn| read(conn).map_err(Error::sqlite("read")))
            .await
    }

    /// The failure store in this database: failure records share its commits and its lock.
    #[must_use]
    pub fn failures(&self) -> SqliteFailures {
        SqliteFailures::of(self.clone())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Runs `work` in a savepoint of the next group. At return of `Ok` it is durable.
    pub(crate) async fn exec<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnMut(&mut Db) -> Result<T, E> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        match &self.inner.mode {
            Mode::File(file) => {
                let permit = file.queue.place().await;
                file.queue
                    .push(Call::job(work, Reply::Future(sender), permit));
            }
            Mode::Memory(db) => {
                let job = Call::job(work, Reply::Future(sender), None);
                self.run_inline(&mut db.lock(), Some(job), &mut Vec::new())?;
            }
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(E::from(Error::WriterGone)))
    }

    fn exec_blocking<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnMut(&mut Db) -> Result<T, Error> + Send + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::channel();
        let job = Call::job(work, Reply::Thread(sender), None);
        match &self.inner.mode {
            Mode::File(file) => file.queue.push(job),
            Mode::Memory(db) => self.run_inline(&mut db.lock(), Some(job), &mut Vec::new())?,
        }
        receiver.recv().unwrap_or(Err(Error::WriterGone))
    }

    fn run_inline(
        &self,
        db: &mut Option<Db>,
        mut job: Option<crate::group::BoxJob>,
        removals: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let db = db.as_mut().ok_or(Error::Closed)?;
        run_group(db, self.inner.bounds, removals, || job.take());
        Ok(())
    }

    /// Lists our own tables.
    pub(crate) async fn look_async<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.on_reader(|file| file.looking.clone(), read).await
    }

    /// Reads the outbox, whoever reads anything else.
    pub(crate) async fn look_outbox<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.on_reader(|file| file.relaying.clone(), read).await
    }

    /// Looks at a row or two of our own tables, off the runtime's threads: a disk that stalls holds up whoever asks, and nobody else.
    pub(crate) async fn peek<T, F>(&self, read: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        self.on_reader(|file| file.peeking.clone(), read).await
    }

    async fn on_reader<T, F>(
        &self,
        room: impl Fn(&File) -> Arc<Semaphore>,
        read: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let file = match &self.inner.mode {
            Mode::Memory(db) => return look_inline(&mut db.lock(), read),
            Mode::File(file) => file,
        };
        let permit = room(file).acquire_owned().await;
        let permit = permit.map_err(|_| Error::Closed)?;
        let inner = self.inner.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let Mode::File(file) = &inner.mode else {
                unreachable!("a store does not change its mode");
            };
            let pooled = file.readers.lock().pop();
            let conn = match pooled {
                Some(conn) => conn,
                None => db::open_reader(&file.path, &file.options)?,
            };
            let value = read(&conn);
            // One that was left in a transaction would show every later read what was committed before it, and keep the WAL from being folded.
            if conn.is_autocommit() && !file.reading.is_closed() {
                file.readers.lock().push(conn);
            }
            value
        });
        match done.await {
            Ok(value) => value,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(Error::Closed),
        }
    }

    /// A short look on the caller's thread, which waits for the disk.
    pub(crate) fn look_now<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &self.inner.mode {
            Mode::Memory(db) => look_inline(&mut db.lock(), read),
            Mode::File(file) => read(file.look.lock().as_ref().ok_or(Error::Closed)?),
        }
    }

    /// Removes outbox rows with the next commit. From the return on nobody is given them.
    pub(crate) fn remove_outgoing(&self, numbers: Vec<u64>) -> Result<(), Error> {
        let mut numbers = self.shared().outbox_leaving(numbers);
        let removed = match &self.inner.mode {
            Mode::File(file) => file.queue.push_removals(&numbers),
            Mode::Memory(db) => match self.run_inline(&mut db.lock(), None, &mut numbers) {
                Ok(()) if !numbers.is_empty() => Err(Error::NotRemoved),
                ran => ran,
            },
        };
        if removed.is_err() {
            self.shared().removing.end(&numbers);
        }
        removed
    }

    pub(crate) async fn flush_removals(&self) -> Result<(), Error> {
        match &self.inner.mode {
            Mode::File(_) if self.shared().removing.any_from(0) => {
                self.exec(|_| Ok::<(), Error>(())).await
            }
            _ => Ok(()),
        }
    }

    async fn prune(&self, before: Timestamp) -> Result<u64, Error> {
        let mut removed = 0;
        let mut cursor = None;
        loop {
            let from = cursor.take();
            let (gone, next) = self
                .exec(move |db| inbox::prune_step(db, from.as_ref(), before))
                .await?;
            removed += gone;
            match next {
                Some(next) => cursor = Some(next),
                None => return Ok(removed),
            }
        }
    }
}

fn bounds(options: &Options) -> Bounds {
    Bounds {
        jobs: options.group_jobs_max,
        time: options.group_time_max,
    }
}

fn look_inline<T>(
    db: &mut Option<Db>,
    read: impl FnOnce(&Connection) -> Result<T, Error>,
) -> Result<T, Error> {
    let db = db.as_mut().ok_or(Error::Closed)?;
    let refuse = |on: bool| {
        db.conn
            .pragma_update(None, "query_only", on)
            .map_err(Error::sqlite("guard a read"))
    };
    refuse(true)?;
    // The guard keeps the look from ending `query_only`; a panic of the look must not leave it on.
    let looked = catch_unwind(AssertUnwindSafe(|| db.guard.watch(|| read(&db.conn)).0));
    refuse(false)?;
    looked.unwrap_or_else(|panic| resume_unwind(panic))
}

impl File {
    /// Lets the writer finish; the readers go first, so that its end can fold the WAL into the database.
    fn close(&self) -> Option<JoinHandle<()>> {
        self.reading.close();
        self.looking.close();
        self.relaying.close();
        self.peeking.close();
        self.look.lock().take();
        self.readers.lock().clear();
        self.queue.close();
        self.thread.lock().take()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Mode::File(file) = &self.mode else {
            return;
        };
        let Some(thread) = file.close() else { return };
        // The last clone may have been captured by a unit, and so be dropped by the writer itself.
        if thread.thread().id() != std::thread::current().id() {
            // A writer that panicked said so itself.
            drop(thread.join());
        }
    }
}

impl Store for Sqlite {
    fn info(&self) -> &StoreInfo {
        &self.inner.info
    }

    fn seen<'a>(&'a self, entry: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>> {
        let entry = entry.clone();
        Box::pin(async move {
            let seen = self.peek(move |conn| inbox::seen(conn, &entry)).await;
            Ok(seen?)
        })
    }

    fn prune_inbox(&self, before: Timestamp) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async move { Ok(self.prune(before).await?) })
    }

    fn identity(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    fn outbox(&self) -> Option<Arc<dyn Outbox>> {
        Some(Arc::new(SqliteOutbox(self.clone())))
    }

    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async move {
            let file = match &self.inner.mode {
                Mode::Memory(db) => {
                    db.lock().take();
                    return Ok(());
                }
                Mode::File(file) => file,
            };
            let Some(thread) = file.close() else {
                return Ok(());
            };
            let joined = tokio::task::spawn_blocking(move || thread.join());
            match tokio::time::timeout(grace, joined).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(_) => Err(Error::WriterGone.into()),
                Err(_) => Err(Fault::new(
                    FaultKind::Timeout,
                    Advice::StopOwner,
                    format!(
                        "{} was not closed within {grace:?}: a handler still runs in it",
                        self.inner.info.location
                    ),
                )),
            }
        })
    }
}

impl TxStore for Sqlite {
    type Conn = Connection;

    fn transact<'a>(
        &'a self,
        unit: Unit,
        mut work: Work<Connection>,
    ) -> Fut<'a, Result<Committed, CommitFailure>> {
        Box::pin(self.exec(move |db| unit::run_delivery(db, &unit, &mut work)))
    }

    fn write<'a>(&'a self, mut work: Work<Connection>) -> Fut<'a, Result<u32, CommitFailure>> {
        Box::pin(self.exec(move |db| unit::run_write(db, &mut work)))
    }

    fn read<'a>(&'a self, look: Look<Connection>) -> Fut<'a, Result<(), ReadFailure>> {
        Box::pin(async move {
            let room = |file: &File| file.reading.clone();
            match self.on_reader(room, move |conn| Ok(look(conn))).await {
                Ok(looked) => looked.map_err(ReadFailure::Handler),
                Err(error) => Err(ReadFailure::Store(error.into())),
            }
        })
    }
}

#[cfg(test)]
mod tests;
