//! Looking at failure records, the keys that they park, and crash states. They are changed by [`Log::commit`].

use bytes::Bytes;

use super::Log;
use crate::Error;
use crate::batch::Block;
use crate::entry::{Entry, kind};
use crate::ids::{FailureId, Offset, SubId};
use crate::tx::Record;
use crate::view::failures::{Audit, FailureGroup, FailureInfo};
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
        let (first_meta, record) = self.stored(pieces.payload, info.source)?;
        let meta = match pieces.meta {
            None => first_meta,
            Some(location) => {
                let body = self.wal.read(location)?;
                match Entry::decode(kind::REOPEN, 0, &body)? {
                    Some(Entry::Reopen { meta, .. }) => body.slice_ref(meta),
                    _ => {
                        return Err(Error::Malformed {
                            what: "failure record",
                            why: "its newer cause is not one",
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

    /// The head of one failure record; `None` if it is not there (any more).
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn failure_info(&self, sub: SubId, id: FailureId) -> Result<Option<FailureInfo>, Error> {
        Ok(self
            .state
            .sub(sub)?
            .failures
            .as_ref()
            .and_then(|failures| failures.info(id)))
    }

    /// Failure records that are being redriven, with a number above `after`, at most `max`, in the order of their numbers.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn redriving(
        &self,
        sub: SubId,
        after: FailureId,
        max: usize,
    ) -> Result<Vec<FailureInfo>, Error> {
        let failures = self.state.sub(sub)?.failures.as_ref();
        Ok(failures.map_or_else(Vec::new, |failures| failures.redriving(after, max)))
    }

    /// Whether a key is parked. Of a subscription that is not there none is.
    pub fn is_parked(&self, sub: SubId, key: &[u8]) -> bool {
        let sub = self
            .state
            .subs
            .get(&sub)
            .and_then(|sub| sub.failures.as_ref());
        sub.is_some_and(|failures| failures.is_parked(key))
    }

    /// The keys that are parked, in the order of bytes.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn parked_keys(&self, sub: SubId) -> Result<Vec<Bytes>, Error> {
        let failures = self.state.sub(sub)?.failures.as_ref();
        Ok(failures.map_or_else(Vec::new, |failures| {
            failures.parked_keys().cloned().collect()
        }))
    }

    /// The failure records that park a key, in order.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn failures_of_key(&self, sub: SubId, key: &[u8]) -> Result<Vec<FailureId>, Error> {
        let failures = self.state.sub(sub)?.failures.as_ref();
        Ok(failures.map_or_else(Vec::new, |failures| failures.of_key(key).collect()))
    }

    /// What was last stored as the crash state of a subscription; empty if nothing was.
    ///
    /// # Errors
    /// [`Error::UnknownSubscription`].
    pub fn crash_state(&self, sub: SubId) -> Result<Bytes, Error> {
        Ok(self.state.sub(sub)?.crash.clone())
    }

    /// Meta and message of a FAILURE entry.
    fn stored(&self, location: Location, source: Option<Offset>) -> Result<(Bytes, Record), Error> {
        let body = self.wal.read(location)?;
        let (meta, block) = match Entry::decode(kind::FAILURE, 0, &body)? {
            Some(Entry::Failure { meta, block, .. }) => (meta, block),
            _ => {
                return Err(Error::Malformed {
                    what: "failure record",
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
