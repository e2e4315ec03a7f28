//! A subscription as a consumer group: partitions come and go, records flow, progress is committed.
//!
//! The recipe, with its reasons:
//!
//! - `cooperative-sticky`: a member that comes or goes moves only the partitions that must move; the others flow on.
//! - The rebalance callback runs while this source is asked for what is next. It only sends to a channel, and makes **no** call that assigns:
//!   *assign* is answered once the positions of its last owner are known, *revoke* once the kernel has drained and committed what it had of **all** the
//!   partitions that go. One call answers for all of them: a call for the first would let the group go on while the others still work.
//! - Partitions that were *lost* are answered at once; what is committed for them later is refused here, by their epoch.
//! - A commit that the group refuses because a rebalance is on its way is *not* fenced: with cooperative rebalances a member keeps most of its
//!   partitions over it. It is made again; what tells that a partition is gone is the group, by taking it away.
//! - What the kernel has no room for is kept here, up to a bound; then the partitions are paused. The consumer is asked all the time, for that is its
//!   lease.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use postrider_core::Fut;
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::{
    Commit, Credit, LogEvent, LogSource, Position, Record, SeekTo, ShardEpoch,
};
use postrider_core::subscription::SubscriptionSpec;
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::board::{MemberNo, Standing};
use crate::connection::{Client, Connection, SESSION_MAX, SESSION_MIN};
use crate::context::{Context, Happening};
use crate::fault::{fault, stale};
use crate::seats::Seat;
use crate::{done, names, record, start};

use answers::{Answers, Owed};
use asking::Asking;

mod answers;
mod asking;
#[cfg(test)]
mod tests;

/// Messages that are kept for a kernel without room, before the partitions are paused. Bytes: what librdkafka hands out while it is told to pause.
const BUFFER_MESSAGES_MAX: usize = 512;
/// Records of one event.
const BATCH_MAX: usize = 256;

/// A partition that this member owns.
struct Owned {
    epoch: u64,
    /// The position of the next record to come.
    next: u64,
    revoking: bool,
}

/// A revocation whose partitions still work.
struct Revocation {
    all: Vec<i32>,
    /// Those that still work.
    open: BTreeSet<i32>,
}

pub(crate) struct KafkaSource {
    /// Taken by the end alone.
    consumer: Option<Arc<Client>>,
    happenings: mpsc::UnboundedReceiver<Happening>,
    connection: Arc<Connection>,
    group: String,
    topic: String,
    /// This member on the board.
    no: MemberNo,
    /// Given up once the consumer has left.
    seat: Option<Seat>,
    begin: SeekTo,
    /// How long what is revoked may go on.
    drain_max: Duration,
    owned: BTreeMap<i32, Owned>,
    epochs: u64,
    events: VecDeque<LogEvent>,
    buffer: VecDeque<(i32, Record)>,
    paused: bool,
    asking: Asking,
    /// Partitions of which one or more has no position any more: nothing comes from it until it was looked at.
    suspects: BTreeSet<i32>,
    revocation: Option<Revocation>,
    answers: Answers,
    /// Commits without an answer, the oldest first.
    committing: VecDeque<Committing>,
}

/// Commits on their way, and their common answer.
type Committing = (Vec<(ShardEpoch, Standing)>, JoinHandle<KafkaResult<()>>);

