//! Names on the server. They can be read back: no [`Name`](postrider_core::name::Name) begins with `_`.

use postrider_core::name::{Destination, DestinationKind, SubscriptionId};

/// `topic:shop.order` is `shop.order`, `queue:prices` is `_queue.prices`, both behind the prefix.
pub(crate) fn topic(prefix: &str, destination: &Destination) -> String {
    let name = &destination.name;
    match destination.kind {
        DestinationKind::Topic => format!("{prefix}{name}"),
        DestinationKind::Queue => format!("{prefix}_queue.{name}"),
        DestinationKind::Inbox => format!("{prefix}_inbox.{name}"),
    }
}

/// A group per subscription, not per service: a member that comes or goes on one topic moves nothing on another.
pub(crate) fn group(prefix: &str, id: &SubscriptionId) -> String {
    format!("{prefix}{id}")
}

/// The longest name that Kafka takes for a topic.
pub(crate) const TOPIC_BYTES_MAX: usize = 249;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_and_a_queue_of_one_name_are_two_topics() {
        let (t, q) = (
            Destination::topic("queue.prices").unwrap(),
            Destination::queue("prices").unwrap(),
        );
        assert_eq!(topic("p.", &t), "p.queue.prices");
        assert_eq!(topic("p.", &q), "p._queue.prices");
        let id = SubscriptionId::parse("shipping@topic:shop.order").unwrap();
        assert_eq!(group("p.", &id), "p.shipping@topic:shop.order");
    }
}
