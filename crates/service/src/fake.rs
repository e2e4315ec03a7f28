//! An engine without messages, for unit tests: it keeps what is published and hands nothing out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::capability::{Capabilities, Capability, Durability, Support};
use postrider_core::clock::{Clock, Entropy, Mono, Timestamp};
use postrider_core::engine::{
    Admin, Cancel, CommitError, Engine, EngineInfo, Publisher, Receipt, Scheduled,
};
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::{BodyHash, InstanceId, MessageId};
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::{SettleError, SettleOp};
use postrider_core::source::{Credit, LeaseSource, Leased, Record, Settler, Source};
use postrider_core::store::{
    CommitFailure, Committed, Fence, InboxEntry, Look, Outbox, ReadFailure, Seen, Store, StoreInfo,
    TxStore, Unit, Work,
};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::text::Text;
use postrider_core::topology::{DestinationSpec, ProvisionMode, Topology, TopologyDiff};
use tokio::sync::{Notify, mpsc};

use crate::bus::BusOptions;
use crate::delivery::{Delivery, Inner};
use crate::runtime::Runtime;

/// Time that moves only when told, numbers that only count.
#[derive(Default)]
pub(crate) struct Fixed {
    pub(crate) wall: AtomicU64,
    count: AtomicU64,
}

impl Clock for Fixed {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }
    fn mono(&self) -> Mono {
        Mono(Duration::from_millis(self.wall.load(Ordering::SeqCst)))
    }
}

impl Entropy for Fixed {
    fn next_u64(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }
}

pub(crate) struct FakeEngine {
    info: EngineInfo,
    pub(crate) published: Arc<Mutex<Vec<Outgoing>>>,
    pub(crate) provisioned: Mutex<Vec<Topology>>,
    /// Members that opened a subscription.
    pub(crate) members: Mutex<Vec<InstanceId>>,
    /// Destinations that cannot be created.
    pub(crate) refused: Mutex<Vec<Destination>>,
    /// How many subscriptions receipts speak of.
    pub(crate) subscriptions: u32,
    /// Replies that the inbox hands out.
    pub(crate) replies: mpsc::UnboundedSender<Outgoing>,
    inbox: Replies,
    /// Ends the inbox that is open.
    pub(crate) inbox_ends: Arc<Notify>,
    /// Ends a subscription that is open.
    pub(crate) source_ends: Arc<Notify>,
    /// No subscription can be opened for now.
    pub(crate) is_away: AtomicBool,
    /// What a close says.
    pub(crate) close_fault: Mutex<Option<Fault>>,
    pub(crate) closes: AtomicU64,
}

type Replies = Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Outgoing>>>;

impl FakeEngine {
    pub(crate) fn new(subscriptions: u32) -> Arc<Self> {
        let capabilities = Capabilities::none(1 << 20)
            .with(Capability::ConfirmedPublish, Support::Native)
            .with(Capability::FanOut, Support::Native)
            .with(Capability::KeyOrder, Support::Native);
        let (replies, inbox) = mpsc::unbounded_channel();
        Arc::new(Self {
            info: EngineInfo {
                scheme: "fake",
                product: "Fake".into(),
                version: "1".into(),
                location: "nowhere".into(),
                durability: Durability::Memory,
                capabilities,
            },
            published: Arc::default(),
            provisioned: Mutex::default(),
            members: Mutex::default(),
            refused: Mutex::default(),
            subscriptions,
            replies,
            inbox: Arc::new(tokio::sync::Mutex::new(inbox)),
            inbox_ends: Arc::default(),
            source_ends: Arc::default(),
            is_away: AtomicBool::new(false),
            close_fault: Mutex::default(),
            closes: AtomicU64::new(0),
        })
    }
}

struct Keep {
    published: Arc<Mutex<Vec<Outgoing>>>,
    subscriptions: u32,
}

impl Publisher for Keep {
    fn publish<'a>(&'a self, messages: Vec<Outgoing>) -> Fut<'a, Vec<Result<Receipt, Fault>>> {
        let receipt = Receipt {
            durability: Durability::Memory,
            position: None,
            duplicate: false,
            subscriptions: Some(self.subscriptions),
        };
        let receipts = messages.iter().map(|_| Ok(receipt.clone())).collect();
        self.published.lock().extend(messages);
        Box::pin(async { receipts })
    }
    fn commit<'a>(
        &'a self,
        publish: Vec<Outgoing>,
        settle: Vec<SettleOp>,
    ) -> Fut<'a, Result<Vec<Receipt>, CommitError>> {
        let capability = Capability::AtomicSettle;
        let fault = Fault::new(
            FaultKind::Unsupported(capability),
            Advice::FixConfig,
            "no commits",
        );
        Box::pin(async {
            Err(CommitError {
                fault,
                publish,
                settle,
            })
        })
    }
    fn cancel<'a>(&'a self, _: &'a Scheduled) -> Fut<'a, Result<Cancel, Fault>> {
        Box::pin(async { Ok(Cancel::Cancelled) })
    }
}

