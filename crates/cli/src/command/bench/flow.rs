//! An engine in a directory with one subscription, used as its contract says: for flows that no handler should slow down.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use postrider::contract::clock::Timestamp;
use postrider::contract::engine::{Engine as _, Publisher};
use postrider::contract::envelope::{Envelope, Outgoing};
use postrider::contract::fault::Fault;
use postrider::contract::id::{InstanceId, MessageId};
use postrider::contract::message::Key;
use postrider::contract::name::{Destination, SubscriptionId};
use postrider::contract::settle::{Settle, SettleOp};
use postrider::contract::source::{Credit, LeaseSource, Leased, SeekTo, Settler, Source};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::contract::topology::{ProvisionMode, SubscriptionNeed, Topology};
use postrider::embedded::{Embedded, Options};

const SUBSCRIPTION: &str = "bench@topic:bench.flow";
/// Longer than any benchmark: what is held stays held.
const LEASE: Duration = Duration::from_secs(24 * 3600);

pub(super) struct Flow {
    pub(super) engine: Embedded,
    pub(super) publisher: Arc<dyn Publisher>,
    destination: Destination,
    subscription: SubscriptionId,
    payload: Bytes,
    number: u64,
}

/// The subscription, opened.
pub(super) struct Reader {
    source: Box<dyn LeaseSource>,
    settler: Arc<dyn Settler>,
}

pub(super) fn fault(fault: Fault) -> anyhow::Error {
    anyhow!("{fault}")
}

/// What is subscribed to what.
pub(super) fn need(id: SubscriptionId) -> SubscriptionNeed {
    SubscriptionNeed {
        id,
        ordered: true,
        start: SeekTo::Earliest,
    }
}

impl Flow {
    /// Messages of this many bytes.
    pub(super) async fn open(directory: &Path, bytes: usize, options: Options) -> Result<Self> {
        let engine = Embedded::open(directory, options)?;
        let subscription = SubscriptionId::parse(SUBSCRIPTION)?;
        let topology = Topology {
            destinations: Vec::new(),
            subscriptions: vec![need(subscription.clone())],
        };
        engine
            .provision(&topology, ProvisionMode::Create)
            .await
            .map_err(fault)?;
        let publisher = engine.publisher().await.map_err(fault)?;
        Ok(Self {
            publisher,
            engine,
            destination: subscription.on.clone(),
            subscription,
            payload: vec![b'x'; bytes].into(),
            // Another process may have been here before: ids must be new.
            number: u64::from(std::process::id()) << 40,
        })
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        let mut spec = SubscriptionSpec::new(self.subscription.clone(), InstanceId(1));
        spec.lease = LEASE;
        let Source::Lease(source) = self.engine.open(&spec).await.map_err(fault)? else {
            bail!("the engine opens subscriptions as lease sources");
        };
        let settler = source.settler();
        Ok(Reader { source, settler })
    }

    /// The next messages. `deliver_at`: when each of them may be handed out, by its index.
    pub(super) fn messages(
        &mut self,
        count: u64,
        deliver_at: impl Fn(u64) -> Option<Timestamp>,
    ) -> Vec<Outgoing> {
        let message = |index: u64| {
            let n = self.number + index;
            let id = MessageId::v7(Timestamp(1_763_735_534_000 + (n & 0xffff_ffff)), [n, n]);
            let mut envelope = Envelope::new(
                id,
                "bench".into(),
                "sample".into(),
                Timestamp(1_763_735_534_000),
            );
            envelope.key = Some(Key::of(&(n % 1000)));
            envelope.deliver_at = deliver_at(index);
            Outgoing {
                destination: self.destination.clone(),
                envelope,
                payload: self.payload.clone(),
            }
        };
        let messages = (0..count).map(message).collect();
        self.number += count;
        messages
    }

    /// Publishes the next messages, and waits until all of them are confirmed.
    pub(super) async fn publish(&mut self, count: u64) -> Result<()> {
        let messages = self.messages(count, |_| None);
        publish(&*self.publisher, messages).await
    }

    pub(super) async fn close(self) -> Result<()> {
        self.engine.close(super::GRACE).await.map_err(fault)
    }
}

/// Publishes, and waits until all of them are confirmed.
pub(super) async fn publish(publisher: &dyn Publisher, messages: Vec<Outgoing>) -> Result<()> {
    for result in publisher.publish(messages).await {
        result.map_err(fault)?;
    }
    Ok(())
}

impl Reader {
    /// What there is, at most 1,024 messages; waits for the first.
    pub(super) async fn next(&mut self) -> Result<Vec<Leased>> {
        let credit = Credit {
            messages: 1024,
            bytes: 64 << 20,
        };
        self.source.next(credit).await.map_err(fault)
    }

    pub(super) async fn ack(&self, leased: Vec<Leased>) -> Result<()> {
        self.acks(leased).await
    }

    /// The same, to be awaited beside what is read next.
    pub(super) fn acks(&self, leased: Vec<Leased>) -> impl Future<Output = Result<()>> + use<> {
        let settler = Arc::clone(&self.settler);
        let ops = leased.into_iter().map(|one| SettleOp {
            token: one.token,
            settle: Settle::Ack,
        });
        let ops: Vec<SettleOp> = ops.collect();
        async move {
            for result in settler.settle(ops).await {
                result.map_err(|error| fault(error.fault))?;
            }
            Ok(())
        }
    }
}
