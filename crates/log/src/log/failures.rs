//! Looking at failure records, parked keys and crash states. They are changed by [`Log::commit`].

use bytes::Bytes;

use super::Log;
use crate::Error;
use crate::batch::Block;
use crate::entry::{Entry, kind};
use crate::ids::{FailureId, Offset, SubId};
use crate::tx::Record;
use crate::view::failures::{Audit, FailureGroup, FailureInfo};
use crate::view::parked::ParkedInfo;
use crate::wal::Location;

/// A failure record with what was stored in it.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its head.
    pub info: FailureInfo,
    /// What the host stored: of the last time it failed.
    pub meta: Bytes,
    /// The message, byte for byte. Its offset is that of the source, or 0.
    pub record: Record,
}

/// A parked message.
#[derive(Debug, Clone)]
pub struct ParkedMessage {
    /// Its number, by which [`ParkOp::Done`](crate::ParkOp::Done) ends it.
    pub seq: u64,
    /// When it was parked, wall time in ms.
    pub at_ms: u64,
    /// Its offset in the subscription's stream, if it came from there.
    pub source: Option<Offset>,
    /// What the host stored with it.
    pub meta: Bytes,
    /// The message. Its offset is that of the source, or 0.
    pub record: Record,
}

impl Log {
    /// The causes of a subscription's failure records, most frequent first.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn failure_groups(&self, sub: SubId) -> Result<Vec<FailureGroup>, Error> {
        Ok(self
            .state
            .sub(sub)?
            .failures
            .as_ref()
            .map_or_else(Vec::new, |failures| failures.groups()))
    }

    /// Failure records with a number above `after`, at most `max`, in the order of failing; of one cause, if given.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn failures(
        &self,
        sub: SubId,
        group: Option<&str>,
        after: FailureId,
        max: usize,
    ) -> Result<Vec<FailureInfo>, Error> {
        let failures = self.state.sub(sub)?.failures.as_ref();
        Ok(failures.map_or_else(Vec::new, |failures| failures.list(group, after, max)))
    }

    /// One failure record with its message.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], [`Error::UnknownFailure`], what reading it failed with.
    pub fn failure(&self, sub: SubId, id: FailureId) -> Result<Failure, Error> {
        let unknown = || Error::UnknownFailure {
            sub,
            id,
            found: "not there (any more)",
        };
        let failures = self.state.sub(sub)?.failures.as_ref().ok_or_else(unknown)?;
        let info = failures.info(id).ok_or_else(unknown)?;
        let pieces = failures.pieces(id).ok_or_else(unknown)?;
        let (first_meta, record) = self.stored(kind::FAILURE, pieces.payload, info.source)?;
        let meta = match pieces.meta {
            None => first_meta,
            Some(location) => {
                let body = self.wal.read(location)?;
                match Entry::decode(kind::FAILURE_STATE, 0, &body)? {
                    Some(Entry::FailureState { meta, .. }) => body.slice_ref(meta),
                    _ => {
                        return Err(Error::Malformed {
                            what: "failure record",
                            why: "its state is not one",
                        });
                    }
                }
            }
        };
        Ok(Failure { info, meta, record })
    }

    /// What was decided about failure records, newest first: the last 1,000 decisions with their reasons.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn failure_audit(&self, sub: SubId, max: usize) -> Result<Vec<Audit>, Error> {
        let failures = self.state.sub(sub)?.failures.as_ref();
        Ok(failures.map_or_else(Vec::new, |failures| {
            failures.audit().rev().take(max).cloned().collect()
        }))
    }

    /// Parked keys behind `after` in the order of bytes, at most `max`.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn parked_keys(
        &self,
        sub: SubId,
        after: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<ParkedInfo>, Error> {
        let parked = self.state.sub(sub)?.parked.as_ref();
        Ok(parked.map_or_else(Vec::new, |parked| parked.list(after, max)))
    }

    /// A key, if it is parked.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn parked_key(&self, sub: SubId, key: &[u8]) -> Result<Option<ParkedInfo>, Error> {
        Ok(self
            .state
            .sub(sub)?
            .parked
            .as_ref()
            .and_then(|parked| parked.info(key)))
    }

    /// The messages of a parked key from number `from_seq` on (0: from the first), in order, at most `max`.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`], what reading one failed with.
    pub fn parked_messages(
        &self,
        sub: SubId,
        key: &[u8],
        from_seq: u64,
        max: usize,
    ) -> Result<Vec<ParkedMessage>, Error> {
        let Some(parked) = self.state.sub(sub)?.parked.as_ref() else {
            return Ok(Vec::new());
        };
        let items = parked.items(key, from_seq, max).into_iter();
        let read = items.map(|item| {
            let (meta, record) = self.stored(kind::PARK, item.payload, item.source)?;
            Ok(ParkedMessage {
                seq: item.seq,
                at_ms: item.at_ms,
                source: item.source,
                meta,
                record,
            })
        });
        read.collect()
    }

    /// What was last stored as the crash state of a subscription; empty if nothing was.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn crash_state(&self, sub: SubId) -> Result<Bytes, Error> {
        Ok(self.state.sub(sub)?.crash.clone())
    }

    /// Meta and message of a FAILURE or PARK entry.
    fn stored(
        &self,
        kind: u8,
        location: Location,
        source: Option<Offset>,
    ) -> Result<(Bytes, Record), Error> {
        let body = self.wal.read(location)?;
        let (meta, block) = match Entry::decode(kind, 0, &body)? {
            Some(Entry::Failure { meta, block, .. } | Entry::Park { meta, block, .. }) => {
                (meta, block)
            }
            _ => {
                return Err(Error::Malformed {
                    what: "stored message",
                    why: "the entry is of another kind",
                });
            }
        };
        let block_at = body.len() - block.len();
        let meta = body.slice_ref(meta);
        let record = Block::verify(body, block_at)?.record(0, source.unwrap_or(0))?;
        Ok((meta, record))
    }
}
