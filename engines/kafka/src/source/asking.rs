//! What is asked of the server on a thread that may block: where partitions begin, and what is still kept of those whose position is gone.
//!
//! librdkafka says that *a* position is out of range, not whose, and fetches no more from that partition. So all that are owned are suspects until they
//! were looked at; a look that fails is made again, and one suspected during a look is looked at after it.

use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::{LogEvent, Position, ShardEpoch};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::task::JoinHandle;

use super::KafkaSource;
use super::answers::Owed;
use crate::fault::fault;
use crate::look::Edges;
use crate::start::{self, Start};

/// How long librdkafka may take to answer whether it still reads a partition: it asks nobody else.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// What is being asked.
pub(super) enum Asking {
    Nothing,
    /// Where partitions begin that are to be taken.
    Start(Vec<i32>, JoinHandle<KafkaResult<Vec<Start>>>),
    /// What of the partitions is still kept.
    Kept(Vec<Suspect>, JoinHandle<KafkaResult<Edges>>),
}

/// A partition as it was when it was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    partition: i32,
    at: ShardEpoch,
    next: u64,
}

pub(super) enum Told {
    Start(Vec<i32>, KafkaResult<Vec<Start>>),
    Kept(Vec<Suspect>, KafkaResult<Edges>),
}

/// CANCEL: the task goes on, and is asked again.
pub(super) async fn answered(asking: &mut Asking) -> Told {
    let told = match asking {
        Asking::Nothing => std::future::pending().await,
        Asking::Start(partitions, asked) => {
            let starts = asked.await.unwrap_or(Err(KafkaError::Canceled));
            Told::Start(std::mem::take(partitions), starts)
        }
        Asking::Kept(suspects, asked) => {
            let edges = asked.await.unwrap_or(Err(KafkaError::Canceled));
            Told::Kept(std::mem::take(suspects), edges)
        }
    };
    *asking = Asking::Nothing;
    told
}

impl KafkaSource {
    pub(super) fn ask_start(&mut self, partitions: Vec<i32>) {
        // A look gives way, and is made again afterwards: the group waits.
        if let Asking::Kept(suspects, _) = std::mem::replace(&mut self.asking, Asking::Nothing) {
            self.suspects.extend(suspects.iter().map(|s| s.partition));
        }
        let (consumer, topic) = (self.client(), self.topic.clone());
        let (begin, within) = (self.begin, self.connection.options.request_max);
        let asked = partitions.clone();
        let connection = self.connection.clone();
        let asking = tokio::task::spawn_blocking(move || {
            start::resolve(&*consumer, &connection.look, &topic, &asked, begin, within)
        });
        self.asking = Asking::Start(partitions, asking);
    }

    /// One of the partitions has no position any more.
    pub(super) fn suspect(&mut self, error: &KafkaError) {
        tracing::warn!(
            target: "postrider", %error, topic = self.topic, group = self.group,
            "a position is out of range: what is kept of the partitions is looked at"
        );
        let open = self.owned.iter().filter(|(_, owned)| !owned.revoking);
        self.suspects.extend(open.map(|(partition, _)| *partition));
    }

    /// Looks at the suspects, unless something else is being asked.
    pub(super) fn ask_kept(&mut self) {
        if self.suspects.is_empty() || !matches!(self.asking, Asking::Nothing) {
            return;
        }
        let mut suspects = Vec::with_capacity(self.suspects.len());
        for partition in std::mem::take(&mut self.suspects) {
            if let (Some(at), Some(owned)) = (self.at(partition), self.owned.get(&partition)) {
                let next = owned.next;
                suspects.push(Suspect {
                    partition,
                    at,
                    next,
                });
            }
        }
        if suspects.is_empty() {
            return;
        }
        let (connection, topic) = (self.connection.clone(), self.topic.clone());
        let partitions: Vec<i32> = suspects.iter().map(|s| s.partition).collect();
        let asking =
            tokio::task::spawn_blocking(move || connection.look.edges(&topic, &partitions));
        self.asking = Asking::Kept(suspects, asking);
    }

    pub(super) fn told(&mut self, told: Told) -> Result<(), Fault> {
        match told {
            Told::Start(partitions, Err(error)) => {
                // The group waits: it is asked again when this source is.
                self.ask_start(partitions);
                Err(fault("the positions of a group could not be read", &error))
            }
            Told::Start(_, Ok(starts)) => {
                self.answers.owe(Owed::Take(starts));
                Ok(())
            }
            Told::Kept(suspects, Err(error)) => {
                self.suspects.extend(suspects.iter().map(|s| s.partition));
                Err(fault("what is kept could not be asked", &error))
            }
            Told::Kept(suspects, Ok(edges)) => self.judge(&suspects, &edges),
        }
    }

    /// Says what is lost.
    fn judge(&mut self, suspects: &[Suspect], edges: &Edges) -> Result<(), Fault> {
        let mut in_range = Vec::new();
        for suspect in suspects {
            let owned = self.owned.get(&suspect.partition);
            // What went on since then is read. The end was asked after the position was noted: it is not behind one that is healthy.
            let stands = owned.is_some_and(|owned| {
                !owned.revoking && owned.epoch == suspect.at.epoch && owned.next == suspect.next
            });
            if !stands {
                continue;
            }
            match edges.get(&(self.topic.clone(), suspect.partition)) {
                Some(&(low, high)) if suspect.next < low || suspect.next > high => {
                    self.lost_at(suspect, suspect.next.clamp(low, high));
                }
                Some(_) => in_range.push(*suspect),
                None => {
                    self.suspects.insert(suspect.partition);
                }
            }
        }
        match self.stalled(&in_range) {
            Ok(stalled) => {
                // What was behind the position was cut off and written anew: how much of it was read is not known.
                stalled.iter().for_each(|s| self.lost_at(s, s.next));
                Ok(())
            }
            Err(error) => {
                self.suspects.extend(in_range.iter().map(|s| s.partition));
                let text = format!("whether partitions are still read could not be asked: {error}");
                let after = Duration::ZERO;
                let fault = Fault::new(FaultKind::Timeout, Advice::Retry { after }, text);
                Err(fault.code(Code::ENGINE_FAILED).because(error))
            }
        }
    }

    fn lost_at(&mut self, suspect: &Suspect, first: u64) {
        tracing::warn!(
            target: "postrider", topic = self.topic, group = self.group, partition = suspect.partition,
            asked = suspect.next, first, "the position is not kept"
        );
        self.events.push_back(LogEvent::DataLoss {
            at: suspect.at,
            asked: Position(suspect.next),
            first: Position(first),
        });
    }

    /// Which of them librdkafka reads no more: it goes to where the partition is anyway only in one that it reads.
    fn stalled(&self, suspects: &[Suspect]) -> KafkaResult<Vec<Suspect>> {
        if suspects.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::new();
        for suspect in suspects {
            let offset = start::offset(suspect.next);
            list.add_partition_offset(&self.topic, suspect.partition, offset)?;
        }
        let told = self.client().seek_partitions(list, PROBE_MAX)?;
        let refused = |suspect: &&Suspect| {
            let told = told.find_partition(&self.topic, suspect.partition);
            told.is_some_and(|told| told.error().is_err())
        };
        Ok(suspects.iter().filter(refused).copied().collect())
    }
}
