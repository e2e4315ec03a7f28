//! The provider's socket: latency, 503s and declines in front of the book.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::book::{Book, Totals};
use super::wire::{Answer, LINE_BYTES_MAX, Op, Request, Response};
use crate::error::{Error, Result};
use crate::faults::Dial;
use crate::seed::{self, Fate};

/// Requests that are worked on at once, per connection.
const IN_FLIGHT_MAX: usize = 2048;
/// Requests that share one sync.
const GROUP_MAX: usize = 512;
/// How often in a row one key is answered with 503 on purpose.
const REFUSALS_MAX: u32 = 3;
/// The longest path that every system takes for a Unix socket, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 100;

type Job = (Request, oneshot::Sender<Answer>);

/// The provider, listening. It ends when this is dropped.
pub struct Server {
    socket: PathBuf,
    private_dir: Option<PathBuf>,
    totals: watch::Receiver<Totals>,
    listener: tokio::task::JoinHandle<()>,
}

struct Shared {
    seed: u64,
    dial: Dial,
    book: mpsc::Sender<Job>,
    refusals: Mutex<HashMap<String, u32>>,
}

impl Server {
    /// Opens the book `dir/provider.jsonl` and listens. The socket is `dir/provider.sock`, or lies in a private temporary directory where that
    /// path is too long for a socket.
    ///
    /// # Errors
    /// `PR-1706`: the book is damaged. The socket cannot be made.
    pub fn start(dir: &Path, seed: u64, dial: Dial) -> Result<Self> {
        let book = Book::open(&dir.join("provider.jsonl"))?;
        let (socket, private_dir) = socket_path(dir)?;
        let failed = |e| Error::io("listen on", &socket, e);
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        let (totals_in, totals) = watch::channel(book.totals());
        let (jobs, queue) = mpsc::channel(4 * GROUP_MAX);
        std::thread::Builder::new()
            .name("provider-book".into())
            .spawn(move || keep_book(book, queue, &totals_in))
            .map_err(failed)?;
        let shared = Arc::new(Shared {
            seed,
            dial,
            book: jobs,
            refusals: Mutex::new(HashMap::new()),
        });
        let listener = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Ok(Self {
            socket,
            private_dir,
            totals,
            listener,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it moved so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        *self.totals.borrow()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.abort();
        let _ = std::fs::remove_file(&self.socket);
        if let Some(dir) = &self.private_dir {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

fn socket_path(dir: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    let near = dir.join("provider.sock");
    if near.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok((near, None));
    }
    use std::os::unix::fs::DirBuilderExt;
    let private = std::env::temp_dir().join(format!("postrider-{}", std::process::id()));
    match std::fs::DirBuilder::new().mode(0o700).create(&private) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("create", &private, e))
        }
        _ => Ok((private.join("provider.sock"), Some(private))),
    }
}

/// The one owner of the book: what arrived while the last group was synced is the next group.
fn keep_book(mut book: Book, mut queue: mpsc::Receiver<Job>, totals: &watch::Sender<Totals>) {
    while let Some(first) = queue.blocking_recv() {
        let (mut requests, mut waiting) = (vec![first.0], vec![first.1]);
        while requests.len() < GROUP_MAX {
            let Ok((request, answer)) = queue.try_recv() else {
                break;
            };
            requests.push(request);
            waiting.push(answer);
        }
        let at = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        match book.execute(&requests, &at) {
            Ok(answers) => {
                totals.send_replace(book.totals());
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    // Nobody may wait any more: the services were killed. The book knows the key.
                    let _ = waiting.send(answer);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the provider stops answering");
                return;
            }
        }
    }
}

async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let (read, write) = stream.into_split();
    let (answers, outgoing) = mpsc::channel(IN_FLIGHT_MAX);
    tokio::spawn(write_answers(write, outgoing));
    if let Err(error) = read_requests(read, answers, shared).await {
        tracing::debug!(%error, "a connection to the provider ended");
    }
}

async fn read_requests(
    read: OwnedReadHalf,
    answers: mpsc::Sender<Response>,
    shared: Arc<Shared>,
) -> std::io::Result<()> {
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(std::io::Error::other("a request is too long"));
        }
        let request: Request = serde_json::from_slice(&line)?;
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (answers, shared) = (answers.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let id = request.id;
            let answer = shared.answer(request).await;
            let _ = answers.send(Response { id, answer }).await;
            drop(permit);
        });
    }
}

async fn write_answers(mut write: OwnedWriteHalf, mut outgoing: mpsc::Receiver<Response>) {
    let mut batch = Vec::new();
    let mut bytes = Vec::new();
    while outgoing.recv_many(&mut batch, GROUP_MAX).await > 0 {
        bytes.clear();
        for response in batch.drain(..) {
            if serde_json::to_writer(&mut bytes, &response).is_ok() {
                bytes.push(b'\n');
            }
        }
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

impl Shared {
    async fn answer(&self, request: Request) -> Answer {
        let rates = self.dial.rates();
        let nth = self.nth_refusal(&request.key);
        let chance = format!("{}#{nth}", request.key);
        let latency = rates.latency();
        let span = latency.end.saturating_sub(latency.start).max(1);
        let wait = latency.start + seed::hash(self.seed, "latency", &chance) % span;
        if wait > 0 {
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let may_refuse = nth < REFUSALS_MAX;
        if may_refuse && seed::happens(self.seed, "503", &chance, rates.provider_503) {
            self.note_refusal(&request.key);
            return Answer::Unavailable;
        }
        if request.op == Op::Charge && seed::fate(self.seed, &request.order) == Fate::Declined {
            return Answer::Declined;
        }
        let lose = may_refuse
            && seed::happens(
                self.seed,
                "lost answer",
                &chance,
                rates.provider_lost_answer,
            );
        let key = lose.then(|| request.key.clone());
        let (answer, answered) = oneshot::channel();
        if self.book.send((request, answer)).await.is_err() {
            return Answer::Unavailable;
        }
        let answer = answered.await.unwrap_or(Answer::Unavailable);
        if let Some(key) = key {
            self.note_refusal(&key);
            return Answer::Unavailable;
        }
        answer
    }

    fn nth_refusal(&self, key: &str) -> u32 {
        self.refusals.lock().get(key).copied().unwrap_or(0)
    }

    fn note_refusal(&self, key: &str) {
        *self.refusals.lock().entry(key.to_owned()).or_insert(0) += 1;
    }
}