impl Engine for FakeEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }
    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        _: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        let refused = self.refused.lock();
        let refuses = |spec: &DestinationSpec| refused.contains(&spec.destination);
        if topology.destinations.iter().any(refuses) {
            let fault = Fault::new(
                FaultKind::Denied,
                Advice::FixConfig,
                "you may not create it",
            );
            return Box::pin(async { Err(fault) });
        }
        self.provisioned.lock().push(topology.clone());
        Box::pin(async { Ok(TopologyDiff::default()) })
    }
    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        let keep: Arc<dyn Publisher> = Arc::new(Keep {
            published: self.published.clone(),
            subscriptions: self.subscriptions,
        });
        Box::pin(async { Ok(keep) })
    }
    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        self.members.lock().push(spec.member);
        let (_, nothing) = mpsc::unbounded_channel();
        let source = Inbox {
            replies: Arc::new(tokio::sync::Mutex::new(nothing)),
            ends: Arc::clone(&self.source_ends),
        };
        Box::pin(async {
            if self.is_away.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Ok(Source::Lease(Box::new(source) as _))
        })
    }
    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        Box::pin(async move {
            let source = Inbox {
                replies: Arc::clone(&self.inbox),
                ends: Arc::clone(&self.inbox_ends),
            };
            let destination = Destination::inbox(instance.to_string())?;
            Ok((destination, Source::Lease(Box::new(source) as _)))
        })
    }
    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        None
    }
    fn admin(&self) -> Option<Arc<dyn Admin>> {
        None
    }
    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        self.closes.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { self.close_fault.lock().take().map_or(Ok(()), Err) })
    }
}

struct Inbox {
    replies: Replies,
    ends: Arc<Notify>,
}

impl LeaseSource for Inbox {
    fn next<'a>(&'a mut self, _: Credit) -> Fut<'a, Result<Vec<Leased>, Fault>> {
        Box::pin(async {
            let mut replies = self.replies.lock().await;
            let reply = tokio::select! {
                Some(reply) = replies.recv() => reply,
                () = self.ends.notified() => return Err(Fault::closed("the connection")),
            };
            let raw =
                postrider_core::carriage::write(&reply, postrider_core::carriage::Carriage::Binary);
            let token = postrider_core::settle::LeaseToken {
                position: 0,
                generation: 0,
            };
            Ok(vec![Leased {
                record: Record::read(raw, 0, None),
                token,
                until: None,
                deliveries: None,
                key_parked: false,
            }])
        })
    }
    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Forget)
    }
}

struct Forget;

impl Settler for Forget {
    fn settle<'a>(&'a self, ops: Vec<SettleOp>) -> Fut<'a, Vec<Result<(), SettleError>>> {
        Box::pin(async move { ops.into_iter().map(|_| Ok(())).collect() })
    }
    fn extend<'a>(
        &'a self,
        tokens: &'a [&'a postrider_core::settle::LeaseToken],
        by: Duration,
    ) -> Fut<'a, Vec<Result<Mono, Fault>>> {
        Box::pin(async move { tokens.iter().map(|_| Ok(Mono(by))).collect() })
    }
}

/// Options of a bus with fixed time.
pub(crate) fn options() -> BusOptions {
    let fixed = Arc::new(Fixed::default());
    fixed.wall.store(1_000_000, Ordering::SeqCst);
    BusOptions {
        source: Text::from_static("test"),
        clock: fixed.clone(),
        entropy: fixed,
        ..BusOptions::default()
    }
}

/// A bus on an engine.
pub(crate) async fn bus(engine: &Arc<FakeEngine>) -> crate::bus::Bus {
    let opened = crate::bus::Bus::from_engine(engine.clone(), options()).await;
    opened.expect("the fake engine gives a publisher")
}

/// A delivery of this envelope to `inventory@topic:shop.order`.
pub(crate) fn delivery_of(
    envelope: Envelope,
    payload: &'static str,
    runtime: Arc<Runtime>,
) -> Delivery {
    let subscription = SubscriptionId::parse("inventory@topic:shop.order");
    Delivery {
        inner: Arc::new(Inner {
            first_seen: envelope.time,
            envelope,
            payload: Bytes::from_static(payload.as_bytes()),
            subscription: subscription.expect("it is well formed"),
            attempt: 1,
            redriven: false,
            position: 7,
            fence: Fence::new(),
            runtime,
        }),
    }
}

