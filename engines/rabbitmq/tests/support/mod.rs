//! A namespace on the real server, a wire that can be cut, and messages.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use postrider_core::clock::Timestamp;
use postrider_core::engine::{Engine as _, Publisher, Receipt};
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::fault::Fault;
use postrider_core::id::{InstanceId, MessageId};
use postrider_core::message::Key;
use postrider_core::name::{Destination, SubscriptionId};
use postrider_core::settle::{LeaseToken, Settle, SettleOp};
use postrider_core::source::{Credit, LeaseSource, Leased, SeekTo, Settler, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{DestinationSpec, ProvisionMode, SubscriptionNeed, Topology};
use postrider_rabbitmq::{Options, RabbitEngine};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Long enough for a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Space {
    pub server: String,
    pub prefix: String,
    pub shards: u16,
}

/// A namespace of its own; `None` where no server is named: then nothing is tested, and it is said.
pub fn space(shards: u16) -> Option<Space> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = std::env::var("POSTRIDER_TEST_RABBITMQ_URL").ok();
    let Some(server) = server.filter(|url| !url.is_empty()) else {
        eprintln!("NOT TESTED: POSTRIDER_TEST_RABBITMQ_URL is not set");
        return None;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("live-{}-{}-{count}", now.as_micros(), std::process::id());
    Some(Space {
        server,
        prefix,
        shards,
    })
}

impl Space {
    pub fn options(&self) -> Options {
        Options {
            prefix: self.prefix.clone(),
            shards: self.shards,
            ..Options::default()
        }
    }

    pub async fn engine(&self) -> RabbitEngine {
        RabbitEngine::connect(&self.server, self.options())
            .await
            .unwrap()
    }

    /// Deletes what the subscriptions of this topology made.
    pub async fn clear(&self, topology: &Topology) {
        let connecting = Connection::connect(&self.server, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let prefix = &self.prefix;
        let mut queues = vec![format!("{prefix}:dead"), format!("{prefix}:unrouted")];
        let mut exchanges = vec![
            format!("{prefix}:dead"),
            format!("{prefix}:unrouted-of-{}", self.shards),
        ];
        let destinations = topology.destinations.iter().map(|d| d.destination.clone());
        let on = topology.subscriptions.iter().map(|s| s.id.on.clone());
        exchanges.extend(destinations.chain(on).map(|d| format!("{prefix}:{d}")));
        for need in &topology.subscriptions {
            for base in [need.id.to_string(), need.id.on.to_string()] {
                queues.push(format!("{prefix}:{base}"));
                queues.extend((0..self.shards).map(|n| format!("{prefix}:{base}#{n}")));
            }
        }
        for queue in queues {
            let options = QueueDeleteOptions::default();
            channel.queue_delete(queue.into(), options).await.unwrap();
        }
        for exchange in exchanges {
            let options = ExchangeDeleteOptions::default();
            channel
                .exchange_delete(exchange.into(), options)
                .await
                .unwrap();
        }
        connection.close(200, "bye".into()).await.unwrap();
    }

    /// How many messages are ready in a queue.
    pub async fn ready(&self, queue: &str) -> u32 {
        self.look(&[queue.to_owned()]).await[0].message_count()
    }

    /// How many consumers the shards of a subscription have.
    pub async fn consumers(&self, base: &str, shards: u16) -> u32 {
        let queues: Vec<_> = (0..shards).map(|n| format!("{base}{n}")).collect();
        let queues = self.look(&queues).await;
        queues.iter().map(lapin::Queue::consumer_count).sum()
    }

    async fn look(&self, queues: &[String]) -> Vec<lapin::Queue> {
        let connecting = Connection::connect(&self.server, ConnectionProperties::default());
        let connection = connecting.await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut all = Vec::new();
        for queue in queues {
            let options = lapin::options::QueueDeclareOptions {
                passive: true,
                ..Default::default()
            };
            let name = format!("{}:{queue}", self.prefix);
            let declared = channel.queue_declare(name.into(), options, Default::default());
            all.push(declared.await.unwrap());
        }
        connection.close(200, "bye".into()).await.unwrap();
        all
    }
}

pub fn id(text: &str) -> SubscriptionId {
    SubscriptionId::parse(text).unwrap()
}

/// A namespace, an engine in it, and one subscription that was made there.
pub async fn provisioned(
    shards: u16,
    subscription: &str,
    ordered: bool,
) -> Option<(Space, RabbitEngine, Topology)> {
    let space = space(shards)?;
    let engine = space.engine().await;
    let wanted = topology(subscription, ordered);
    create(&engine, &wanted).await;
    Some((space, engine, wanted))
}

/// One subscription and its destination.
pub fn topology(subscription: &str, ordered: bool) -> Topology {
    let id = id(subscription);
    Topology {
        destinations: vec![DestinationSpec {
            destination: id.on.clone(),
            durability: None,
            retain: Duration::ZERO,
        }],
        subscriptions: vec![SubscriptionNeed {
            id,
            ordered,
            start: SeekTo::Earliest,
        }],
    }
}

pub async fn create(engine: &RabbitEngine, topology: &Topology) -> Vec<String> {
    let created = engine.provision(topology, ProvisionMode::Create).await;
    created.unwrap().created
}

pub async fn open(
    engine: &RabbitEngine,
    subscription: &str,
    member: u64,
    ordered: bool,
) -> Box<dyn LeaseSource> {
    let mut spec = SubscriptionSpec::new(id(subscription), InstanceId(member));
    spec.ordered = ordered;
    match engine.open(&spec).await.unwrap() {
        Source::Lease(source) => source,
        Source::Log(_) => panic!("RabbitMQ is a lease engine"),
    }
}

/// The `n`-th message of a key.
pub fn message(to: &str, key: &str, n: u32) -> Outgoing {
    let id = MessageId::parse_or_hash(&format!("{to}/{key}/{n}"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = Timestamp(u64::try_from(now.as_millis()).unwrap());
    let mut envelope = Envelope::new(id, "test".into(), "counted".into(), now);
    envelope.key = Some(Key::new(key.to_owned()));
    envelope.sequence = Some(u64::from(n));
    Outgoing {
        destination: Destination::parse(to).unwrap(),
        envelope,
        payload: Bytes::from(format!("{key}/{n}")),
    }
}

pub async fn publish(
    publisher: &dyn Publisher,
    messages: Vec<Outgoing>,
) -> Vec<Result<Receipt, Fault>> {
    let published = tokio::time::timeout(SOON, publisher.publish(messages)).await;
    published.expect("an answer in time")
}

pub const ROOM: Credit = Credit {
    messages: 1000,
    bytes: 1 << 20,
};

/// Takes messages until there are as many.
pub async fn take(source: &mut dyn LeaseSource, count: usize) -> Vec<Leased> {
    let mut all = Vec::new();
    let taking = async {
        while all.len() < count {
            let room = Credit {
                messages: u32::try_from(count - all.len()).unwrap(),
                ..ROOM
            };
            match source.next(room).await {
                Ok(leased) => all.extend(leased),
                Err(fault) => eprintln!("asked again after: {fault}"),
            }
        }
    };
    let taken = tokio::time::timeout(SOON, taking).await;
    assert!(
        taken.is_ok(),
        "{} of {count} came: {:?}",
        all.len(),
        texts(&all)
    );
    all
}

/// Whether nothing comes for a while.
pub async fn stays_empty(source: &mut dyn LeaseSource, wait: Duration) -> bool {
    tokio::time::timeout(wait, source.next(ROOM)).await.is_err()
}

pub fn texts(leased: &[Leased]) -> Vec<String> {
    let text = |l: &Leased| String::from_utf8_lossy(&l.record.raw.body).into_owned();
    leased.iter().map(text).collect()
}

pub async fn settle(
    settler: &dyn Settler,
    tokens: impl IntoIterator<Item = LeaseToken>,
    how: impl Fn() -> Settle,
) -> Vec<Result<(), Fault>> {
    let ops = tokens.into_iter().map(|token| SettleOp {
        token,
        settle: how(),
    });
    let settled = settler.settle(ops.collect()).await;
    settled
        .into_iter()
        .map(|r| r.map_err(|e| e.fault))
        .collect()
}

/// A wire to the server that can be cut.
pub struct Wire {
    pub url: String,
    cut: watch::Sender<u32>,
}

impl Wire {
    pub async fn to(server: &str) -> Self {
        let uri: lapin::uri::AMQPUri = server.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let user = &uri.authority.userinfo;
        let url = format!(
            "amqp://{}:{}@127.0.0.1:{port}/%2f",
            user.username, user.password
        );
        let target = (uri.authority.host.clone(), uri.authority.port);
        let cut = watch::Sender::new(0);
        let cuts = cut.subscribe();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (target, mut cuts) = (target.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { url, cut }
    }

    /// Cuts all connections that there are; new ones are let through.
    pub fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }
}