impl KafkaSource {
    pub(crate) fn open(
        connection: &Arc<Connection>,
        spec: &SubscriptionSpec,
        topic: String,
    ) -> Result<Self, Fault> {
        let refused = |error| fault("the subscription could not be opened", &error);
        let group = names::group(&connection.options.prefix, &spec.id);
        let (context, happenings) = Context::new();
        let name = connection.options.member.as_deref();
        let seat = name.map(|name| connection.seats.take(&group, name));
        let named = seat.as_ref().map(|seat| seat.name.as_str());
        let config = connection.consumer(&group, spec.lease, named);
        let consumer: Client = config.create_with_context(context).map_err(refused)?;
        consumer.subscribe(&[&topic]).map_err(refused)?;
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
            happenings,
            connection: connection.clone(),
            group,
            no: connection.board.join(),
            seat,
            topic,
            begin: spec.start,
            // The group waits for a member as long as its lease: then there is time left to answer.
            drain_max: spec.lease.clamp(SESSION_MIN, SESSION_MAX) / 2,
            owned: BTreeMap::new(),
            epochs: 0,
            events: VecDeque::new(),
            buffer: VecDeque::new(),
            paused: false,
            asking: Asking::Nothing,
            suspects: BTreeSet::new(),
            revocation: None,
            answers: Answers::default(),
            committing: VecDeque::new(),
        })
    }

    fn client(&self) -> Arc<Client> {
        let client = self.consumer.as_ref();
        Arc::clone(client.expect("it is taken by the end alone"))
    }

    async fn next_event(&mut self, room: Credit) -> Result<LogEvent, Fault> {
        let consumer = self.client();
        loop {
            while let Ok(happening) = self.happenings.try_recv() {
                self.happened(happening);
            }
            if let Err(fault) = self.answer() {
                // It was asked all the same: that is its lease, and what happens meanwhile is heard.
                self.receive_one(&consumer)?;
                return Err(fault);
            }
            self.ask_kept();
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if let Some(event) = self.take_buffered(room) {
                return Ok(event);
            }
            self.balance()?;
            tokio::select! {
                biased;
                Some(happening) = self.happenings.recv() => self.happened(happening),
                answer = asking::answered(&mut self.asking) => self.told(answer)?,
                stored = oldest(&mut self.committing) => {
                    if let Some((shards, _)) = self.committing.pop_front() {
                        self.tell_committed(shards, &stored);
                    }
                }
                message = consumer.recv() => {
                    let read = message.map(|m| (m.partition(), record::read(&m)));
                    self.received(read)?;
                    self.receive_ready(&consumer)?;
                }
            }
        }
    }

    /// Whatever else is there already, as far as there is room for it here.
    fn receive_ready(&mut self, consumer: &Client) -> Result<(), Fault> {
        while self.buffer.len() < BUFFER_MESSAGES_MAX && self.receive_one(consumer)? {}
        Ok(())
    }

    /// What is there already; `false`: nothing.
    fn receive_one(&mut self, consumer: &Client) -> Result<bool, Fault> {
        let Some(message) = consumer.recv().now_or_never() else {
            return Ok(false);
        };
        let read = message.map(|m| (m.partition(), record::read(&m)));
        self.received(read)?;
        Ok(true)
    }

    fn received(&mut self, read: KafkaResult<(i32, Record)>) -> Result<(), Fault> {
        let error = match read {
            Ok((partition, record)) => {
                if let Some(owned) = self.owned.get_mut(&partition).filter(|o| !o.revoking) {
                    owned.next = record.position.saturating_add(1);
                    self.buffer.push_back((partition, record));
                }
                return Ok(());
            }
            // The driver tells what is behind it: the code is any.
            Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(self.dead(&error)),
            Err(error) => error,
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.suspect(&error);
                Ok(())
            }
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => Err(fault(&format!("{} cannot be read", self.topic), &error)),
            // It mends itself, or a rebalance follows.
            _ => {
                tracing::debug!(target: "postrider", %error, topic = self.topic, "kafka consumer");
                Ok(())
            }
        }
    }

    /// The consumer gave up for good.
    fn dead(&self, error: &KafkaError) -> Fault {
        let name = self.seat.as_ref().map(|seat| seat.name.as_str());
        match (error.rdkafka_error_code(), name) {
            (Some(RDKafkaErrorCode::FencedInstanceId), Some(name)) => {
                let text = format!(
                    "another process took the name {name} in the group {}: `member` is a name that one process has at a time",
                    self.group
                );
                Fault::new(FaultKind::Fenced, Advice::StopOwner, text).code(Code::FENCED)
            }
            _ => {
                let text = format!("{} cannot be read any more: {error}", self.topic);
                Fault::new(FaultKind::Conflict, Advice::StopOwner, text)
                    .code(Code::ENGINE_FAILED)
                    .because(error.clone())
            }
        }
    }

    /// Records of one partition, as many as there is room for.
    fn take_buffered(&mut self, room: Credit) -> Option<LogEvent> {
        let max = usize::try_from(room.messages).unwrap_or(usize::MAX);
        if max == 0 || room.bytes == 0 {
            return None;
        }
        let (partition, _) = self.buffer.front()?;
        let partition = *partition;
        let at = self.at(partition)?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < max.min(BATCH_MAX)
            && bytes < room.bytes
            && self.buffer.front().is_some_and(|(p, _)| *p == partition)
        {
            let Some((_, record)) = self.buffer.pop_front() else {
                break;
            };
            bytes += record.raw.size() as u64;
            records.push(record);
        }
        Some(LogEvent::Records { at, records })
    }

    /// Pauses what flows into a full buffer, and lets it flow again once the buffer is empty.
    fn balance(&mut self) -> Result<(), Fault> {
        let full = self.buffer.len() >= BUFFER_MESSAGES_MAX;
        if full == self.paused || (self.paused && !self.buffer.is_empty()) {
            return Ok(());
        }
        let open = self.owned.iter().filter(|(_, o)| !o.revoking);
        let list = self.list(open.map(|(p, _)| *p));
        let done = match full {
            true => self.client().pause(&list),
            false => self.client().resume(&list),
        };
        done.map_err(|error| fault("the flow could not be changed", &error))?;
        self.paused = full;
        Ok(())
    }

    fn happened(&mut self, happening: Happening) {
        match happening {
            Happening::Assign(partitions) if partitions.is_empty() => {
                self.answers.owe(Owed::Take(Vec::new()));
            }
            Happening::Assign(partitions) => self.ask_start(partitions),
            Happening::Revoke {
                partitions,
                lost: true,
            } => self.lose(partitions),
            Happening::Revoke {
                partitions,
                lost: false,
            } => self.revoke(partitions),
        }
    }

    fn revoke(&mut self, partitions: Vec<i32>) {
        self.drop_kept(&partitions);
        let deadline = self.connection.options.clock.mono().plus(self.drain_max);
        let mut open = BTreeSet::new();
        for partition in &partitions {
            let Some(owned) = self.owned.get_mut(partition) else {
                continue;
            };
            owned.revoking = true;
            open.insert(*partition);
            if let Some(at) = self.at(*partition) {
                self.events.push_back(LogEvent::Revoking { at, deadline });
            }
        }
        if open.is_empty() {
            self.answers.owe(Owed::GiveBack(partitions));
            return;
        }
        if let Err(error) = self.client().pause(&self.list(open.iter().copied())) {
            tracing::debug!(target: "postrider", %error, "what is revoked flows on");
        }
        self.revocation = Some(Revocation {
            all: partitions,
            open,
        });
    }

    /// One answer for all that goes, also for what was owed: nothing else is waited for any more.
    fn lose(&mut self, partitions: Vec<i32>) {
        self.connection
            .board
            .forget(&self.group, self.no, &partitions);
        self.drop_kept(&partitions);
        let open = self.revocation.take();
        for partition in &partitions {
            let at = self.at(*partition);
            if self.owned.remove(partition).is_some()
                && let Some(at) = at
            {
                self.events.push_back(LogEvent::Lost { at });
            }
        }
        if matches!(self.asking, Asking::Start(..)) {
            self.asking = Asking::Nothing;
        }
        let also = open.map(|open| open.all).unwrap_or_default();
        self.answers.lost(partitions, also);
    }

    /// What came of these partitions and was not handed over: their next owner reads it.
    fn drop_kept(&mut self, partitions: &[i32]) {
        self.buffer.retain(|(p, _)| !partitions.contains(p));
        let shards: Vec<u32> = partitions.iter().map(|p| p.unsigned_abs()).collect();
        self.events.retain(
            |event| !matches!(event, LogEvent::Records { at, .. } if shards.contains(&at.shard)),
        );
    }

    fn give_up(&mut self, at: ShardEpoch) -> Result<(), Fault> {
        let partition = self.checked(at)?;
        self.owned.remove(&partition);
        self.connection
            .board
            .forget(&self.group, self.no, &[partition]);
        let Some(revocation) = &mut self.revocation else {
            return Ok(());
        };
        revocation.open.remove(&partition);
        if !revocation.open.is_empty() {
            return Ok(());
        }
        let all = std::mem::take(&mut revocation.all);
        self.revocation = None;
        self.answers.owe(Owed::GiveBack(all));
        if let Err(fault) = self.answer() {
            // The kernel is done with it either way: it is answered again with what comes next.
            tracing::warn!(target: "postrider", %fault, "partitions are given back again soon");
        }
        Ok(())
    }

    fn at(&self, partition: i32) -> Option<ShardEpoch> {
        let owned = self.owned.get(&partition)?;
        Some(ShardEpoch {
            shard: partition.unsigned_abs(),
            epoch: owned.epoch,
        })
    }

    /// The partition of an ownership that still stands.
    fn checked(&self, at: ShardEpoch) -> Result<i32, Fault> {
        let partition = i32::try_from(at.shard).map_err(|_| stale(at.shard))?;
        match self.at(partition) {
            Some(owned) if owned == at => Ok(partition),
            _ => Err(stale(at.shard)),
        }
    }

    fn list(&self, partitions: impl Iterator<Item = i32>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }

    /// On a thread that may block: the driver gives no answer to a commit that nobody waits for.
    fn begin_commit(&mut self, commits: &[(ShardEpoch, Commit)]) {
        let standing = |(at, commit): &(ShardEpoch, Commit)| (*at, Standing::from(commit));
        let shards = commits.iter().map(standing).collect();
        match self.to_commit(commits) {
            Ok(list) if list.count() == 0 => self.tell_committed(shards, &Ok(())),
            Ok(list) => {
                let client = self.client();
                let storing =
                    tokio::task::spawn_blocking(move || client.commit(&list, CommitMode::Sync));
                self.committing.push_back((shards, storing));
            }
            Err(error) => self.tell_committed(shards, &Err(error)),
        }
    }

    /// Of an ownership that is over the group's word does not count.
    fn tell_committed(&mut self, shards: Vec<(ShardEpoch, Standing)>, stored: &KafkaResult<()>) {
        let mut results = Vec::with_capacity(shards.len());
        for (at, standing) in shards {
            let told = match self.checked(at) {
                Ok(partition) => stored.as_ref().map_err(not_stored).map(|()| {
                    let board = &self.connection.board;
                    board.note(&self.group, self.no, partition, standing);
                }),
                Err(fault) => Err(fault),
            };
            results.push((at, told));
        }
        self.events.push_back(LogEvent::Committed(results));
    }

    /// Of those that this member owns.
    fn to_commit(&self, commits: &[(ShardEpoch, Commit)]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (at, commit) in commits {
            if let Ok(partition) = self.checked(*at) {
                let mut one = list.add_partition(&self.topic, partition);
                one.set_offset(start::offset(commit.watermark.0))?;
                one.set_metadata(done::write(commit));
            }
        }
        Ok(list)
    }

    async fn goto(&mut self, at: ShardEpoch, to: SeekTo) -> Result<(), Fault> {
        let partition = self.checked(at)?;
        let (consumer, topic) = (self.client(), self.topic.clone());
        let (connection, within) = (self.connection.clone(), self.connection.options.request_max);
        let gone = tokio::task::spawn_blocking(move || {
            let look = &connection.look;
            let kept = start::kept(&look.edges(&topic, &[partition])?, &topic, partition);
            if let SeekTo::Position(asked) = to
                && asked.0 < kept.0
            {
                return Ok(Err((asked, kept.0)));
            }
            let next = start::first(look, kept, &topic, partition, to)?;
            consumer.seek(&topic, partition, start::offset(next), within)?;
            Ok(Ok(next))
        });
        let gone = gone.await.map_err(|_| Fault::closed("the runtime"))?;
        let next = gone
            .map_err(|e: KafkaError| fault("a position could not be sought", &e))?
            .map_err(|(asked, low)| trimmed(asked, low))?;
        self.drop_kept(&[partition]);
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.next = next;
        }
        Ok(())
    }
}

