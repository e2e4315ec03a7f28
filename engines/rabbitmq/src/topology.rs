//! Exchanges and queues: looking, comparing, making. Nothing is ever deleted.
//!
//! A declaration that differs closes its channel, so each look that may fail has a channel that can be thrown away.

use std::collections::BTreeSet;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind, SubscriptionId};
use postrider_core::topology::{
    DestinationSpec, ProvisionMode, SubscriptionNeed, Topology, TopologyDiff,
};

use crate::error::fault;
use crate::link::Link;
use crate::names::Names;

/// The server's own delivery limit: far above any policy of ours, which decides. It counts hand-overs to a member, not handler starts, and what
/// it takes out goes to the queue `PREFIX:dead`, never away.
const DELIVERY_LIMIT: i64 = 1_000_000;
/// Messages that nobody was bound for, kept at most; the oldest goes first.
const UNROUTED_MAX: i64 = 100_000;

/// Something on the server.
#[derive(Clone, Debug)]
enum Piece {
    Exchange {
        name: ShortString,
        kind: ExchangeKind,
        arguments: FieldTable,
    },
    Queue {
        name: ShortString,
        arguments: FieldTable,
        exchange: ShortString,
        key: ShortString,
    },
}

impl Piece {
    fn name(&self) -> &ShortString {
        match self {
            Self::Exchange { name, .. } | Self::Queue { name, .. } => name,
        }
    }
}

/// What belongs to one destination or subscription.
struct Group {
    text: String,
    pieces: Vec<Piece>,
    /// Queues that must not be there, and what it would mean.
    instead: Option<(ShortString, String)>,
    missing: BTreeSet<String>,
}

/// Compares and, where the mode says so, creates. Everything is looked at before anything is made.
pub(crate) async fn provision(
    link: &Link,
    names: &Names,
    topology: &Topology,
    mode: ProvisionMode,
) -> Result<TopologyDiff, Fault> {
    let mut groups = vec![base(names)];
    for spec in &topology.destinations {
        check_destination(spec)?;
        groups.push(destination(names, &spec.destination)?);
    }
    for need in &topology.subscriptions {
        check_owner(topology, need)?;
        groups.push(subscription(names, need)?);
    }
    let mut desk = Desk::new(link);
    let mut diff = TopologyDiff::default();
    for group in &mut groups {
        desk.compare(group, &mut diff).await?;
        if mode == ProvisionMode::Check && !group.missing.is_empty() {
            diff.missing.push(group.text.clone());
        }
    }
    if !diff.missing.is_empty() || !diff.differs.is_empty() {
        return Err(differs(&diff));
    }
    if mode != ProvisionMode::Check {
        for group in &groups {
            desk.make(group).await?;
            // The ground that all stand on is not what was asked for.
            if !group.missing.is_empty() && group.text != names.dead() {
                diff.created.push(group.text.clone());
            }
        }
    }
    Ok(diff)
}

fn check_destination(spec: &DestinationSpec) -> Result<(), Fault> {
    use postrider_core::capability::Durability;
    let refuse = |why: &str| {
        let text = format!("{} {why}", spec.destination);
        Err(Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::PLAN_REFUSED))
    };
    if spec.durability.is_some_and(|d| d > Durability::Flushed) {
        return refuse(
            "asks for copies on several machines: whether this server has them is not known to a client",
        );
    }
    if !spec.retain.is_zero() {
        return refuse("asks to keep what was settled: a queue does not");
    }
    Ok(())
}

/// A queue has one owner, in what is asked for; what exists answers at its declaration.
fn check_owner(topology: &Topology, need: &SubscriptionNeed) -> Result<(), Fault> {
    let others = topology.subscriptions.iter().map(|other| &other.id);
    let other = others
        .into_iter()
        .find(|other| other.on == need.id.on && other.service != need.id.service);
    match other {
        Some(other) if need.id.on.kind == DestinationKind::Queue => Err(two_owners(&format!(
            "{} belongs to {}, and {} wants it too",
            need.id.on, other.service, need.id.service
        ))),
        _ => Ok(()),
    }
}