/// An envelope of a `placed`.
pub(crate) fn envelope() -> Envelope {
    let id = MessageId::v7(Timestamp(1_000_000), [1, 2]);
    Envelope::new(
        id,
        Text::from_static("order"),
        Text::from_static("placed"),
        Timestamp(1_000_000),
    )
}

/// Any delivery.
pub(crate) fn delivery() -> Delivery {
    let options = options();
    let engine = FakeEngine::new(1);
    let publisher = Arc::new(Keep {
        published: engine.published.clone(),
        subscriptions: 1,
    });
    let runtime = Runtime::new(
        engine,
        publisher,
        options.clock,
        options.entropy,
        options.recorder,
    );
    let runtime = Arc::new(runtime);
    delivery_of(envelope(), r#"{"order_id":"o-1"}"#, runtime)
}

/// A store in memory: a list of texts, an inbox, what was sent.
pub(crate) struct FakeStore {
    info: StoreInfo,
    pub(crate) rows: Mutex<Vec<String>>,
    pub(crate) sent: Mutex<Vec<Outgoing>>,
    inbox: Mutex<HashMap<MessageId, BodyHash>>,
    /// For a relay.
    pub(crate) outbox: Option<Arc<dyn Outbox>>,
    /// How often a unit is run before it is committed: a group that failed as a whole runs again.
    pub(crate) runs: AtomicU64,
}

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(None)
    }

    pub(crate) fn with(outbox: Option<Arc<dyn Outbox>>) -> Arc<Self> {
        Arc::new(Self {
            outbox,
            info: StoreInfo {
                product: "Fake",
                version: "1".into(),
                location: "memory".into(),
                holds_messages: false,
            },
            rows: Mutex::default(),
            sent: Mutex::default(),
            inbox: Mutex::default(),
            runs: AtomicU64::new(1),
        })
    }

    fn look(&self, entry: &InboxEntry) -> Seen {
        match self.inbox.lock().get(&entry.message) {
            None => Seen::New,
            Some(body) if *body == entry.body => Seen::Done,
            Some(_) => Seen::Conflict,
        }
    }
}

impl Store for FakeStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }
    fn seen<'a>(&'a self, entry: &'a InboxEntry) -> Fut<'a, Result<Seen, Fault>> {
        Box::pin(async { Ok(self.look(entry)) })
    }
    fn prune_inbox(&self, _: Timestamp) -> Fut<'_, Result<u64, Fault>> {
        Box::pin(async { Ok(0) })
    }
    fn outbox(&self) -> Option<Arc<dyn Outbox>> {
        self.outbox.clone()
    }
    fn close(&self, _: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(async { Ok(()) })
    }
}

impl TxStore for FakeStore {
    type Conn = Vec<String>;

    fn transact<'a>(
        &'a self,
        unit: Unit,
        mut work: Work<Vec<String>>,
    ) -> Fut<'a, Result<Committed, CommitFailure>> {
        Box::pin(async move {
            match self.look(&unit.inbox) {
                Seen::New => {}
                Seen::Done => return Ok(Committed::Duplicate),
                Seen::Conflict => return Err(CommitFailure::Conflict),
            }
            let mut committed = None;
            for _ in 0..self.runs.load(Ordering::SeqCst) {
                let mut rows = self.rows.lock().clone();
                let sent = work(&mut rows).map_err(CommitFailure::Handler)?;
                committed = Some((rows, sent));
            }
            if unit.fence.is_broken() {
                return Err(CommitFailure::Fenced);
            }
            let (rows, sent) = committed.unwrap_or_default();
            let outgoing = u32::try_from(sent.len()).unwrap_or(u32::MAX);
            *self.rows.lock() = rows;
            self.sent.lock().extend(sent);
            self.inbox
                .lock()
                .insert(unit.inbox.message, unit.inbox.body);
            Ok(Committed::Applied { outgoing })
        })
    }

    fn write<'a>(&'a self, mut work: Work<Vec<String>>) -> Fut<'a, Result<u32, CommitFailure>> {
        Box::pin(async move {
            let mut rows = self.rows.lock();
            work(&mut rows).map_err(CommitFailure::Handler)?;
            Ok(0)
        })
    }

    fn read<'a>(&'a self, look: Look<Vec<String>>) -> Fut<'a, Result<(), ReadFailure>> {
        Box::pin(async move { look(&self.rows.lock()).map_err(ReadFailure::Handler) })
    }
}
