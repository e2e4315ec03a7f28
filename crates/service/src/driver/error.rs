//! Why a driver ended by itself.

use postrider_core::failure::Cause;
use postrider_core::fault::Fault;
use postrider_core::name::SubscriptionId;

/// Why a driver ended by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The engine's side of the subscription is finished; a restart opens it again.
    #[error("{subscription} stopped because its source failed: {fault}")]
    Source {
        /// Whose.
        subscription: SubscriptionId,
        /// What the engine said.
        #[source]
        fault: Fault,
    },
    /// The failure store could not be opened.
    #[error("{subscription} did not start because its failure store failed: {fault}")]
    FailureStore {
        /// Whose.
        subscription: SubscriptionId,
        /// What the store said.
        #[source]
        fault: Fault,
    },
    /// The engine took neither the effects nor a retry of them: it has stopped confirming.
    #[error(
        "{subscription} stopped because the engine does not take its messages any more: {fault}"
    )]
    Publisher {
        /// Whose.
        subscription: SubscriptionId,
        /// What the engine said.
        #[source]
        fault: Fault,
    },
    /// The policy or a handler stopped the subscription; the message is not settled and comes first after a restart.
    #[error(
        "{subscription} was stopped by its message {message} ({cause:?}): {reason}; mend the cause and start the service again"
    )]
    Stopped {
        /// Whose.
        subscription: SubscriptionId,
        /// Which message.
        message: String,
        /// Why.
        cause: Cause,
        /// The error of the last attempt.
        reason: String,
    },
    /// A message failed for good and there is nowhere to keep it. It is not settled.
    #[error(
        "{subscription} stopped because message {message} failed for good ({cause:?}) and no failure store is configured; \
         name one with `.failures(…)`, or mend the cause: {reason}"
    )]
    NoFailureHome {
        /// Whose.
        subscription: SubscriptionId,
        /// Which message.
        message: String,
        /// Why.
        cause: Cause,
        /// The error of the last attempt.
        reason: String,
    },
    /// Records that should be there were removed before they were read. The position does not move by itself.
    #[error(
        "{subscription} stopped because shard {shard} no longer keeps position {asked} (the first kept is {first}); \
         data was lost to this subscription: raise the retention, then seek on purpose"
    )]
    DataLoss {
        /// Whose.
        subscription: SubscriptionId,
        /// Which shard.
        shard: u32,
        /// What was asked for.
        asked: u64,
        /// The first that is kept.
        first: u64,
    },
    /// The driver itself panicked, which is a defect of Postrider, or of an engine or a failure store.
    #[error(
        "{subscription} stopped because its driver panicked: {text}; this is a defect: report it, and start the service again; what was held comes again"
    )]
    Panicked {
        /// Whose.
        subscription: SubscriptionId,
        /// What the panic said.
        text: String,
    },
    /// The driver was cut off: the service was dropped, or the runtime was shut down.
    #[error(
        "the driver of {subscription} is gone: the service was dropped, or the runtime was shut down, before the service was stopped"
    )]
    Vanished {
        /// Whose.
        subscription: SubscriptionId,
    },
}