fn two_owners(text: &str) -> Fault {
    let text = format!("{text}: a queue has one owner, use a topic");
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::QUEUE_TWO_OWNERS)
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.as_bytes().to_vec().into())
}

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// What all destinations stand on: a place for what was dropped, and one for what nobody was bound for.
fn base(names: &Names) -> Group {
    let (dead, unrouted) = (names.dead(), names.unrouted());
    let fanout = |name: &str| Piece::Exchange {
        name: name.into(),
        kind: ExchangeKind::Fanout,
        arguments: FieldTable::default(),
    };
    let alternate = names.alternate();
    let pieces = vec![
        fanout(&dead),
        Piece::Queue {
            name: dead.as_str().into(),
            arguments: table([
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
            ]),
            exchange: dead.as_str().into(),
            key: "".into(),
        },
        fanout(&alternate),
        Piece::Queue {
            name: unrouted.as_str().into(),
            arguments: table([
                ("x-queue-type", text("quorum")),
                ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
                ("x-max-length", AMQPValue::LongLongInt(UNROUTED_MAX)),
                ("x-overflow", text("drop-head")),
            ]),
            exchange: alternate.as_str().into(),
            key: "".into(),
        },
    ];
    Group {
        text: dead,
        pieces,
        instead: None,
        missing: BTreeSet::new(),
    }
}

fn exchange_of(names: &Names, destination: &Destination) -> Result<Piece, Fault> {
    Ok(Piece::Exchange {
        name: names.exchange(destination)?,
        kind: ExchangeKind::Topic,
        arguments: table([("alternate-exchange", text(&names.alternate()))]),
    })
}

fn destination(names: &Names, destination: &Destination) -> Result<Group, Fault> {
    Ok(Group {
        text: destination.to_string(),
        pieces: vec![exchange_of(names, destination)?],
        instead: None,
        missing: BTreeSet::new(),
    })
}

fn subscription(names: &Names, need: &SubscriptionNeed) -> Result<Group, Fault> {
    let exchange = names.exchange(&need.id.on)?;
    let mut pieces = vec![exchange_of(names, &need.id.on)?];
    let queues = names.queues(&need.id, need.ordered)?;
    for (shard, name) in (0u16..).zip(queues) {
        let key = match need.ordered {
            true => Names::binding(shard),
            false => "#".into(),
        };
        pieces.push(Piece::Queue {
            name,
            arguments: queue_arguments(names, &need.id, need.ordered),
            exchange: exchange.clone(),
            key,
        });
    }
    let other = match need.ordered {
        true => names.unsharded(&need.id)?,
        false => names.shard(&need.id, 0)?,
    };
    let word = |ordered| if ordered { "ordered" } else { "unordered" };
    let meaning = format!(
        "it is {}, {} is needed",
        word(!need.ordered),
        word(need.ordered)
    );
    Ok(Group {
        text: need.id.to_string(),
        pieces,
        instead: Some((other, meaning)),
        missing: BTreeSet::new(),
    })
}

