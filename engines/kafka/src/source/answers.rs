//! What the group is answered to a rebalance. It waits for exactly one answer to each, so an answer that was refused is kept and given again; until then
//! nothing else is read.

use std::collections::VecDeque;
use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::{LogEvent, ShardEpoch};
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::{KafkaSource, Owned};
use crate::board::Standing;
use crate::start::{self, Start};

/// How often an answer is given before the member leaves the group: librdkafka refuses only what does not fit its state, and no rebalance will mend that.
const TRIES_MAX: u32 = 10;

/// One answer.
#[derive(Debug)]
pub(super) enum Owed {
    /// These are taken, from there on.
    Take(Vec<Start>),
    /// These are given back.
    GiveBack(Vec<i32>),
}

/// Answers that the group waits for, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Answers {
    owed: VecDeque<Owed>,
    tries: u32,
}

impl Answers {
    pub(super) fn owe(&mut self, answer: Owed) {
        self.owed.push_back(answer);
    }

    /// Partitions were taken away. That is answered by giving back, once, also for those whose revocation was under way (`also`) and for what was still
    /// owed; nothing can be taken any more.
    pub(super) fn lost(&mut self, mut gone: Vec<i32>, also: Vec<i32>) {
        gone.extend(also);
        for owed in self.owed.drain(..) {
            if let Owed::GiveBack(partitions) = owed {
                gone.extend(partitions);
            }
        }
        gone.sort_unstable();
        gone.dedup();
        self.tries = 0;
        self.owed.push_back(Owed::GiveBack(gone));
    }

    /// What is still owed, where nothing is taken any more.
    pub(super) fn end(&mut self) -> Vec<Owed> {
        let nothing = |owed| match owed {
            Owed::Take(_) => Owed::Take(Vec::new()),
            given => given,
        };
        self.owed.drain(..).map(nothing).collect()
    }
}

impl KafkaSource {
    /// Gives the answers that are owed. One that is refused stays the first.
    ///
    /// # Errors
    /// `Conflict`, to be asked again; `StopOwner` once it was refused too often.
    pub(super) fn answer(&mut self) -> Result<(), Fault> {
        while let Some(owed) = self.answers.owed.pop_front() {
            if let Err(error) = self.tell(&owed) {
                self.answers.owed.push_front(owed);
                self.answers.tries += 1;
                return Err(self.refused(&error));
            }
            self.answers.tries = 0;
            if let Owed::Take(starts) = owed {
                self.begin(starts);
            }
        }
        Ok(())
    }

    fn refused(&self, error: &KafkaError) -> Fault {
        let (group, tries) = (&self.group, self.answers.tries);
        if tries < TRIES_MAX {
            let text =
                format!("an answer to a rebalance of the group {group} was refused: {error}");
            let after = Duration::ZERO;
            return Fault::new(FaultKind::Conflict, Advice::Retry { after }, text)
                .code(Code::ENGINE_FAILED)
                .because(error.clone());
        }
        let text = format!(
            "an answer to a rebalance of the group {group} was refused {tries} times: {error}; this member leaves the group, others go on: start it again"
        );
        Fault::new(FaultKind::Conflict, Advice::StopOwner, text)
            .code(Code::ENGINE_FAILED)
            .because(error.clone())
    }

    /// Gives one answer.
    pub(super) fn tell(&self, owed: &Owed) -> KafkaResult<()> {
        match owed {
            Owed::Take(starts) => self.take(starts),
            Owed::GiveBack(partitions) => self.give_back(partitions),
        }
    }

    fn take(&self, starts: &[Start]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for start in starts {
            let offset = start::offset(start.offset);
            list.add_partition_offset(&self.topic, start.partition, offset)?;
        }
        match self.client().rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.client().incremental_assign(&list),
            _ => self.client().assign(&list),
        }
    }

    /// Of those that librdkafka has: it refuses the answer as a whole where one was taken away before it was taken, and would wait for ever.
    fn give_back(&self, partitions: &[i32]) -> KafkaResult<()> {
        let client = self.client();
        match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => {
                let assigned = client.assignment()?;
                let is_there = |p: &i32| assigned.find_partition(&self.topic, *p).is_some();
                let there = partitions.iter().copied().filter(is_there);
                client.incremental_unassign(&self.list(there))
            }
            _ => client.unassign(),
        }
    }

    /// What was taken flows.
    fn begin(&mut self, starts: Vec<Start>) {
        let mut new: Vec<i32> = Vec::with_capacity(starts.len());
        for start in starts {
            self.epochs += 1;
            let epoch = self.epochs;
            let owned = Owned {
                epoch,
                next: start.offset,
                revoking: false,
            };
            self.owned.insert(start.partition, owned);
            let standing = Standing::from(&start.resume);
            let board = &self.connection.board;
            board.note(&self.group, self.no, start.partition, standing);
            let at = ShardEpoch {
                shard: start.partition.unsigned_abs(),
                epoch,
            };
            let resume = start.resume;
            self.events.push_back(LogEvent::Assigned { at, resume });
            if let Some((asked, first)) = start.loss {
                self.events
                    .push_back(LogEvent::DataLoss { at, asked, first });
            }
            new.push(start.partition);
        }
        // As the others: they flow again together. Where that is refused all are paused again, once there is no room.
        if self.paused
            && let Err(error) = self.client().pause(&self.list(new.into_iter()))
        {
            tracing::debug!(target: "postrider", %error, "what was taken flows at once");
            self.paused = false;
        }
    }
}
