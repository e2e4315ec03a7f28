//! The targets, one file each.

pub mod admin;
pub mod csv;
pub mod envelope;
pub mod frame;
pub mod record_batch;
pub mod recovery;
pub mod text;
