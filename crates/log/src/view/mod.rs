//! The views: what the entries of the log amount to. Pure state machines without a disk, a clock or randomness.

pub(crate) mod dedupe;
pub(crate) mod dispatch;
pub(crate) mod failures;
pub(crate) mod offsets;
pub(crate) mod settled;
pub(crate) mod stream;
pub(crate) mod subscription;
pub(crate) mod wheel;
