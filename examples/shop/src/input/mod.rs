//! Where the orders come from: a CSV, or the seed.

mod made_up;
mod reader;
mod row;
mod scan;

pub use made_up::made_up;
pub use reader::{OrderFile, Row};
pub use row::Order;
pub(crate) use scan::publish;
pub use scan::{Scan, scan, spool};

#[cfg(test)]
mod tests;
