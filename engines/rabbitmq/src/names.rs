//! What topics, queues and subscriptions are called on the server, and which shard a key belongs to.
//!
//! | ours | exchange | queues |
//! |---|---|---|
//! | `topic:shop.order` | `postrider:topic:shop.order` | |
//! | `inventory@topic:shop.order`, ordered | | `postrider:inventory@topic:shop.order#0` … `#7` |
//! | `audit@topic:shop.order`, unordered | | `postrider:audit@topic:shop.order` |
//! | `queue:shop.charge` and its one owner | `postrider:queue:shop.charge` | `postrider:queue:shop.charge#0` … or without `#` |
//!
//! A name of ours holds none of `:`, `@`, `#`, so each name on the server comes from one of ours alone. The queues of a command queue do not
//! name their owner, so that who sends can see whether there is one.

use lapin::types::ShortString;
use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind, SubscriptionId};

/// The longest name on the server, in bytes.
const BYTES_MAX: usize = 255;

/// The names of one prefix and one number of shards.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: String,
    shards: u16,
}

impl Names {
    pub(crate) fn new(prefix: &str, shards: u16) -> Self {
        Self {
            prefix: prefix.to_owned(),
            shards,
        }
    }

    /// # Errors
    /// The name is longer than the server takes.
    fn checked(name: String) -> Result<ShortString, Fault> {
        ShortString::try_new(name.as_str()).map_err(|_| {
            let text = format!(
                "the name `{name}` has {} bytes, RabbitMQ takes {BYTES_MAX}: use a shorter name",
                name.len()
            );
            Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::NAME_MALFORMED)
        })
    }

    /// The exchange that messages for this destination are published to.
    ///
    /// # Errors
    /// As [`Names::checked`], and so below.
    pub(crate) fn exchange(&self, destination: &Destination) -> Result<ShortString, Fault> {
        Self::checked(format!("{}:{destination}", self.prefix))
    }

    /// All queues of a subscription: `n` of an ordered one, else one.
    pub(crate) fn queues(
        &self,
        id: &SubscriptionId,
        ordered: bool,
    ) -> Result<Vec<ShortString>, Fault> {
        if ordered {
            return (0..self.shards)
                .map(|shard| self.shard(id, shard))
                .collect();
        }
        Ok(vec![self.unsharded(id)?])
    }

    /// The queue of an unordered subscription.
    pub(crate) fn unsharded(&self, id: &SubscriptionId) -> Result<ShortString, Fault> {
        Self::checked(self.base(id))
    }

    /// The queue of one shard of an ordered subscription.
    pub(crate) fn shard(&self, id: &SubscriptionId, shard: u16) -> Result<ShortString, Fault> {
        Self::checked(format!("{}#{shard}", self.base(id)))
    }

    fn base(&self, id: &SubscriptionId) -> String {
        match id.on.kind {
            DestinationKind::Queue => format!("{}:{}", self.prefix, id.on),
            DestinationKind::Topic | DestinationKind::Inbox => format!("{}:{id}", self.prefix),
        }
    }

    /// Where the server puts what it would drop by its own delivery limit: an exchange and a queue of this name.
    pub(crate) fn dead(&self) -> String {
        format!("{}:dead", self.prefix)
    }

    /// The queue that keeps what no queue was bound for.
    pub(crate) fn unrouted(&self) -> String {
        format!("{}:unrouted", self.prefix)
    }

    /// The alternate exchange of every exchange. It names the number of shards, since the server compares it at each declaration: who says another
    /// number is told, before a message goes the wrong way.
    pub(crate) fn alternate(&self) -> String {
        format!("{}:unrouted-of-{}", self.prefix, self.shards)
    }

    /// The routing key of a message: its shard, and its type for whoever binds a queue by hand.
    pub(crate) fn routing_key(shard: u16, message_type: &str) -> ShortString {
        let text = format!("{shard}.{message_type}");
        ShortString::try_new(text).unwrap_or_else(|_| shard.to_string().into())
    }

    /// What a shard's queue is bound with.
    pub(crate) fn binding(shard: u16) -> ShortString {
        format!("{shard}.#").into()
    }

    /// The shard of a key, or of a message without one: FNV-1a (64 bits) modulo the number of shards. Part of the format: it never changes.
    pub(crate) fn shard_of(&self, bytes: &[u8]) -> u16 {
        (fnv1a(bytes) % u64::from(self.shards)) as u16
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), with the finish of SplitMix64 so that keys that differ in their last letter spread too.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names() -> Names {
        Names::new("postrider", 8)
    }

    fn id(text: &str) -> SubscriptionId {
        SubscriptionId::parse(text).unwrap()
    }

    #[test]
    fn no_two_subscriptions_or_destinations_share_a_name() {
        let ids = [
            "a@topic:b",
            "a.b@topic:c",
            "a@topic:b.c",
            "queue@topic:x",
            "topic@topic:x",
        ];
        let mut seen = BTreeSet::new();
        for one in ids {
            for ordered in [true, false] {
                for queue in names().queues(&id(one), ordered).unwrap() {
                    assert!(seen.insert(queue.to_string()), "{queue} twice");
                }
            }
        }
        let destinations = ["topic:x", "queue:x", "topic:a.b", "inbox:x"];
        let exchanges = destinations.map(|d| {
            names()
                .exchange(&Destination::parse(d).unwrap())
                .unwrap()
                .to_string()
        });
        assert_eq!(exchanges.iter().collect::<BTreeSet<_>>().len(), 4);
    }

    #[test]
    fn a_queue_has_one_name_whoever_owns_it() {
        let queues = |text| names().queues(&id(text), true).unwrap();
        assert_eq!(
            queues("a@queue:charge").len(),
            8,
            "a queue for each shard of an ordered subscription"
        );
        assert_eq!(queues("a@queue:charge"), queues("b@queue:charge"));
        assert_eq!(
            queues("a@queue:charge")[3].to_string(),
            "postrider:queue:charge#3"
        );
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_and_not_cut() {
        let long = "n".repeat(110);
        assert!(
            names()
                .queues(&id(&format!("{long}@topic:{long}")), true)
                .is_ok()
        );
        let longer = "n".repeat(200);
        let fault = names()
            .queues(&id(&format!("{longer}@topic:{longer}")), true)
            .unwrap_err();
        assert_eq!(fault.code, Some(Code::NAME_MALFORMED));
    }

    #[test]
    fn a_key_has_its_shard_for_ever() {
        let shards: Vec<u16> = ["o-1", "o-2", "o-3", "customer-17", "", "ü"]
            .map(|key| names().shard_of(key.as_bytes()))
            .to_vec();
        assert_eq!(shards, [4, 6, 5, 0, 3, 2]);
    }

    #[test]
    fn keys_spread_over_all_shards() {
        let mut counts = [0u32; 8];
        for n in 0..8000 {
            counts[usize::from(names().shard_of(format!("o-{n}").as_bytes()))] += 1;
        }
        assert!(counts.iter().all(|c| (800..1200).contains(c)), "{counts:?}");
    }

    #[test]
    fn a_type_that_is_too_long_leaves_the_shard_alone() {
        assert_eq!(Names::routing_key(3, "placed").to_string(), "3.placed");
        assert_eq!(Names::routing_key(3, &"t".repeat(300)).to_string(), "3");
    }
}
