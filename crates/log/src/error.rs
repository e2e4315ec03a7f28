//! The one error type of this crate.

use std::io;

use crate::wal::{Lsn, SegmentId};

/// What can go wrong in the storage engine, and what the caller does next.
///
/// Four groups: the directory cannot be opened ([`Locked`](Self::Locked), [`NotOurs`](Self::NotOurs), …: nothing was changed); the
/// bytes are damaged ([`Corrupt`](Self::Corrupt), …: nothing was changed, restore or repair); the log refuses this call for now
/// ([`Full`](Self::Full), [`Overloaded`](Self::Overloaded): nothing was staged, try again later); the log is done
/// ([`Poisoned`](Self::Poisoned), [`Closed`](Self::Closed): reopen).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another log in this process, has the directory open.
    #[error(
        "{path} is in use by {}: stop it first, or run both services in one process on one bus",
        holder(.pid)
    )]
    Locked {
        /// The holder's process id, if the lock file names one.
        pid: Option<u32>,
        /// The directory.
        path: String,
    },
    /// The directory holds something else. It was not touched.
    #[error(
        "{path} is not empty and holds no postrider log (found {found}): choose an empty or a new directory"
    )]
    NotOurs {
        /// The directory.
        path: String,
        /// The first foreign name in it.
        found: String,
    },
    /// The path is a file, not a directory.
    #[error("{path} is not a directory: choose a directory for the log")]
    NotADirectory {
        /// The path.
        path: String,
    },
    /// The directory cannot be written.
    #[error(
        "{path} cannot be written ({source}): make it writable for this user, or choose another directory"
    )]
    ReadOnly {
        /// The directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file was written by a newer release.
    #[error(
        "{file} has format version {found}, this release reads up to {supported}: use the newer release"
    )]
    NewerVersion {
        /// The file, relative to the directory.
        file: String,
        /// The version in the file.
        found: u16,
        /// The newest version that this release reads.
        supported: u16,
    },
    /// A file uses a feature that this release does not know (a reserved field is set).
    #[error(
        "{file} uses a feature that this release does not know ({feature}): use the release that wrote it"
    )]
    Unsupported {
        /// The file, relative to the directory.
        file: String,
        /// Which reserved field is set.
        feature: &'static str,
    },
    /// The manifest `CURRENT` is missing or damaged.
    #[error("the manifest CURRENT is damaged ({reason}): restore the directory from a backup")]
    CorruptManifest {
        /// What is wrong with it.
        reason: String,
    },
    /// No checkpoint can be read, and the log does not reach back far enough to do without.
    #[error(
        "checkpoint {file} is damaged ({reason}) and the log does not reach back to an earlier one: restore the directory from a backup"
    )]
    CorruptCheckpoint {
        /// The file, relative to the directory.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A segment that `CURRENT` lists is missing, has another size or a damaged header.
    #[error("segment {file} is damaged ({reason}): restore the directory from a backup")]
    CorruptSegment {
        /// The file, relative to the directory.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that had once been confirmed are damaged. At open nothing was changed.
    #[error(
        "the log is damaged in {segment} at byte {at}: frames {first} to {last} had been confirmed and cannot be read ({reason}): \
         restore the directory from a backup"
    )]
    Corrupt {
        /// The segment.
        segment: SegmentId,
        /// The byte in the segment where the first damaged frame should be.
        at: u64,
        /// The first LSN that is lost.
        first: Lsn,
        /// The highest LSN that is known to have been confirmed.
        last: Lsn,
        /// What is wrong there.
        reason: String,
    },
    /// A body read back does not have its checksum. It was not served.
    #[error(
        "the entry of {len} bytes at byte {at} of {segment} does not have its checksum: the disk returned damaged bytes"
    )]
    CorruptEntry {
        /// The segment.
        segment: SegmentId,
        /// The byte of the body in the segment.
        at: u32,
        /// The body's length in bytes.
        len: u32,
    },
    /// The frame was asked for in a segment that was freed, or never existed.
    #[error("{segment} is not part of the log: it was freed")]
    UnknownSegment {
        /// The segment.
        segment: SegmentId,
    },
    /// The disk is full. Nothing was staged; space is looked for again at each upkeep step.
    #[error(
        "the disk is full, the log takes no new messages until there is space ({needed} bytes for the next segment): free space"
    )]
    Full {
        /// Bytes that the next segment needs.
        needed: u64,
    },
    /// More bytes wait to be written than allowed. Nothing was staged: wait for the disk.
    #[error("{staged} bytes wait to be written, at most {max} may: wait and try again")]
    Overloaded {
        /// Bytes staged now.
        staged: u64,
        /// The limit, [`WalOptions::staged_bytes_max`](crate::wal::WalOptions::staged_bytes_max).
        max: u64,
    },
    /// One frame is larger than allowed.
    #[error("a frame of {bytes} bytes is larger than the limit of {max}: send less at once")]
    FrameTooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The limit, [`WalOptions::frame_bytes_max`](crate::wal::WalOptions::frame_bytes_max).
        max: u64,
    },
    /// A write or a sync failed. Nothing is confirmed after it; the next open verifies what is there.
    #[error(
        "the log stopped after a failure ({reason}): nothing after it is confirmed; reopen the directory to verify it"
    )]
    Poisoned {
        /// The failure.
        reason: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
    /// A job of this kind is still outstanding; finish it first.
    #[error("a {job} job is still outstanding: finish it first")]
    Busy {
        /// Which job.
        job: &'static str,
    },
    /// The call contradicts the state of the log. Nothing was changed.
    #[error("refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The options contradict each other.
    #[error("the log's options are wrong: {reason}")]
    Options {
        /// Which, and what is allowed.
        reason: String,
    },
    /// The state in the log could not be understood by its reader (a visitor's error).
    #[error("the log's content cannot be replayed: {reason}")]
    Replay {
        /// What is wrong.
        reason: String,
    },
    /// Bytes that should hold something of ours do not. They were not served.
    #[error("a {what} cannot be read: {why}")]
    Malformed {
        /// What should be there.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The call's input contradicts itself. Nothing was changed: mend the call.
    #[error("the {what} is wrong: {why}")]
    Invalid {
        /// Which input.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something is larger than allowed. Nothing was changed: send less at once, or raise the limit.
    #[error("{what} of {size} is larger than the limit of {max}: send less, or raise {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is, in the unit of the limit.
        size: u64,
        /// The limit.
        max: u64,
        /// The limit's name in [`Limits`](crate::Limits).
        limit: &'static str,
    },
    /// A name is not allowed: 1 to 255 bytes, no control characters.
    #[error("{name:?} is not a name: use 1 to 255 bytes without control characters")]
    Name {
        /// The beginning of the name.
        name: String,
    },
    /// There is no such stream (any more).
    #[error("there is no stream {stream}: create it first")]
    UnknownStream {
        /// Its number or name.
        stream: String,
    },
    /// There is no such subscription (any more).
    #[error("there is no subscription {sub}: create it first")]
    UnknownSubscription {
        /// Its number or name.
        sub: String,
    },
    /// The stream is not what the writer expected. Nothing was appended: read what is new, decide again.
    #[error(
        "stream {stream} is not as expected ({expected:?}): its next offset is {actual}; read it again and decide anew"
    )]
    Conflict {
        /// The stream's name.
        stream: String,
        /// What was expected.
        expected: crate::Expected,
        /// The next offset of the stream.
        actual: u64,
    },
    /// The lease is over: the message was settled, handed to somebody else, or returned. Nothing of the commit was done: drop the work.
    #[error(
        "the lease of message {offset} of subscription {sub} is over: drop the work, it is done again"
    )]
    LeaseLost {
        /// The subscription.
        sub: crate::SubId,
        /// The message.
        offset: u64,
    },
    /// A newer reader owns the position. Nothing was stored: stop this reader.
    #[error("reader {group} was replaced (its epoch is {actual}, this one has {epoch}): stop it")]
    Fenced {
        /// The reader's name.
        group: String,
        /// The caller's epoch.
        epoch: u64,
        /// The stored epoch.
        actual: u64,
    },
    /// There is no such failure record, or it is not in the state for this.
    #[error("failure record {id} of subscription {sub} is {found}: list them again")]
    UnknownFailure {
        /// The subscription.
        sub: crate::SubId,
        /// The record.
        id: crate::FailureId,
        /// What is there.
        found: &'static str,
    },
    /// What should come behind a parked key has none: the key is not parked (any more). Nothing of the commit was done: handle it instead.
    #[error("the key is not parked in subscription {sub} (any more): handle the message instead")]
    NotParked {
        /// The subscription.
        sub: crate::SubId,
        /// The message, where it is settled.
        offset: Option<u64>,
    },
    /// A system call failed.
    #[error("{action} {file} failed: {source}")]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file, relative to the directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl Error {
    /// Wraps a failed system call.
    pub(crate) fn io(
        action: &'static str,
        file: impl Into<String>,
    ) -> impl FnOnce(io::Error) -> Error {
        let file = file.into();
        move |source| Error::Io {
            action,
            file,
            source,
        }
    }

    /// Whether the disk had no space (the caller may try again when there is some).
    pub fn is_no_space(&self) -> bool {
        match self {
            Error::Full { .. } => true,
            Error::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
