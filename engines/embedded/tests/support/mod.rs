//! What the tests of this engine share.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Clock, Mono, Timestamp};
use postrider_core::engine::{Engine, Publisher, Receipt};
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::failure::{Cause, FailureDraft, FailureFacts};
use postrider_core::fault::Fault;
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::{LeaseToken, Settle, SettleOp};
use postrider_core::source::{Credit, LeaseSource, Leased, SeekTo, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{DestinationSpec, ProvisionMode, SubscriptionNeed, Topology};
use postrider_embedded::{Embedded, MemoryOptions};

/// A clock that goes with the time of the tokio runtime, paused or not.
pub struct TokioClock {
    origin: tokio::time::Instant,
}

impl TokioClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: tokio::time::Instant::now(),
        })
    }
}

pub const START_MS: u64 = 1_763_735_534_000;

impl Clock for TokioClock {
    fn wall(&self) -> Timestamp {
        Timestamp(START_MS).plus(self.origin.elapsed())
    }
    fn mono(&self) -> Mono {
        Mono(self.origin.elapsed())
    }
}

pub const LEASE: Duration = Duration::from_secs(30);
pub const ROOM: Credit = Credit {
    messages: 100,
    bytes: 1 << 20,
};

pub fn memory() -> Embedded {
    Embedded::memory(MemoryOptions::on(TokioClock::new())).unwrap()
}

pub fn topic() -> Destination {
    Destination::topic("shop.order").unwrap()
}

pub fn queue() -> Destination {
    Destination::queue("payment.charge").unwrap()
}

pub fn subscription(service: &str) -> SubscriptionId {
    SubscriptionId::parse(&format!("{service}@topic:shop.order")).unwrap()
}

/// An id that is the same for the same number.
pub fn id(n: u64) -> MessageId {
    MessageId::v7(Timestamp(START_MS), [n, !n])
}

/// Message `n` of this key.
pub fn message(key: &str, n: u64) -> Outgoing {
    let mut envelope = Envelope::new(id(n), "shop".into(), "placed".into(), Timestamp(START_MS));
    envelope.key = Some(Key::new(Bytes::copy_from_slice(key.as_bytes())));
    envelope.sequence = Some(n);
    Outgoing {
        destination: topic(),
        envelope,
        payload: Bytes::from(format!("{{\"n\":{n}}}")),
    }
}

pub fn topology(services: &[&str]) -> Topology {
    let needs = services.iter().map(|service| SubscriptionNeed {
        id: subscription(service),
        ordered: true,
        start: SeekTo::Earliest,
    });
    Topology {
        destinations: vec![DestinationSpec {
            destination: topic(),
            durability: None,
            retain: Duration::ZERO,
        }],
        subscriptions: needs.collect(),
    }
}

pub async fn provision(engine: &Embedded, services: &[&str]) {
    engine
        .provision(&topology(services), ProvisionMode::Create)
        .await
        .unwrap();
}

pub async fn open(engine: &Embedded, service: &str, member: u64) -> Box<dyn LeaseSource> {
    let spec = SubscriptionSpec {
        lease: LEASE,
        ..SubscriptionSpec::new(subscription(service), InstanceId(member))
    };
    match engine.open(&spec).await.unwrap() {
        Source::Lease(source) => source,
        Source::Log(_) => panic!("the engine opens subscriptions as lease sources"),
    }
}

pub async fn publisher(engine: &Embedded) -> Arc<dyn Publisher> {
    engine.publisher().await.unwrap()
}

pub async fn publish(engine: &Embedded, messages: Vec<Outgoing>) -> Vec<Receipt> {
    let results = publisher(engine).await.publish(messages).await;
    results.into_iter().map(|result| result.unwrap()).collect()
}

/// What the source has now, without waiting for more.
pub async fn ready(source: &mut Box<dyn LeaseSource>) -> Vec<Leased> {
    let mut all = Vec::new();
    while let Some(some) = poll_once(source.next(ROOM)).await {
        all.extend(some.unwrap());
    }
    all
}

/// Lets everything that is ready happen, and no time pass: `None` where the future waits.
pub async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(future);
    for _ in 0..64 {
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await;
        if let std::task::Poll::Ready(out) = polled {
            return Some(out);
        }
        tokio::task::yield_now().await;
    }
    None
}

pub fn numbers(leased: &[Leased]) -> Vec<u64> {
    leased
        .iter()
        .map(|leased| leased.record.content.as_ref().unwrap().0.sequence.unwrap())
        .collect()
}

pub async fn settle(
    source: &dyn LeaseSource,
    token: LeaseToken,
    settle: Settle,
) -> Result<(), Fault> {
    let mut results = source
        .settler()
        .settle(vec![SettleOp { token, settle }])
        .await;
    results.pop().unwrap().map_err(|error| error.fault)
}

pub async fn ack_all(source: &dyn LeaseSource, leased: Vec<Leased>) {
    let ops = leased.into_iter().map(|leased| SettleOp {
        token: leased.token,
        settle: Settle::Ack,
    });
    for result in source.settler().settle(ops.collect()).await {
        result.unwrap();
    }
}

/// How this delivery failed.
pub fn draft(leased: &Leased, cause: Cause) -> Box<FailureDraft> {
    Box::new(FailureDraft {
        key: leased.record.key().cloned(),
        facts: FailureFacts {
            message_id: leased
                .record
                .content
                .as_ref()
                .ok()
                .map(|(envelope, _)| envelope.id),
            message_type: Some("placed".into()),
            cause,
            group: "card declined".into(),
            errors: vec!["card declined".into()],
            attempts: 3,
            first_seen: Timestamp(START_MS),
            failed_at: Timestamp(START_MS + 5),
            position: leased.record.position,
        },
        raw: leased.record.raw.clone(),
    })
}
