//! The publisher: one idempotent producer; confirms are awaited in the order in which messages were given to it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::Fut;
use postrider_core::capability::{Capability, Durability};
use postrider_core::clock::Clock;
use postrider_core::code::Code;
use postrider_core::engine::{Cancel, CommitError, Publisher, Receipt, Scheduled};
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind};
use postrider_core::settle::SettleOp;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};

use crate::connection::{Connection, Quiet};
use crate::fault::{fault, unconfirmed};
use crate::names;
use crate::probe::Probed;
use crate::record::{Outbound, outbound};

/// How long a message waits before it is given again to a producer whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct KafkaPublisher {
    /// Taken when it is dropped, on a thread that may block.
    producer: OnceLock<FutureProducer<Quiet>>,
    prefix: String,
    durability: Durability,
    message_bytes_max: usize,
    clock: Arc<dyn Clock>,
    closed: AtomicBool,
}

impl KafkaPublisher {
    pub(crate) fn new(connection: &Connection, probed: &Probed) -> KafkaResult<Self> {
        let config = connection.producer(probed.message_bytes_max);
        Ok(Self {
            producer: OnceLock::from(
                config.create_with_context::<_, FutureProducer<Quiet>>(Quiet)?,
            ),
            prefix: connection.options.prefix.clone(),
            durability: probed.durability,
            message_bytes_max: probed.message_bytes_max,
            clock: connection.options.clock.clone(),
            closed: AtomicBool::new(false),
        })
    }

    /// Takes nothing new and waits for what was given to it.
    pub(crate) async fn close(&self, grace: Duration) -> Result<(), Fault> {
        self.closed.store(true, Ordering::SeqCst);
        let Some(producer) = self.producer.get().cloned() else {
            return Ok(());
        };
        let flushed = tokio::task::spawn_blocking(move || producer.flush(grace)).await;
        let flushed = flushed.map_err(|_| Fault::closed("the runtime"))?;
        flushed.map_err(|error| fault("not all messages were confirmed", &error).unknown_effect())
    }

    /// ORDER: given to the producer one after the other; each key's messages go to one partition, in that order.
    async fn publish_all(&self, messages: Vec<Outgoing>) -> Vec<Result<Receipt, Fault>> {
        let mut broken: HashSet<(Destination, Bytes)> = HashSet::new();
        let mut given = Vec::with_capacity(messages.len());
        for message in &messages {
            let key = message.envelope.key.as_ref();
            let lane = key.map(|key| (message.destination.clone(), key.as_bytes().clone()));
            let one = match &lane {
                Some(lane) if broken.contains(lane) => Err(Fault::behind_failed(true)),
                _ => self.give(message).await,
            };
            if let (Err(_), Some(lane)) = (&one, lane) {
                broken.insert(lane);
            }
            given.push(one);
        }
        let mut results = Vec::with_capacity(given.len());
        for (message, one) in messages.iter().zip(given) {
            results.push(match one {
                Ok(confirm) => self.confirmed(message, confirm).await,
                Err(fault) => Err(fault),
            });
        }
        results
    }

    /// Into the producer's queue. Waits while that is full.
    async fn give(&self, message: &Outgoing) -> Result<DeliveryFuture, Fault> {
        self.check(message)?;
        let Outbound {
            key,
            headers,
            body,
            size,
        } = outbound(message);
        if size > self.message_bytes_max {
            return Err(too_large(size, self.message_bytes_max));
        }
        let topic = names::topic(&self.prefix, &message.destination);
        let mut record = FutureRecord {
            topic: &topic,
            partition: None,
            payload: Some(body.as_ref()),
            key: key.as_deref(),
            timestamp: None,
            headers: Some(headers),
        };
        loop {
            let producer = self.producer.get();
            let open = producer.filter(|_| !self.closed.load(Ordering::SeqCst));
            let producer = open.ok_or_else(|| Fault::closed("the engine"))?;
            record = match producer.send_result(record) {
                Ok(confirm) => return Ok(confirm),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => back,
                Err((error, _)) => return Err(unconfirmed(&topic, &error)),
            };
            tokio::time::sleep(FULL_PAUSE).await;
        }
    }

    fn check(&self, message: &Outgoing) -> Result<(), Fault> {
        if message.destination.kind == DestinationKind::Inbox {
            let text =
                "nobody waits for an answer over Kafka: this adapter has no reply topics yet";
            return Err(Fault::new(FaultKind::NoRoute, Advice::FixMessage, text)
                .code(Code::PUBLISH_NO_ROUTE));
        }
        let later = message.envelope.deliver_at;
        if later.is_some_and(|at| at > self.clock.wall()) {
            return Err(unsupported(
                Capability::DelayedDelivery,
                "Kafka keeps no message back until a later time",
            ));
        }
        Ok(())
    }

    async fn confirmed(
        &self,
        message: &Outgoing,
        confirm: DeliveryFuture,
    ) -> Result<Receipt, Fault> {
        let topic = &message.destination;
        let delivered = match confirm.await {
            Ok(Ok(delivered)) => delivered,
            Ok(Err((error, _))) => return Err(unconfirmed(&topic.to_string(), &error)),
            // The producer is gone, and what was on its way with it.
            Err(_canceled) => return Err(Fault::closed("the engine").unknown_effect()),
        };
        Ok(Receipt {
            durability: self.durability,
            position: u64::try_from(delivered.offset).ok(),
            duplicate: false,
            subscriptions: None,
        })
    }
}

/// A producer's end blocks its thread: not the one of a task.
impl Drop for KafkaPublisher {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            let end = std::thread::Builder::new().name("kafka-close".into());
            // Where no thread can be had it ends here.
            drop(end.spawn(move || drop(producer)));
        }
    }
}

fn too_large(size: usize, most: usize) -> Fault {
    let text = format!(
        "a message of {size} bytes, and the broker takes {most}: make it smaller, or raise message.max.bytes"
    );
    Fault::new(FaultKind::TooLarge, Advice::FixMessage, text).code(Code::PUBLISH_TOO_LARGE)
}

fn unsupported(capability: Capability, text: &str) -> Fault {
    let kind = FaultKind::Unsupported(capability);
    Fault::new(kind, Advice::FixMessage, text).code(Code::ENGINE_FAILED)
}

impl Publisher for KafkaPublisher {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        Box::pin(self.publish_all(messages))
    }

    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        let fault = unsupported(
            Capability::AtomicSettle,
            "this adapter does not use Kafka's transactions yet: publish, then settle",
        );
        Box::pin(std::future::ready(Err(CommitError {
            fault,
            publish,
            settle,
        })))
    }

    fn cancel<'a>(&'a self, _: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        let fault = unsupported(Capability::CancelDelayed, "Kafka keeps no message back");
        Box::pin(std::future::ready(Err(fault)))
    }
}
