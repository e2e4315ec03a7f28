//! What a service's file begins with: `use postrider::prelude::*;`.
//!
//! `postrider::Send` is not in it: it would hide the marker trait of that name. Name it where a handler sends a command.

pub use crate::{
    After, Bus, Command, Committed, Connect, Ctx, Db, DeadLetter, Delivery, Effects, Event, Fault,
    HandlerError, HandlerExt, Headers, Key, Message, MessageId, Meta, Publish, Reply, Retry,
    Service, State, Timestamp, ToOutcome, Tx, hours, millis, mins, raw, secs,
};

#[cfg(feature = "sqlite")]
pub use crate::Sqlite;

pub use serde::{Deserialize, Serialize};
