//! What librdkafka calls back, on the task that polls the consumer: it only sends to a channel.

use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc;

/// What happened to the consumer.
#[derive(Debug)]
pub(crate) enum Happening {
    /// These partitions are to be taken.
    Assign(Vec<i32>),
    /// These are to be given back; `lost`: they were taken away already.
    Revoke { partitions: Vec<i32>, lost: bool },
}

/// The consumer's context.
pub(crate) struct Context {
    happenings: mpsc::UnboundedSender<Happening>,
    closing: AtomicBool,
}

impl Context {
    /// The channel is not bounded: the group waits for the answer to one assignment before it makes another.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Happening>) {
        let (happenings, received) = mpsc::unbounded_channel();
        let context = Self {
            happenings,
            closing: AtomicBool::new(false),
        };
        (context, received)
    }

    /// From now on what is revoked is given back within the callback: nobody listens to the channel any more, and a close that is not answered
    /// never ends.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    fn tell(&self, happening: Happening) {
        // Nobody listens: it is being closed.
        let _ = self.happenings.send(happening);
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "postrider", %error, reason, "kafka consumer");
    }
}

/// librdkafka mends most of what it reports by itself: it is for whoever looks closely.
pub(crate) fn log(level: RDKafkaLogLevel, fac: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::warn!(target: "postrider", fac, message, "librdkafka");
        }
        _ => tracing::debug!(target: "postrider", fac, message, "librdkafka"),
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assigns = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::SeqCst) {
            let cooperative = matches!(
                consumer.rebalance_protocol(),
                RebalanceProtocol::Cooperative
            );
            let answered = match (assigns, cooperative) {
                (true, true) => consumer.incremental_assign(&TopicPartitionList::new()),
                (false, true) => consumer.incremental_unassign(list),
                (_, false) => consumer.unassign(),
            };
            if let Err(error) = answered {
                tracing::debug!(target: "postrider", %error, "a consumer that closes");
            }
            return;
        }
        let partitions = list.elements().iter().map(|p| p.partition()).collect();
        self.tell(match assigns {
            true => Happening::Assign(partitions),
            false => Happening::Revoke {
                partitions,
                lost: consumer.assignment_lost(),
            },
        });
    }
}
