//! Publishing: one task owns one channel, so that what is confirmed is what was published. (Two tasks on one channel of the driver get each other's
//! confirmations: it takes the number of a message and queues its frames under two locks.)

mod pump;

use std::sync::Arc;

use postrider_core::Fut;
use postrider_core::capability::Capability;
use postrider_core::code::Code;
use postrider_core::engine::{Cancel, CommitError, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::settle::SettleOp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::error::closed;
use crate::link::Link;
use crate::names::Names;
use pump::Pump;

/// Calls that wait for the publishing task; a further one waits for room.
const CALLS_MAX: usize = 64;

/// One call of [`Publisher::publish`].
struct Job {
    messages: Vec<Outgoing>,
    done: oneshot::Sender<Vec<Result<Receipt, Fault>>>,
}

pub(crate) struct RabbitPublisher {
    jobs: mpsc::Sender<Job>,
}

/// Starts the task of a publisher. It ends when the publisher was dropped, or once `stop` says so, with everything answered.
pub(crate) fn start(
    link: Arc<Link>,
    names: Arc<Names>,
    bytes_max: usize,
    stop: watch::Receiver<bool>,
) -> (Arc<RabbitPublisher>, JoinHandle<()>) {
    let (jobs, received) = mpsc::channel(CALLS_MAX);
    let task = tokio::spawn(Pump::new(link, names, bytes_max).run(received, stop));
    (Arc::new(RabbitPublisher { jobs }), task)
}

impl Publisher for RabbitPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(async move {
            let count = messages.len();
            if count == 0 {
                return Vec::new();
            }
            let (done, answer) = oneshot::channel();
            if self.jobs.send(Job { messages, done }).await.is_err() {
                return (0..count).map(|_| Err(closed())).collect();
            }
            match answer.await {
                Ok(results) => results,
                // The task was cut off with its runtime.
                Err(_) => (0..count).map(|_| Err(closed().unknown_effect())).collect(),
            }
        })
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        let text = "RabbitMQ cannot publish and settle in one step: publish, then settle";
        let fault = unsupported(Capability::AtomicSettle, text);
        let error = CommitError {
            fault,
            publish,
            settle,
        };
        Box::pin(async move { Err(error) })
    }

    fn cancel<'a>(&'a self, _: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        let text = "RabbitMQ keeps no message back, so there is none to cancel";
        Box::pin(async move { Err(unsupported(Capability::CancelDelayed, text)) })
    }
}

pub(crate) fn unsupported(capability: Capability, text: &str) -> Fault {
    let kind = FaultKind::Unsupported(capability);
    Fault::new(kind, Advice::FixConfig, text).code(Code::PLAN_REFUSED)
}
