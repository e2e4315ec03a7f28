//! What the adapter says of a real broker beside the cases: depth, positions that are gone, other positions, members that come back. Each test opens
//! sources itself, with topics of one partition.

use std::time::{Duration, Instant};

use postrider::contract::engine::Publisher;
use postrider::contract::fault::{Advice, Fault, FaultKind};
use postrider::contract::id::{InstanceId, MessageId};
use postrider::contract::name::Destination;
use postrider::contract::source::{
    Commit, Credit, LogEvent, LogSource, Position, ShardEpoch, Source,
};
use postrider::contract::subscription::SubscriptionSpec;
use postrider::contract::topology::{DestinationSpec, Topology};
use postrider::{Bus, Envelope, Outgoing, ProvisionMode, SeekTo, SubscriptionId, Text, Timestamp};
use postrider_conformance::Subject as _;
use postrider_conformance::subjects::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "broker.test";
const ROOM: Credit = Credit {
    messages: 100,
    bytes: 1 << 20,
};

struct Bench {
    subject: Kafka,
    bus: Bus,
}

/// `options`: of the URL, beside one partition. `None`: no server is named.
async fn bench(options: &str) -> Option<Bench> {
    let url = super::url()?;
    let joint = if url.contains('?') { '&' } else { '?' };
    let subject = Kafka::new(&format!("{url}{joint}partitions=1{options}")).unwrap();
    let bus = subject.connect().await.unwrap();
    let topology = Topology {
        destinations: vec![DestinationSpec {
            destination: destination(),
            durability: None,
            retain: Duration::ZERO,
        }],
        subscriptions: Vec::new(),
    };
    let engine = bus.engine();
    engine
        .provision(&topology, ProvisionMode::Create)
        .await
        .unwrap();
    Some(Bench { subject, bus })
}

fn destination() -> Destination {
    Destination::topic(TOPIC).unwrap()
}

fn subscription(service: &str) -> SubscriptionId {
    SubscriptionId::parse(&format!("{service}@topic:{TOPIC}")).unwrap()
}

/// A source that was opened, and what it owns.
struct Member {
    source: Box<dyn LogSource>,
    at: Option<ShardEpoch>,
}

impl Bench {
    async fn publish(&self, count: u64) {
        let publisher: std::sync::Arc<dyn Publisher> = self.bus.engine().publisher().await.unwrap();
        let message = |n: u64| {
            let id = MessageId::v7(Timestamp(n), [n, 7]);
            let envelope = Envelope::new(id, Text::from("tests"), Text::from("t"), Timestamp(n));
            Outgoing {
                destination: destination(),
                envelope,
                payload: n.to_string().into(),
            }
        };
        for confirmed in publisher.publish((0..count).map(message).collect()).await {
            confirmed.unwrap();
        }
    }

    async fn depth(&self, service: &str) -> u64 {
        let admin = self.bus.engine().admin().unwrap();
        admin.depth(&subscription(service)).await.unwrap().depth
    }

    async fn open(&self, service: &str) -> Member {
        open(&self.bus, service).await
    }

    /// What is below the position goes, as retention would take it.
    async fn trim(&self, position: i64) {
        let url = super::url().unwrap();
        let servers = url
            .strip_prefix("kafka://")
            .unwrap()
            .split('?')
            .next()
            .unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers);
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let mut below = TopicPartitionList::new();
        let topic = format!("{}{TOPIC}", self.subject.prefix());
        below
            .add_partition_offset(&topic, 0, Offset::Offset(position))
            .unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        admin.delete_records(&below, &options).await.unwrap();
    }

    async fn close(self) {
        self.bus.close(PATIENCE).await.unwrap();
        self.subject.clear().await.unwrap();
    }
}

async fn open(bus: &Bus, service: &str) -> Member {
    let spec = SubscriptionSpec::new(subscription(service), InstanceId(1));
    let Source::Log(source) = bus.engine().open(&spec).await.unwrap() else {
        panic!("a subscription on Kafka is a log source");
    };
    Member { source, at: None }
}

impl Member {
    async fn next(&mut self) -> Result<LogEvent, Fault> {
        let event = tokio::time::timeout(PATIENCE, self.source.next(ROOM));
        event.await.expect("nothing happened within a minute")
    }

    /// Until it owns the partition: where its last owner left it.
    async fn assigned(&mut self) -> Position {
        loop {
            match self.next().await {
                Ok(LogEvent::Assigned { at, resume }) => {
                    self.at = Some(at);
                    return resume.watermark;
                }
                Ok(other) => panic!("{other:?} before it was assigned"),
                // A topic that was just made has no leader for a moment.
                Err(fault) => assert!(fault.is_retriable(), "{fault}"),
            }
        }
    }

    /// Positions of so many records.
    async fn read(&mut self, count: usize) -> Vec<u64> {
        let mut positions = Vec::new();
        while positions.len() < count {
            match self.next().await.unwrap() {
                LogEvent::Records { records, .. } => {
                    positions.extend(records.iter().map(|r| r.position));
                }
                other => panic!("{other:?} instead of records"),
            }
        }
        positions
    }

