//! The storage engine of Postrider: one log, many views.
//!
//! **It is** a durable log of records in *streams*, with *subscriptions* that hand each record to one member at a time, positions of
//! log-shaped readers, failure records and parked keys, all in one set of files with one sync for everyone. [`Log`] is the way in,
//! [`pump`] drives it. **It is not** a runtime: it has no thread, reads no clock, draws no random number; its host brings them.
//!
//! ```
//! use postrider_log::disk::MemDisk;
//! use postrider_log::{Log, MemberId, Now, Options, Publish, RecordIn, Settle, SettleOp, StreamConfig, SubscriptionConfig, Tx, pump};
//!
//! # fn main() -> Result<(), postrider_log::Error> {
//! let now = Now::from_millis(1_700_000_000_000, 0);
//! let disk = std::sync::Arc::new(MemDisk::new());
//! let (log, _report) = Log::open(disk, Options::default(), now)?;
//! let log = parking_lot::Mutex::new(log);
//!
//! let (orders, inventory) = {
//!     let mut log = log.lock();
//!     let orders = log.create_stream("shop.order", StreamConfig::default())?.0;
//!     let inventory = log.create_subscription(orders, "inventory", SubscriptionConfig::default())?.0;
//!     let record = RecordIn { key: Some("order-1".into()), value: Some("placed".into()), ..RecordIn::default() };
//!     log.commit(Tx { publishes: vec![Publish { stream: orders, records: vec![record], ..Publish::default() }], ..Tx::default() }, now)?;
//!     (orders, inventory)
//! };
//! pump::run_until_idle(&log, now)?; // written and synced: consumers may see it
//!
//! let mut log = log.lock();
//! let batch = log.lease(inventory, MemberId(1), 10, 1 << 20, std::time::Duration::from_secs(30), now)?;
//! let first = &batch.messages[0];
//! assert_eq!(first.record.value.as_deref(), Some(&b"placed"[..]));
//! let ack = SettleOp { sub: inventory, offset: first.record.offset, token: first.token, how: Settle::Ack };
//! log.commit(Tx { settles: vec![ack], ..Tx::default() }, now)?;
//! assert_eq!(log.stream_info(orders)?.records, 0); // settled by every subscription: gone
//! # Ok(())
//! # }
//! ```
//!
//! The physical layer is [`wal`] (segments, batches, frames, checkpoints, recovery) on a [`disk`]; the bytes are in
//! `docs/formats/log.md` and, for what a frame says, in `docs/formats/log-entries.md`.

mod batch;
mod cache;
mod checkpoint;
mod codec;
mod definitions;
pub mod disk;
mod entry;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod ids;
mod log;
pub mod planted;
pub mod pump;
pub mod tools;
mod tx;
mod view;
pub mod wal;

pub use batch::{Headers, Producer};
pub use definitions::{
    Created, DedupeWindow, Kind, Level, Retention, Start, StreamConfig, SubscriptionConfig,
};
pub use entry::FailureState;
pub use error::Error;
pub use ids::{FailureId, KeyHash, LeaseToken, MemberId, Now, Offset, StreamId, SubId};
pub use log::{
    Failure, Limits, Log, Options, ReadBatch, RelocateDone, RelocateJob, SeekCount, Standing,
    StreamInfo, SubscriptionInfo, Ticked, Wakes,
};
pub use tx::{
    Appended, Cancel, Confirm, Expected, FailureIn, FailureOp, Header, LeaseBatch, Leased,
    OffsetCommit, Park, Publish, Record, RecordIn, Settle, SettleOp, Ticket, TicketOfOne, Tx,
};
pub use view::failures::{Action, Audit, FailureGroup, FailureInfo};
pub use view::offsets::ReaderState;
pub use wal::{BackupJob, BackupReport, Lsn, OpenReport};
