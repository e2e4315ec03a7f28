//! Effects once on SQLite: state, inbox and outbox in one commit.
//!
//! **Is**: a [`postrider_core::store::TxStore`] on one SQLite file: a delivery's inbox row, the handler's writes and its outgoing messages are one
//! commit, grouped with whoever is ready (a savepoint each, one sync for all); the outbox that the relay drains; and
//! [`SqliteFailures`], a failure store for engines that keep none. WAL with `synchronous=FULL`, verified at open: a commit that was
//! confirmed survives a power cut. Our tables are drawn in `docs/formats/sqlite.md`.
//!
//! **Is not**: an object mapper, a pool, or a database server. One process writes a database at a time; others may read it. Handlers use
//! [`rusqlite`] itself, which is re-exported here.

mod db;
mod error;
mod failures;
mod group;
mod handoff;
mod inbox;
mod lock;
mod options;
mod outbox;
mod packed;
mod removing;
mod schema;
mod sql_error;
mod store;
mod unit;
mod writer;

pub use error::Error;
pub use failures::SqliteFailures;
pub use options::{Options, Synchronous};
pub use rusqlite;
pub use schema::SCHEMA_VERSION;
pub use sql_error::SqlError;
pub use store::Sqlite;
pub use unit::HandlerPanicked;