    async fn commit(&mut self, watermark: u64, done_above: Vec<(Position, u64)>) {
        let commit = Commit {
            watermark: Position(watermark),
            done_above,
        };
        self.source.commit(vec![(self.at.unwrap(), commit)]);
        loop {
            if let LogEvent::Committed(stored) = self.next().await.unwrap() {
                for (_, stored) in stored {
                    stored.unwrap();
                }
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_is_what_is_stored_and_not_committed_whoever_asks() {
    let Some(bench) = bench("").await else { return };
    bench.publish(10).await;
    let elsewhere = bench.subject.connect().await.unwrap();
    // A group that has committed nothing has everything before it.
    assert_eq!(bench.depth("a").await, 10);
    let mut member = bench.open("a").await;
    assert_eq!(member.assigned().await, Position(0));
    assert_eq!(bench.depth("a").await, 10);
    member.read(10).await;
    assert_eq!(bench.depth("a").await, 10, "read is not done");
    member.commit(4, vec![(Position(6), 2)]).await;
    assert_eq!(bench.depth("a").await, 4, "4 and 5, 8 and 9 wait");
    let admin = elsewhere.engine().admin().unwrap();
    let seen = admin.depth(&subscription("a")).await.unwrap();
    assert_eq!(seen.depth, 4, "another process asks the group");
    let begin = Instant::now();
    for service in ["a", "b", "c", "d", "e", "f"] {
        let expected = if service == "a" { 4 } else { 10 };
        assert_eq!(bench.depth(service).await, expected, "{service}");
    }
    println!(
        "first depths of five groups without members: {:?}",
        begin.elapsed()
    );
    let begin = Instant::now();
    for service in ["a", "b", "c", "d", "e", "f"] {
        bench.depth(service).await;
    }
    println!("six depths: {:?}", begin.elapsed());
    drop(member);
    let all = admin.destinations().await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].messages, all[0].next_position), (10, 10));
    let begin = Instant::now();
    elsewhere.close(PATIENCE).await.unwrap();
    bench.bus.close(PATIENCE).await.unwrap();
    println!("left and closed: {:?}", begin.elapsed());
    // What the next member finds is what was committed.
    let again = bench.subject.connect().await.unwrap();
    let mut member = open(&again, "a").await;
    assert_eq!(member.assigned().await, Position(4));
    drop(member);
    again.close(PATIENCE).await.unwrap();
    bench.subject.clear().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_passed_a_committed_offset_is_said_and_never_a_silent_jump() {
    let Some(bench) = bench("").await else { return };
    bench.publish(10).await;
    let mut member = bench.open("a").await;
    member.assigned().await;
    member.read(10).await;
    member.commit(2, Vec::new()).await;
    drop(member);
    bench.trim(5).await;
    let mut member = bench.open("a").await;
    assert_eq!(
        member.assigned().await,
        Position(2),
        "what was left is told as it is"
    );
    match member.next().await.unwrap() {
        LogEvent::DataLoss { at, asked, first } => {
            assert_eq!(Some(at), member.at);
            assert_eq!((asked, first), (Position(2), Position(5)));
        }
        other => panic!("{other:?} instead of the loss"),
    }
    assert_eq!(bench.depth("a").await, 5, "what is gone does not wait");
    drop(member);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seek_goes_anywhere_that_is_kept_and_says_what_is_not() {
    let Some(bench) = bench("").await else { return };
    bench.publish(10).await;
    let mut member = bench.open("a").await;
    member.assigned().await;
    member.read(10).await;
    let at = member.at.unwrap();
    member
        .source
        .seek(at, SeekTo::Position(Position(7)))
        .await
        .unwrap();
    assert_eq!(member.read(3).await, [7, 8, 9]);
    member.source.seek(at, SeekTo::Earliest).await.unwrap();
    assert_eq!(member.read(10).await, (0..10).collect::<Vec<_>>());
    // All was stored after the epoch, nothing in a far future.
    member
        .source
        .seek(at, SeekTo::Time(Timestamp(1)))
        .await
        .unwrap();
    assert_eq!(member.read(10).await, (0..10).collect::<Vec<_>>());
    let far = Timestamp(u64::from(u32::MAX) * 2000);
    member.source.seek(at, SeekTo::Time(far)).await.unwrap();
    bench.publish(1).await;
    assert_eq!(member.read(1).await, [10]);
    member.source.seek(at, SeekTo::Latest).await.unwrap();
    bench.publish(1).await;
    assert_eq!(member.read(1).await, [11]);
    bench.trim(5).await;
    let refused = member.source.seek(at, SeekTo::Position(Position(3))).await;
    assert_eq!(refused.unwrap_err().kind, FaultKind::DataLoss);
    let past = ShardEpoch {
        epoch: at.epoch + 1,
        ..at
    };
    let refused = member.source.seek(past, SeekTo::Earliest).await;
    assert_eq!(refused.unwrap_err().kind, FaultKind::Fenced);
    drop(member);
    bench.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_name_comes_back_at_once_and_fences_off_whoever_had_it() {
    // Without the name its partition would wait for half a minute.
    let Some(bench) = bench("&session=30s&member=node-1").await else {
        return;
    };
    bench.publish(3).await;
    let mut first = bench.open("a").await;
    first.assigned().await;
    first.read(3).await;
    first.commit(1, Vec::new()).await;
    let other = bench.subject.connect().await.unwrap();
    let begin = Instant::now();
    let mut second = open(&other, "a").await;
    assert_eq!(second.assigned().await, Position(1));
    let took = begin.elapsed();
    println!("took the name over in {took:?}");
    assert!(
        took < Duration::from_secs(20),
        "{took:?}: it waited for the session"
    );
    assert_eq!(second.read(2).await, [1, 2]);
    let fenced = loop {
        if let Err(fault) = first.next().await {
            break fault;
        }
    };
    assert_eq!(
        (fenced.kind, fenced.advice),
        (FaultKind::Fenced, Advice::StopOwner),
        "{fenced}"
    );
    assert!(fenced.message.contains("node-1.0"), "{fenced}");
    drop((first, second));
    other.close(PATIENCE).await.unwrap();
    bench.close().await;
}
