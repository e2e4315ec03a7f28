//! Six services of a shop that lose nothing: what `postrider demo` runs.
//!
//! **Is**: order, payment, inventory, shipping, notification and analytics, each with its own SQLite database, talking only through the bus;
//! a payment provider that is a stand-in for an external system; a supervisor that kills the services for real; and a balance sheet
//! that is computed from what is on disk.
//!
//! **Is not**: part of the framework. Everything here is written against the `postrider` crate as any user would write it.

pub mod error;
pub mod faults;
pub mod input;
pub mod options;
pub mod protocol;
pub mod provider;
pub mod seed;

pub use error::{Error, Result};
pub use options::{Options, OrderSource};
mod admin;
pub mod child;
pub mod messages;
pub mod screen;
pub mod services;
pub mod sheet;
pub mod supervisor;
