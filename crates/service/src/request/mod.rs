//! Request and reply: one inbox per bus, opened with the first request; answers find their request by its correlation.

mod inbox;
mod problem;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::code::Code;
use postrider_core::envelope::Envelope;
use postrider_core::message::Message;
use postrider_core::name::Destination;
use postrider_core::text::Text;
use tokio::sync::{OnceCell, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, is_no_route};
use crate::effect::Draft;
use crate::error::{Error, Result};
use crate::metrics::{Counter, LATE_REPLIES, Recorder};

pub(crate) use problem::error_reply;

/// An answer as it came.
struct Answer {
    envelope: Envelope,
    payload: Bytes,
}

/// The requests of one bus that wait for an answer.
pub(crate) struct Requests {
    shared: Arc<Shared>,
    inbox: OnceCell<Destination>,
    stop: CancellationToken,
}

struct Shared {
    waiting: Mutex<HashMap<Text, oneshot::Sender<Answer>>>,
    late: AtomicU64,
    late_counter: Arc<dyn Counter>,
}

impl Shared {
    /// Gives an answer to its request, or counts it as late.
    fn deliver(&self, envelope: Envelope, payload: Bytes) {
        let waiting = envelope
            .correlation_id
            .as_ref()
            .and_then(|id| self.waiting.lock().remove(id));
        let taken = waiting.is_some_and(|w| w.send(Answer { envelope, payload }).is_ok());
        if !taken {
            self.late.fetch_add(1, Ordering::Relaxed);
            self.late_counter.add(1);
        }
    }
}

impl Requests {
    pub(crate) fn new(recorder: &Arc<dyn Recorder>) -> Self {
        Self {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                late: AtomicU64::new(0),
                late_counter: recorder.counter(LATE_REPLIES, &[]),
            }),
            inbox: OnceCell::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn late(&self) -> u64 {
        self.shared.late.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// The inbox's destination; the first caller opens it.
    async fn inbox(&self, bus: &Bus) -> Result<&Destination> {
        let open = || async {
            let runtime = bus.runtime();
            let (destination, source) = runtime.engine.inbox(runtime.instance).await?;
            inbox::spawn(source, self.shared.clone(), self.stop.clone());
            Ok(destination)
        };
        self.inbox.get_or_try_init(open).await
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request that waits; dropped, its answer counts as late.
struct Waiting<'a> {
    requests: &'a Requests,
    id: Text,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.shared.waiting.lock().remove(&self.id);
    }
}

/// Sends a command and waits for its answer.
pub(crate) async fn ask<R: Message>(bus: &Bus, draft: Draft, deadline: Duration) -> Result<R> {
    let requests = bus.requests();
    let asked = draft.message_type;
    let ask = async {
        let reply_to = requests.inbox(bus).await?.clone();
        let size = draft.size();
        let mut message = bus.seal(draft)?;
        // Each request is a conversation of its own: a handler may ask twice within one.
        let id = Text::from(message.envelope.id.to_string());
        message.envelope.correlation_id = Some(id.clone());
        message.envelope.reply_to = Some(reply_to);
        message.envelope.expires_at = Some(bus.now().plus(deadline));
        let (sender, receiver) = oneshot::channel();
        requests.shared.waiting.lock().insert(id.clone(), sender);
        let _waiting = Waiting { requests, id };
        let room = bus.room(size).await;
        let receipt = bus.put_one_or_fault(message).await;
        drop(room);
        match receipt {
            Ok(receipt) if receipt.subscriptions == Some(0) => return Err(no_responder(asked)),
            Err(fault) if is_no_route(&fault) => return Err(no_responder(asked)),
            Ok(_) => {}
            Err(fault) => return Err(fault.into()),
        }
        receiver
            .await
            .map_err(|_| Error::new(Code::REQUEST_TIMED_OUT, "the bus was closed"))
    };
    let answer = tokio::time::timeout(deadline, ask).await.map_err(|_| {
        let what = format!("`{asked}` was not answered within {deadline:?}");
        Error::new(Code::REQUEST_TIMED_OUT, what).retriable()
    })??;
    read(asked, &answer)
}

fn no_responder(asked: &str) -> Error {
    Error::new(
        Code::REQUEST_NO_RESPONDER,
        format!("nobody answers `{asked}`"),
    )
}

fn read<R: Message>(asked: &str, answer: &Answer) -> Result<R> {
    if let Some(problem) = problem::read(&answer.envelope, &answer.payload) {
        let what = format!("`{asked}` was refused: {problem}");
        return Err(Error::new(Code::REPLY_FAILED, what));
    }
    if answer.envelope.message_type != R::TYPE || answer.envelope.version > R::VERSION {
        let what = format!(
            "`{asked}` was answered with `{}` version {}; expected was `{}` up to version {}",
            answer.envelope.message_type,
            answer.envelope.version,
            R::TYPE,
            R::VERSION
        );
        return Err(Error::new(Code::PAYLOAD_UNREADABLE, what));
    }
    Ok(R::decode(&answer.envelope.content_type, &answer.payload)?)
}

#[cfg(test)]
mod tests;
