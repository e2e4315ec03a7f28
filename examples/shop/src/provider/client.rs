//! How the payment service reaches the provider: one connection, many requests in flight.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::wire::{Answer, Op, Request, Response};

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Requests that wait for the socket to take them.
const QUEUE_MAX: usize = 1024;

/// Why a call has no answer. The provider may have executed it: call again with the same key.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It cannot be reached.
    #[error("the payment provider cannot be reached: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the payment provider did not answer within 10 s")]
    TimedOut,
}

type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

#[derive(Clone)]
struct Connection {
    requests: mpsc::Sender<Request>,
    /// `None` once the connection is gone.
    waiting: Waiting,
}

/// A client of the provider. Cheap to clone; all clones share one connection, which is made again when it broke.
#[derive(Clone)]
pub struct Client {
    socket: PathBuf,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
    next_id: Arc<std::sync::atomic::AtomicU64>,
}

impl Client {
    /// A client of the provider at this socket. Connects at the first call.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Arc::default(),
            next_id: Arc::default(),
        }
    }

    /// Charges the order: idempotent by `charge:{order}`.
    ///
    /// # Errors
    /// No answer; it may have been executed. Call again.
    pub async fn charge(&self, order: &str, cents: u64) -> Result<Answer, CallError> {
        self.call(Op::Charge, format!("charge:{order}"), order, cents)
            .await
    }

    /// Refunds the order: idempotent by `refund:{order}`.
    ///
    /// # Errors
    /// As [`Client::charge`].
    pub async fn refund(&self, order: &str, cents: u64) -> Result<Answer, CallError> {
        self.call(Op::Refund, format!("refund:{order}"), order, cents)
            .await
    }

    async fn call(
        &self,
        op: Op,
        key: String,
        order: &str,
        cents: u64,
    ) -> Result<Answer, CallError> {
        let id = self
            .next_id
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let request = Request {
            id,
            op,
            key,
            order: order.to_owned(),
            cents,
        };
        let gone = || CallError::Unreachable("the connection broke".to_owned());
        let connection = self.connected().await?;
        let (answer, answered) = oneshot::channel();
        match connection.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(id, answer),
            None => return Err(gone()),
        };
        if connection.requests.send(request).await.is_err() {
            return Err(gone());
        }
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                if let Some(waiting) = connection.waiting.lock().as_mut() {
                    waiting.remove(&id);
                }
                Err(CallError::TimedOut)
            }
        }
    }

    async fn connected(&self) -> Result<Connection, CallError> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref()
            && connection.waiting.lock().is_some()
        {
            return Ok(connection.clone());
        }
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| CallError::Unreachable(e.to_string()))?;
        let (read, write) = stream.into_split();
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let connection = Connection {
            requests,
            waiting: Arc::new(Mutex::new(Some(HashMap::new()))),
        };
        tokio::spawn(write_requests(write, queue));
        tokio::spawn(read_answers(read, Arc::clone(&connection.waiting)));
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

async fn write_requests(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Request>) {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    while queue.recv_many(&mut batch, QUEUE_MAX).await > 0 {
        bytes.clear();
        for request in batch.drain(..) {
            if serde_json::to_writer(&mut bytes, &request).is_ok() {
                bytes.push(b'\n');
            }
        }
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_answers(read: OwnedReadHalf, waiting: Waiting) {
    let mut reader = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).await;
        let response = match read {
            Ok(n) if n > 0 => serde_json::from_slice::<Response>(&line).ok(),
            _ => None,
        };
        let Some(response) = response else {
            // Dropping the senders tells everybody who waits.
            waiting.lock().take();
            return;
        };
        let sender = waiting.lock().as_mut().and_then(|w| w.remove(&response.id));
        if let Some(sender) = sender {
            let _ = sender.send(response.answer);
        }
    }
}
