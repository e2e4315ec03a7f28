//! A topic or queue as a log: one shard, positions, a watermark under a group's name.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{Either, select};
use postrider_core::Fut;
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::Destination;
use postrider_core::source::{
    Commit, Credit, LogEvent, LogSource, Position, ResumeState, SeekTo, ShardEpoch,
};
use postrider_log::{self as log, Log, Offset, OffsetCommit, ReaderState, StreamId, Tx};

use crate::convert;
use crate::error::fault;
use crate::names;
use crate::shared::Shared;

/// The one shard.
const SHARD: u32 = 0;
/// Records in one event at most.
const BATCH_MAX: usize = 1024;
/// Bytes of the done-set that a commit takes.
const DONE_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct EmbeddedReader {
    shared: Arc<Shared>,
    stream: StreamId,
    group: String,
    at: ShardEpoch,
    next: Offset,
    stage: Stage,
    /// Commits whose end was not told yet, the oldest first.
    storing: VecDeque<Storing>,
}

/// A commit that waits to be durable, or was refused.
type Storing = (ShardEpoch, Result<log::Ticket, Fault>);

#[derive(Debug)]
enum Stage {
    /// The assignment was not told yet.
    Assigned(ResumeState),
    Reading,
    /// A newer reader has the group, or the shard was given back.
    Gone,
}

impl EmbeddedReader {
    /// Claims the group: from now on an earlier reader of it is fenced.
    pub(crate) fn open(
        shared: Arc<Shared>,
        destination: &Destination,
        group: &str,
        member: InstanceId,
    ) -> Result<Self, Fault> {
        let claimed = shared.stage(|log, _| -> Result<_, Fault> {
            let stream = log
                .find_stream(&names::stream(destination))
                .ok_or_else(|| {
                    let text = format!("there is no {destination}: provision it first");
                    Fault::new(FaultKind::NotFound, Advice::FixConfig, text)
                        .code(Code::TOPOLOGY_DIFFERS)
                })?;
            let said = |error: log::Error| fault(&error);
            let (state, _) = log.claim_reader(stream, group).map_err(said)?;
            Ok((stream, state))
        });
        let (stream, state) = claimed.map_err(|ended| ended.fault())??;
        tracing::debug!(%destination, group, %member, epoch = state.epoch, "a reader took over");
        // The reader that had it before looks, and finds that it is fenced.
        shared.grown.notify_waiters();
        let resume = ResumeState {
            watermark: Position(state.watermark),
            done_above: state
                .done
                .iter()
                .map(|(from, to)| (Position(*from), to - from))
                .collect(),
        };
        let at = ShardEpoch {
            shard: SHARD,
            epoch: state.epoch,
        };
        let group = group.to_owned();
        Ok(Self {
            shared,
            stream,
            group,
            at,
            next: state.watermark,
            stage: Stage::Assigned(resume),
            storing: VecDeque::new(),
        })
    }

    /// Whether this reader still has the group.
    fn check(&self, log: &Log, at: ShardEpoch) -> Result<ReaderState, Fault> {
        let state = log
            .reader(self.stream, &self.group)
            .map_err(|error| fault(&error))?;
        match state {
            Some(state) if state.epoch == at.epoch && at == self.at => Ok(state),
            _ => Err(fenced(&self.group)),
        }
    }

    /// What there is to tell now; `None`: nothing.
    fn look(&mut self, room: Credit) -> Result<Option<LogEvent>, Fault> {
        let at = self.at;
        if let Stage::Assigned(resume) = &self.stage {
            let resume = resume.clone();
            self.stage = Stage::Reading;
            return Ok(Some(LogEvent::Assigned { at, resume }));
        }
        let messages_max = usize::try_from(room.messages)
            .unwrap_or(usize::MAX)
            .min(BATCH_MAX);
        let bytes_max = usize::try_from(room.bytes).unwrap_or(usize::MAX);
        let looked = self.shared.stage(|log, _| {
            if self.check(log, at).is_err() {
                return Ok(Looked::Fenced);
            }
            let first = log.stream_info(self.stream)?.first;
            if first > self.next {
                return Ok(Looked::Gone { first });
            }
            if messages_max == 0 {
                return Ok(Looked::Nothing);
            }
            let batch = log.read(self.stream, self.next, messages_max, bytes_max)?;
            Ok(if batch.records.is_empty() && batch.next == self.next {
                Looked::Nothing
            } else {
                Looked::Read(batch)
            })
        });
        let looked = looked
            .map_err(|ended| ended.fault())?
            .map_err(|error: log::Error| fault(&error))?;
        Ok(match looked {
            Looked::Nothing => None,
            Looked::Fenced => {
                self.stage = Stage::Gone;
                Some(LogEvent::Lost { at })
            }
            Looked::Gone { first } => {
                let asked = Position(std::mem::replace(&mut self.next, first));
                Some(LogEvent::DataLoss {
                    at,
                    asked,
                    first: Position(first),
                })
            }
            Looked::Read(batch) => {
                self.next = batch.next;
                let records = batch.records.iter().map(convert::record_of).collect();
                Some(LogEvent::Records { at, records })
            }
        })
    }

