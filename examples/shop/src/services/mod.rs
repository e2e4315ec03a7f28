//! The six services.

pub mod schema;
