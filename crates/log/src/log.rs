//! [`Log`]: the write-ahead log and the views over it.
//!
//! Every change goes one way: *decide* (look at the views, refuse or write entries) → append one frame → *apply* the entries as recovery
//! would. Nothing but [`State::apply`](state::State::apply) changes what is durable. What is volatile (leases, timers, caches) is
//! rebuilt at open.

mod admin;
mod deliver;
mod failures;
mod flow;
mod frame;
mod look;
mod plan;
mod relocate;
mod state;
mod timers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::Error;
use crate::Level;
use crate::cache::Cache;
use crate::checkpoint::Loader;
use crate::disk::Disk;
use crate::ids::{MemberId, Now, Offset, StreamId, SubId};
use crate::tx::Ticket;
use crate::view::wheel::Wheel;
use crate::wal::{Lsn, OpenReport, Wal, WalOptions};
use state::{MonoTimer, WallTimer};

pub use admin::{StreamInfo, SubscriptionInfo};
pub use deliver::ReadBatch;
pub use failures::Failure;
pub use flow::Wakes;
pub use look::{SeekCount, Standing};
pub use relocate::{RelocateDone, RelocateJob};
pub use timers::Ticked;

pub(crate) use state::State;

/// What one call may bring in. Beyond a limit the call is refused with [`Error::TooLarge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One record with key, payload and headers, in bytes. Default 8 MiB.
    pub record_bytes_max: usize,
    /// One key, in bytes. Default 64 KiB.
    pub key_bytes_max: usize,
    /// Records in one commit. Default 65,536.
    pub records_max: usize,
    /// What a host stores with a failure record, a reader's position, or as crash state, in bytes. Default 1 MiB.
    pub meta_bytes_max: usize,
    /// The cause of a failure, and a reason, in bytes. Default 1 KiB.
    pub reason_bytes_max: usize,
    /// Streams. Default 1,000,000.
    pub streams_max: usize,
    /// Offsets reserved ahead, durably, for a stream whose records are seen before they are synced: so many are at most lost in a crash,
    /// and so many may be published between two syncs before consumers wait. At least 2. Default 65,536.
    pub reserve_ahead: u64,
    /// Subscriptions of one stream. Default 10,000.
    pub subscriptions_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            record_bytes_max: 8 << 20,
            key_bytes_max: 64 << 10,
            records_max: 65_536,
            meta_bytes_max: 1 << 20,
            reason_bytes_max: 1 << 10,
            streams_max: 1_000_000,
            reserve_ahead: 65_536,
            subscriptions_max: 10_000,
        }
    }
}

/// How a log is run. All of it may change between two openings of the same directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The physical layer's limits. Its tail is small by default, since this layer keeps blocks itself.
    pub wal: WalOptions,
    /// What one call may bring in.
    pub limits: Limits,
    /// Blocks kept in memory for consumers at the tail, in bytes. Default 16 MiB.
    pub cache_bytes_max: usize,
    /// What nobody waits for (acknowledgements, attempt marks) is synced at the latest after this time. Default 100 ms.
    pub lazy_sync_after: Duration,
    /// A checkpoint at the latest after this time, when something changed. Default 30 s.
    pub checkpoint_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            wal: WalOptions {
                tail_bytes_max: 1 << 20,
                ..WalOptions::default()
            },
            limits: Limits::default(),
            cache_bytes_max: 16 << 20,
            lazy_sync_after: Duration::from_millis(100),
            checkpoint_every: Duration::from_secs(30),
        }
    }
}

