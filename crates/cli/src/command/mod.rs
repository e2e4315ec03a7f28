//! One file per command.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod dlq;
pub(crate) mod explain;
pub(crate) mod plan;
pub(crate) mod status;
pub(crate) mod sub;
pub(crate) mod topic;