    fn store(&mut self, at: ShardEpoch, commit: &Commit) -> Result<log::Ticket, Fault> {
        let done = commit
            .done_above
            .iter()
            .map(|(from, count)| (from.0, from.0.saturating_add(*count)));
        let offsets = vec![OffsetCommit {
            stream: self.stream,
            group: self.group.clone(),
            epoch: at.epoch,
            watermark: commit.watermark.0,
            done: done.collect(),
            meta: Bytes::new(),
        }];
        let stored = self.shared.stage(|log, now| {
            self.check(log, at)?;
            log.commit(
                Tx {
                    offsets,
                    ..Tx::default()
                },
                now,
            )
            .map_err(|error| fault(&error))
        });
        stored.map_err(|ended| ended.fault())?
    }

    /// The oldest commit, once it is durable. CANCEL: it stays the oldest until then.
    async fn stored(shared: &Shared, storing: &mut VecDeque<Storing>) -> LogEvent {
        let Some((_, stored)) = storing.front() else {
            return std::future::pending().await;
        };
        let result = match stored {
            Ok(ticket) => {
                let confirmed = shared.confirmed(ticket).await;
                Some(confirmed.map_err(|ended| ended.fault().unknown_effect()))
            }
            Err(_) => None,
        };
        let Some((at, stored)) = storing.pop_front() else {
            return LogEvent::Idle;
        };
        let result = result.unwrap_or_else(|| stored.map(drop));
        LogEvent::Committed(vec![(at, result)])
    }

    fn goto(&mut self, at: ShardEpoch, to: SeekTo) -> Result<(), Fault> {
        let found = self.shared.stage(|log, _| {
            self.check(log, at)?;
            let said = |error: log::Error| fault(&error);
            let info = log.stream_info(self.stream).map_err(said)?;
            let to = match to {
                SeekTo::Earliest => info.first,
                SeekTo::Latest => info.next,
                SeekTo::Position(position) => position.0,
                SeekTo::Time(at) => log.offset_at(self.stream, at.millis()).map_err(said)?,
            };
            if to < info.first {
                return Err(trimmed(to, info.first));
            }
            Ok(to)
        });
        self.next = found.map_err(|ended| ended.fault())??;
        Ok(())
    }
}

enum Looked {
    Nothing,
    Fenced,
    Gone { first: Offset },
    Read(log::ReadBatch),
}

fn fenced(group: &str) -> Fault {
    let text = format!("a newer reader has the group {group}: this one must stop");
    Fault::new(FaultKind::Fenced, Advice::StopOwner, text).code(Code::FENCED)
}

fn trimmed(asked: Offset, first: Offset) -> Fault {
    let text = format!(
        "position {asked} is no longer kept, the first that is kept is {first}: read from there, and treat the gap as data loss"
    );
    Fault::new(FaultKind::DataLoss, Advice::FixConfig, text).code(Code::LOG_TRIMMED)
}

impl LogSource for EmbeddedReader {
    fn next<'a>(&'a mut self, room: Credit) -> Fut<'a, Result<LogEvent, Fault>> {
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            if let Stage::Gone = self.stage {
                return match self.storing.is_empty() {
                    true => Err(fenced(&self.group)),
                    false => Ok(Self::stored(&shared, &mut self.storing).await),
                };
            }
            loop {
                let woken = shared.grown.notified();
                tokio::pin!(woken);
                woken.as_mut().enable();
                let stored = Self::stored(&shared, &mut self.storing).now_or_never();
                if let Some(event) = stored {
                    return Ok(event);
                }
                if let Some(event) = self.look(room)? {
                    return Ok(event);
                }
                let stored = std::pin::pin!(Self::stored(&shared, &mut self.storing));
                let woken = std::pin::pin!(shared.until(woken));
                if let Either::Left((event, _)) = select(stored, woken).await {
                    return Ok(event);
                }
            }
        })
    }

    fn commit(&mut self, commits: Vec<(ShardEpoch, Commit)>) {
        for (at, commit) in commits {
            let stored = self.store(at, &commit);
            self.storing.push_back((at, stored));
        }
    }

    fn seek<'a>(&'a mut self, at: ShardEpoch, to: SeekTo) -> Fut<'a, Result<(), Fault>> {
        let done = self.goto(at, to);
        Box::pin(std::future::ready(done))
    }

    fn revoked<'a>(&'a mut self, at: ShardEpoch) -> Fut<'a, Result<(), Fault>> {
        let state = self.shared.stage(|log, _| self.check(log, at).map(drop));
        self.stage = Stage::Gone;
        Box::pin(std::future::ready(
            state.unwrap_or_else(|ended| Err(ended.fault())),
        ))
    }

    fn done_bytes_max(&self) -> usize {
        DONE_BYTES_MAX
    }
}