/// ORDER: a refusal of the group says that its generation moved, not that the partition is gone: it is made again, until the partition is taken away.
fn not_stored(error: &KafkaError) -> Fault {
    let fault = fault("a commit was not stored", error);
    match fault.kind {
        FaultKind::Fenced => {
            let after = Duration::from_millis(100);
            Fault::new(FaultKind::Conflict, Advice::Retry { after }, fault.message)
        }
        _ => fault,
    }
}

fn trimmed(asked: Position, low: u64) -> Fault {
    let text = format!(
        "position {} is no longer kept, the first that is kept is {low}: read from there, and treat the gap as data loss",
        asked.0
    );
    Fault::new(FaultKind::DataLoss, Advice::FixConfig, text).code(Code::LOG_TRIMMED)
}

/// CANCEL: it stays the oldest until it was told.
async fn oldest(committing: &mut VecDeque<Committing>) -> KafkaResult<()> {
    match committing.front_mut() {
        Some((_, storing)) => storing.await.unwrap_or(Err(KafkaError::Canceled)),
        None => std::future::pending().await,
    }
}

impl Drop for KafkaSource {
    /// Leaves the group without a word of what is held: whoever comes next begins with what was committed. Whatever the group waits for is answered,
    /// or it would never be let go; the end blocks its thread for a round trip.
    fn drop(&mut self) {
        self.client().context().close();
        let mut open = self.answers.end();
        if let Asking::Start(..) = self.asking {
            open.push(Owed::Take(Vec::new()));
        }
        if let Some(Revocation { all, .. }) = self.revocation.take() {
            open.push(Owed::GiveBack(all));
        }
        while let Ok(happening) = self.happenings.try_recv() {
            open.push(match happening {
                Happening::Assign(_) => Owed::Take(Vec::new()),
                Happening::Revoke { partitions, .. } => Owed::GiveBack(partitions),
            });
        }
        for owed in open {
            if let Err(error) = self.tell(&owed) {
                tracing::debug!(target: "postrider", %error, "a consumer that closes");
            }
        }
        let Some(consumer) = self.consumer.take() else {
            return;
        };
        self.connection.board.leave(&self.group, self.no);
        let seat = self.seat.take();
        let closing = self.connection.closing.clone();
        closing.send_modify(|count| *count += 1);
        let end = move || {
            drop(consumer);
            drop(seat);
            closing.send_modify(|count| *count -= 1);
        };
        let thread = std::thread::Builder::new().name("kafka-close".into());
        if let Err(error) = thread.spawn(end) {
            tracing::warn!(target: "postrider", %error, "a consumer leaves its group when its session ends");
        }
    }
}

impl LogSource for KafkaSource {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<LogEvent, Fault>> {
        Box::pin(self.next_event(room))
    }

    fn commit(&mut self, commits: Vec<(ShardEpoch, Commit)>) {
        self.begin_commit(&commits);
    }

    fn seek<'a>(&'a mut self, at: ShardEpoch, to: SeekTo) -> Fut<'a, Result<(), Fault>> {
        Box::pin(self.goto(at, to))
    }

    fn revoked<'a>(&'a mut self, at: ShardEpoch) -> Fut<'a, Result<(), Fault>> {
        let given = self.give_up(at);
        Box::pin(std::future::ready(given))
    }

    fn done_bytes_max(&self) -> usize {
        done::bytes_max(self.connection.metadata_bytes_max)
    }
}