fn queue_arguments(names: &Names, id: &SubscriptionId, ordered: bool) -> FieldTable {
    let mut arguments = table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text(&names.dead())),
        // The server compares it at each declaration: so it also tells a second owner of a queue from the first.
        ("x-dead-letter-routing-key", text(&id.to_string())),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]);
    if ordered {
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

/// Declares on a channel that is opened again whenever a declaration closed it.
pub(crate) struct Desk<'a> {
    link: &'a Link,
    channel: Option<Channel>,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(link: &'a Link) -> Self {
        Self {
            link,
            channel: None,
        }
    }

    async fn channel(&mut self) -> Result<Channel, Fault> {
        if let Some(channel) = self.channel.as_ref().filter(|c| c.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.link.channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// Gives the number of messages that a queue has ready.
    async fn declare(&mut self, piece: &Piece, passive: bool) -> Result<u32, Fault> {
        let channel = self.channel().await?;
        let what = format!("declaring {}", piece.name());
        let declared = match piece {
            Piece::Exchange {
                name,
                kind,
                arguments,
            } => {
                let options = ExchangeDeclareOptions {
                    passive,
                    durable: true,
                    ..ExchangeDeclareOptions::default()
                };
                let declaring = channel.exchange_declare(
                    name.clone(),
                    kind.clone(),
                    options,
                    arguments.clone(),
                );
                declaring.await.map(|()| 0)
            }
            Piece::Queue {
                name, arguments, ..
            } => {
                let options = QueueDeclareOptions {
                    passive,
                    durable: true,
                    ..QueueDeclareOptions::default()
                };
                let declaring = channel.queue_declare(name.clone(), options, arguments.clone());
                declaring.await.map(|queue| queue.message_count())
            }
        };
        declared.map_err(|error| {
            // The server closes the channel of a declaration that it refuses.
            self.channel = None;
            fault(&what, &error)
        })
    }

    /// What a passive declaration says; `None`: it is not there.
    async fn look(&mut self, piece: &Piece) -> Result<Option<u32>, Fault> {
        match self.declare(piece, true).await {
            Ok(messages) => Ok(Some(messages)),
            Err(fault) if fault.kind == FaultKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn exists(&mut self, piece: &Piece) -> Result<bool, Fault> {
        Ok(self.look(piece).await?.is_some())
    }

    /// Whether the exchange of a destination is there.
    pub(crate) async fn exchange_exists(
        &mut self,
        names: &Names,
        destination: &Destination,
    ) -> Result<bool, Fault> {
        self.exists(&exchange_of(names, destination)?).await
    }

    /// Whether a queue of this name is there.
    pub(crate) async fn queue_exists(&mut self, name: ShortString) -> Result<bool, Fault> {
        Ok(self.ready(name).await?.is_some())
    }

    /// Messages of a queue that nobody holds; `None`: it is not there.
    pub(crate) async fn ready(&mut self, name: ShortString) -> Result<Option<u64>, Fault> {
        let piece = Piece::Queue {
            name,
            arguments: FieldTable::default(),
            exchange: "".into(),
            key: "".into(),
        };
        Ok(self.look(&piece).await?.map(u64::from))
    }

    async fn compare(&mut self, group: &mut Group, diff: &mut TopologyDiff) -> Result<(), Fault> {
        for piece in &group.pieces {
            if !self.exists(piece).await? {
                group.missing.insert(piece.name().to_string());
                continue;
            }
            match self.declare(piece, false).await {
                Ok(_) => {}
                Err(fault) if fault.kind == FaultKind::Config => {
                    if fault.message.contains("'x-dead-letter-routing-key'") {
                        return Err(two_owners(&fault.message));
                    }
                    diff.differs
                        .push(format!("{}: {}", group.text, fault.message));
                }
                Err(fault) => return Err(fault),
            }
        }
        if let Some((other, meaning)) = &group.instead
            && self.queue_exists(other.clone()).await?
        {
            diff.differs.push(format!("{}: {meaning}", group.text));
        }
        Ok(())
    }

    /// Creates what is missing, and binds all: a binding cannot be looked at, and making it again changes nothing.
    async fn make(&mut self, group: &Group) -> Result<(), Fault> {
        for piece in &group.pieces {
            if group.missing.contains(piece.name().as_str()) {
                self.declare(piece, false).await?;
            }
            if let Piece::Queue {
                name,
                exchange,
                key,
                ..
            } = piece
            {
                let channel = self.channel().await?;
                let binding = channel.queue_bind(
                    name.clone(),
                    exchange.clone(),
                    key.clone(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                binding
                    .await
                    .map_err(|error| fault(&format!("binding {name}"), &error))?;
            }
        }
        Ok(())
    }
}

fn differs(diff: &TopologyDiff) -> Fault {
    let mut text = String::from("what exists differs from what the service needs");
    if !diff.missing.is_empty() {
        text.push_str(&format!("; missing: {}", diff.missing.join(", ")));
    }
    if !diff.differs.is_empty() {
        text.push_str(&format!("; {}", diff.differs.join("; ")));
    }
    text.push_str(": provision with create, or mend it by hand");
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::TOPOLOGY_DIFFERS)
}