/// A log of streams and subscriptions, open.
///
/// One owner, `Send`, usually behind one lock that the host's calls and [`pump`](crate::pump) share. No method waits for a write or a
/// sync; reads of what is not in memory wait for the disk. Dropping it without [`close`](Self::close) is a crash: safe.
///
/// **Durability**: a call that changes something returns when it is *staged*. It is safe when [`is_safe`](Self::is_safe) says so,
/// which takes a [`pump::step`](crate::pump::step). Nothing of it may be told to others before; consumers do not see it before.
/// A failed write or sync poisons the log: every later change fails with [`Error::Poisoned`].
#[derive(Debug)]
pub struct Log {
    wal: Wal,
    state: State,
    options: Options,
    cache: Cache,
    mono: Wheel<MonoTimer>,
    wall: Wheel<WallTimer>,
    /// Subscriptions in which a member holds something.
    members: HashMap<MemberId, BTreeSet<SubId>>,
    tokens: u64,
    /// Frames whose streams become visible when they are written, and when they are durable.
    when_written: VecDeque<Growth>,
    when_durable: VecDeque<Growth>,
    /// When what was staged without a sync must be synced, monotonic.
    lazy_due: Option<Duration>,
    capture: Option<flow::Capture>,
    checkpoint_due: Duration,
    /// What to free when the outstanding checkpoint is there.
    checkpointing: Option<Vec<crate::wal::SegmentId>>,
    trim_soon: BTreeSet<StreamId>,
    mover: relocate::Mover,
    /// Where a single record is encoded; its room is used again.
    scratch: Vec<u8>,
}

/// What a frame makes visible once it is safe.
#[derive(Debug, Clone, Copy)]
struct Growth {
    lsn: Lsn,
    stream: StreamId,
    end: Offset,
    reserved: Offset,
}

impl Log {
    /// Opens the log on `disk`, making it if the directory is new.
    ///
    /// Everything unsettled is to be delivered again, in order of offsets, with its attempt count; delays go on where they were, between
    /// zero and what they were.
    ///
    /// # Errors
    /// As [`Wal::open`]; [`Error::Malformed`] or [`Error::Replay`] if the content is not understood. The directory is unchanged then.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: Options,
        now: Now,
    ) -> Result<(Log, OpenReport), Error> {
        let mut loader = Loader::new(now);
        let (wal, report) = Wal::open(disk, options.wal.clone(), &mut loader)?;
        let mut state = loader.finish()?;
        state.recovered(report.clean);
        let mut log = Log {
            wal,
            state,
            cache: Cache::new(options.cache_bytes_max),
            mono: Wheel::new(now.mono_ms()),
            wall: Wheel::new(now.wall_ms),
            members: HashMap::new(),
            // A token of an earlier run is not one of this run.
            tokens: now.wall_ms << 20,
            when_written: VecDeque::new(),
            when_durable: VecDeque::new(),
            lazy_due: None,
            capture: None,
            checkpoint_due: now.mono + options.checkpoint_every,
            checkpointing: None,
            trim_soon: BTreeSet::new(),
            mover: relocate::Mover::default(),
            scratch: Vec::new(),
            options,
        };
        log.after_apply();
        let subs: Vec<SubId> = log.state.subs.keys().copied().collect();
        subs.into_iter()
            .for_each(|sub| log.state.wake_if_ready(sub));
        Ok((log, report))
    }

    /// The options it was opened with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Whether what a ticket stands for is safe at its level, and may be told.
    pub fn is_safe(&self, ticket: &Ticket) -> bool {
        match ticket.told_at {
            Level::Memory => true,
            Level::Os | Level::Interval(_) => self.is_written(ticket.lsn),
            Level::Fsync => self.is_durable(ticket.lsn),
        }
    }

    /// Whether a frame survives the end of this process.
    pub fn is_written(&self, lsn: Lsn) -> bool {
        lsn <= self.wal.written()
    }

    /// Whether a frame survives a power cut.
    pub fn is_durable(&self, lsn: Lsn) -> bool {
        lsn <= self.wal.durable()
    }

    /// The last frame that is durable.
    pub fn durable(&self) -> Lsn {
        self.wal.durable()
    }

    /// The last frame that is written.
    pub fn written(&self) -> Lsn {
        self.wal.written()
    }

    /// The last frame that was staged.
    pub fn last(&self) -> Lsn {
        self.wal.last()
    }

    /// Whether the log has stopped for good after a failed write or sync.
    pub fn is_poisoned(&self) -> bool {
        self.wal.is_poisoned()
    }

    /// The physical layer, to look at.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }
}
