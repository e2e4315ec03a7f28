//! What a broker does only when things go wrong: on librdkafka's own mock of one.
#![allow(clippy::unwrap_used)]

use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::options::Options;
use crate::test_support::TokioClock;

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "shop.order";
const ROOM: Credit = Credit {
    messages: 100,
    bytes: 1 << 20,
};

struct World {
    mock: MockCluster<'static, DefaultProducerContext>,
    connection: Arc<Connection>,
    source: KafkaSource,
}

/// A member that owns all partitions, each with three records that were read.
async fn world(partitions: i32) -> World {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic(TOPIC, partitions, 1).unwrap();
    let options = Options::on(TokioClock::new());
    let connection = Arc::new(Connection::new(&mock.bootstrap_servers(), options));
    let id = SubscriptionId::parse("inventory@topic:shop.order").unwrap();
    let spec = SubscriptionSpec::new(id, InstanceId(1));
    let source = KafkaSource::open(&connection, &spec, TOPIC.to_owned()).unwrap();
    let mut world = World {
        mock,
        connection,
        source,
    };
    for partition in 0..partitions {
        world.publish(partition, 3).await;
    }
    world.assigned(partitions).await;
    world.read(3 * partitions as usize).await;
    world
}

impl World {
    async fn publish(&self, partition: i32, count: u32) {
        let config = self.connection.producer(1 << 20);
        let producer: FutureProducer = config.create().unwrap();
        for _ in 0..count {
            let record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(TOPIC)
                .partition(partition)
                .payload(b"x".as_slice());
            producer.send(record, PATIENCE).await.unwrap();
        }
    }

    async fn next(&mut self) -> Result<LogEvent, Fault> {
        let event = tokio::time::timeout(PATIENCE, self.source.next(ROOM));
        event.await.expect("nothing happened")
    }

    async fn assigned(&mut self, partitions: i32) {
        for _ in 0..partitions {
            loop {
                match self.next().await {
                    Ok(LogEvent::Assigned { .. }) => break,
                    Ok(other) => panic!("{other:?} before it was assigned"),
                    Err(fault) => assert!(fault.is_retriable(), "{fault}"),
                }
            }
        }
    }

    /// Shard and position of so many records.
    async fn read(&mut self, count: usize) -> Vec<(u32, u64)> {
        let mut read = Vec::new();
        while read.len() < count {
            match self.next().await {
                Ok(LogEvent::Records { at, records }) => {
                    read.extend(records.iter().map(|r| (at.shard, r.position)));
                }
                other => panic!("{other:?} instead of records"),
            }
        }
        read
    }

    /// The consumer is where nothing is, and so reads the partition no more.
    fn astray(&self, partition: i32) {
        let client = self.source.client();
        let beyond = start::offset(1000);
        client.seek(TOPIC, partition, beyond, PATIENCE).unwrap();
    }

    /// As if what was read had been cut off.
    fn cut_off(&mut self, partition: i32) {
        self.source.owned.get_mut(&partition).unwrap().next = 1000;
    }

    async fn loss(&mut self) -> (u32, u64, u64) {
        match self.next().await.unwrap() {
            LogEvent::DataLoss { at, asked, first } => (at.shard, asked.0, first.0),
            other => panic!("{other:?} instead of the loss"),
        }
    }

    /// A member that owes an answer would never leave.
    async fn close(self) {
        drop(self.source);
        self.connection.consumers_left(PATIENCE).await.unwrap();
    }
}

fn out_of_range() -> KafkaResult<(i32, Record)> {
    let code = RDKafkaErrorCode::AutoOffsetReset;
    Err(KafkaError::MessageConsumption(code))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_beyond_the_end_is_said_also_where_the_first_look_fails() {
    let mut world = world(1).await;
    let refusal = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_REQUEST];
    world
        .mock
        .request_errors(RDKafkaApiKey::ListOffsets, &refusal);
    world.cut_off(0);
    world.astray(0);
    let failed = world.next().await.unwrap_err();
    assert!(failed.is_retriable(), "{failed}");
    assert_eq!(world.loss().await, (0, 1000, 3));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_is_looked_at_also_where_something_else_is_being_asked() {
    let mut world = world(1).await;
    world.cut_off(0);
    let other = tokio::task::spawn_blocking(|| Ok(Vec::new()));
    world.source.asking = Asking::Start(Vec::new(), other);
    world.source.received(out_of_range()).unwrap();
    assert_eq!(world.loss().await, (0, 1000, 3));
    // The other way round: an assignment comes while it is looked at.
    world.source.received(out_of_range()).unwrap();
    world.source.ask_kept();
    world.source.ask_start(Vec::new());
    let other = tokio::task::spawn_blocking(|| Ok(Vec::new()));
    world.source.asking = Asking::Start(Vec::new(), other);
    assert_eq!(world.loss().await, (0, 1000, 3));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_read_no_more_is_said_though_its_position_is_kept_and_others_flow_on() {
    let mut world = world(2).await;
    world.astray(0);
    assert_eq!(world.loss().await, (0, 3, 3));
    world.publish(1, 2).await;
    assert_eq!(world.read(2).await, [(1, 3), (1, 4)]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_refused_is_given_again() {
    let mut world = world(1).await;
    // It has it already: refused as long as it does.
    world.source.happened(Happening::Assign(vec![0]));
    for _ in 0..2 {
        let refused = world.next().await.unwrap_err();
        assert!(refused.is_retriable(), "{refused}");
    }
    let list = world.source.list([0].into_iter());
    world.source.client().incremental_unassign(&list).unwrap();
    match world.next().await.unwrap() {
        LogEvent::Assigned { at, .. } => assert_eq!((at.shard, at.epoch), (0, 2)),
        other => panic!("{other:?} instead of the assignment"),
    }
    assert_eq!(world.read(3).await, [(0, 0), (0, 1), (0, 2)]);
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_answer_is_always_refused_leaves() {
    let mut world = world(1).await;
    world.source.happened(Happening::Assign(vec![0]));
    for _ in 1..10 {
        assert!(world.next().await.unwrap_err().is_retriable());
    }
    let over = world.next().await.unwrap_err();
    assert_eq!(over.advice, Advice::StopOwner, "{over}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_is_given_back_also_where_some_of_it_was_never_taken() {
    let mut world = world(1).await;
    world.source.answers.owe(Owed::Take(Vec::new()));
    world.source.happened(Happening::Revoke {
        partitions: vec![0, 1],
        lost: true,
    });
    let lost = world.next().await;
    assert!(
        matches!(lost, Ok(LogEvent::Lost { at }) if at.shard == 0),
        "{lost:?}"
    );
    assert_eq!(world.source.client().assignment().unwrap().count(), 0);
    world.close().await;
}

#[test]
fn one_answer_gives_back_all_that_was_lost() {
    let mut answers = Answers::default();
    answers.owe(Owed::Take(Vec::new()));
    answers.owe(Owed::GiveBack(vec![4, 2]));
    answers.lost(vec![1, 2], vec![3]);
    let owed = answers.end();
    assert!(
        matches!(&owed[..], [Owed::GiveBack(all)] if *all == [1, 2, 3, 4]),
        "{owed:?}"
    );
}
