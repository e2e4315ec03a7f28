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
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::message::Message;
use postrider_core::name::Destination;
use postrider_core::text::Text;
use tokio::sync::oneshot;
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

/// The requests of one bus.
pub(crate) struct Requests {
    late: Arc<Late>,
    /// The inbox that is read now, or that ended last.
    inbox: tokio::sync::Mutex<Option<Arc<Inbox>>>,
    stop: CancellationToken,
}

/// Answers that nobody waited for any more.
struct Late {
    count: AtomicU64,
    counter: Arc<dyn Counter>,
}

/// An inbox that is open, and the requests that wait for an answer in it.
struct Inbox {
    destination: Destination,
    late: Arc<Late>,
    state: Mutex<State>,
}

enum State {
    Open(HashMap<Text, oneshot::Sender<Answer>>),
    /// Nobody reads it any more: why.
    Ended(String),
}

impl Inbox {
    fn is_open(&self) -> bool {
        matches!(*self.state.lock(), State::Open(_))
    }

    /// Gives an answer to its request, or counts it as late.
    fn deliver(&self, envelope: Envelope, payload: Bytes) {
        let waiting = envelope.correlation_id.as_ref();
        let waiting = waiting.and_then(|id| self.leave(id));
        let taken = waiting.is_some_and(|w| w.send(Answer { envelope, payload }).is_ok());
        if !taken {
            self.late.count.fetch_add(1, Ordering::Relaxed);
            self.late.counter.add(1);
        }
    }

    /// Waits for the answer with this correlation.
    ///
    /// # Errors
    /// The inbox ended.
    fn enter(&self, id: Text) -> Result<oneshot::Receiver<Answer>, Fault> {
        let (sender, receiver) = oneshot::channel();
        match &mut *self.state.lock() {
            State::Open(waiting) => waiting.insert(id, sender),
            State::Ended(why) => return Err(ended(why)),
        };
        Ok(receiver)
    }

    fn leave(&self, id: &Text) -> Option<oneshot::Sender<Answer>> {
        match &mut *self.state.lock() {
            State::Open(waiting) => waiting.remove(id),
            State::Ended(_) => None,
        }
    }

    /// Whoever waits learns at once that no answer will come. The first reason counts.
    fn end(&self, why: &str) {
        let mut state = self.state.lock();
        if matches!(*state, State::Open(_)) {
            *state = State::Ended(why.to_owned());
        }
    }

    /// Why no answer came.
    fn fault(&self) -> Fault {
        match &*self.state.lock() {
            State::Open(_) => ended("its request was dropped"),
            State::Ended(why) => ended(why),
        }
    }
}

/// Another request opens another inbox.
fn ended(why: &str) -> Fault {
    let advice = Advice::Retry {
        after: Duration::ZERO,
    };
    let text = format!("the inbox of this bus ended before the answer came: {why}");
    Fault::new(FaultKind::Unreachable, advice, text)
}

impl Requests {
    pub(crate) fn new(recorder: &Arc<dyn Recorder>) -> Self {
        Self {
            late: Arc::new(Late {
                count: AtomicU64::new(0),
                counter: recorder.counter(LATE_REPLIES, &[]),
            }),
            inbox: tokio::sync::Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn late(&self) -> u64 {
        self.late.count.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// The inbox. The first caller opens it, and so does the first one after its end.
    async fn inbox(&self, bus: &Bus) -> Result<Arc<Inbox>> {
        let mut slot = self.inbox.lock().await;
        if let Some(inbox) = slot.as_ref().filter(|inbox| inbox.is_open()) {
            return Ok(inbox.clone());
        }
        if self.stop.is_cancelled() {
            return Err(Fault::closed("the bus").into());
        }
        let runtime = bus.runtime();
        let (destination, source) = runtime.engine.inbox(runtime.instance).await?;
        let inbox = Arc::new(Inbox {
            destination,
            late: self.late.clone(),
            state: Mutex::new(State::Open(HashMap::new())),
        });
        inbox::spawn(source, inbox.clone(), self.stop.clone());
        *slot = Some(inbox.clone());
        Ok(inbox)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A request that waits; dropped, its answer counts as late.
struct Waiting<'a> {
    inbox: &'a Inbox,
    id: Text,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inbox.leave(&self.id);
    }
}

/// Sends a command and waits for its answer.
pub(crate) async fn ask<R: Message>(bus: &Bus, draft: Draft, deadline: Duration) -> Result<R> {
    let requests = bus.requests();
    let asked = draft.message_type;
    let ask = async {
        let inbox = requests.inbox(bus).await?;
        let size = draft.size();
        let mut message = bus.seal(draft)?;
        // Each request is a conversation of its own: a handler may ask twice within one.
        let id = Text::from(message.envelope.id.to_string());
        message.envelope.correlation_id = Some(id.clone());
        message.envelope.reply_to = Some(inbox.destination.clone());
        message.envelope.expires_at = Some(bus.now().plus(deadline));
        let receiver = inbox.enter(id.clone())?;
        let _waiting = Waiting { inbox: &inbox, id };
        let room = bus.room(size).await;
        let receipt = bus.put_one_or_fault(message).await;
        drop(room);
        match receipt {
            Ok(receipt) if receipt.subscriptions == Some(0) => return Err(no_responder(asked)),
            Err(fault) if is_no_route(&fault) => return Err(no_responder(asked)),
            Ok(_) => {}
            Err(fault) => return Err(fault.into()),
        }
        // It was sent: whether it was handled nobody knows.
        let unanswered = |_| match requests.stop.is_cancelled() {
            true => Error::new(Code::REQUEST_TIMED_OUT, "the bus was closed"),
            false => inbox.fault().unknown_effect().into(),
        };
        receiver.await.map_err(unanswered)
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
