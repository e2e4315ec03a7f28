//! librdkafka's errors as faults: what happened, whether it may have taken effect, what to do next.

use std::time::Duration;

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as E};

const SOON: Advice = Advice::Retry {
    after: Duration::from_millis(200),
};

/// A fault of a request that has no effect where it fails: a look, a commit that can be made again.
pub(crate) fn fault(doing: &str, error: &KafkaError) -> Fault {
    let (kind, advice) = error
        .rdkafka_error_code()
        .map_or((FaultKind::Config, Advice::FixConfig), kind_of);
    let code = match kind {
        FaultKind::Fenced => Code::FENCED,
        FaultKind::DataLoss => Code::LOG_TRIMMED,
        _ => Code::ENGINE_FAILED,
    };
    Fault::new(kind, advice, format!("{doing}: {error}"))
        .code(code)
        .because(error.clone())
}

/// A message that was given to the producer and not confirmed. Only what the broker refused itself is known not to be stored.
pub(crate) fn unconfirmed(topic: &str, error: &KafkaError) -> Fault {
    let fault = fault(&format!("{topic} did not take a message"), error);
    let refused = error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            E::MessageSizeTooLarge
                | E::TopicAuthorizationFailed
                | E::InvalidTopic
                | E::UnknownTopic
                | E::UnknownTopicOrPartition
                | E::UnknownPartition
                | E::InvalidRecord
                | E::PolicyViolation
                | E::QueueFull
                | E::PurgeQueue
        )
    });
    match refused {
        true => fault,
        false => fault.unknown_effect(),
    }
}

fn kind_of(code: E) -> (FaultKind, Advice) {
    match code {
        E::IllegalGeneration
        | E::UnknownMemberId
        | E::FencedInstanceId
        | E::FencedMemberEpoch
        | E::StaleMemberEpoch
        | E::AssignmentLost
        | E::Fenced => (FaultKind::Fenced, Advice::Rebalance),
        E::OperationTimedOut | E::MessageTimedOut | E::RequestTimedOut | E::TimedOutQueue => {
            (FaultKind::Timeout, SOON)
        }
        E::ThrottlingQuotaExceeded => (FaultKind::Throttled, SOON),
        E::MessageSizeTooLarge | E::InvalidMessageSize | E::OffsetMetadataTooLarge => {
            (FaultKind::TooLarge, Advice::FixMessage)
        }
        E::InvalidRecord => (FaultKind::Protocol, Advice::FixMessage),
        E::QueueFull => (FaultKind::Full, SOON),
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::SaslAuthenticationFailed
        | E::Authentication => (FaultKind::Denied, Advice::FixConfig),
        E::UnknownTopic | E::UnknownTopicOrPartition | E::UnknownPartition => {
            (FaultKind::NotFound, SOON)
        }
        E::AutoOffsetReset | E::OffsetOutOfRange | E::NoOffset => {
            (FaultKind::DataLoss, Advice::FixConfig)
        }
        E::InvalidTopic
        | E::InvalidConfig
        | E::InvalidReplicationFactor
        | E::InvalidPartitions
        | E::PolicyViolation
        | E::InvalidSessionTimeout
        | E::UnsupportedVersion
        | E::UnsupportedFeature
        | E::InvalidArgument => (FaultKind::Config, Advice::FixConfig),
        E::Fatal | E::OutOfOrderSequenceNumber | E::InvalidProducerEpoch | E::ProducerFenced => {
            (FaultKind::Conflict, Advice::StopOwner)
        }
        E::DestroyBroker | E::PurgeQueue | E::PurgeInflight => {
            (FaultKind::Closed, Advice::StopOwner)
        }
        _ => (FaultKind::Unreachable, SOON),
    }
}

/// An ownership that is over, as far as this member knows.
pub(crate) fn stale(shard: u32) -> Fault {
    let text = format!("partition {shard} is no longer this member's: another one goes on with it");
    Fault::new(FaultKind::Fenced, Advice::Rebalance, text).code(Code::FENCED)
}

#[cfg(test)]
mod tests {
    use postrider_core::fault::Effect;

    use super::*;

    #[test]
    fn only_what_the_broker_refused_has_no_effect() {
        let timed_out = KafkaError::MessageProduction(E::MessageTimedOut);
        assert_eq!(unconfirmed("t", &timed_out).effect, Effect::Unknown);
        let large = KafkaError::MessageProduction(E::MessageSizeTooLarge);
        let fault = unconfirmed("t", &large);
        assert_eq!(
            (fault.effect, fault.kind, fault.advice),
            (Effect::NotApplied, FaultKind::TooLarge, Advice::FixMessage)
        );
    }

    #[test]
    fn a_commit_of_a_past_generation_is_fenced() {
        let past = KafkaError::ConsumerCommit(E::IllegalGeneration);
        assert_eq!(fault("a commit", &past).kind, FaultKind::Fenced);
        let moving = KafkaError::ConsumerCommit(E::RebalanceInProgress);
        assert!(fault("a commit", &moving).is_retriable());
    }
}
