//! Where the orders come from: a CSV, or the seed.

mod made_up;
mod reader;
mod row;
mod scan;

pub use made_up::made_up;
pub use reader::{OrderFile, Row};
pub use row::Order;
pub use scan::{Scan, scan, spool};
pub(crate) use scan::{publish, short_hash};

#[cfg(test)]
mod tests;
