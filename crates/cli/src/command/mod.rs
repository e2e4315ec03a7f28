//! One file per command.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod flow;
pub(crate) mod log;
mod message;
pub(crate) mod msg;
pub(crate) mod plan;
pub(crate) mod publish;
mod seek;
pub(crate) mod status;
pub(crate) mod sub;
mod tail;
pub(crate) mod top;
pub(crate) mod topic;
