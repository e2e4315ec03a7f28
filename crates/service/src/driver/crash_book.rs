//! What the members of a subscription in this process know of crashes, as one.
//!
//! A crash ends all of them, so what one of them noted while it lives is no crash to another that is opened meanwhile, and what one notes must
//! not wipe out what another has: of the counts the highest is stored, and all suspects.

use std::collections::{BTreeMap, HashMap};

use postrider_core::failure::CrashState;
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;

/// By subscription. Bounded by the subscriptions that were opened, and by the members that run.
#[derive(Default)]
pub(crate) struct CrashBook(HashMap<SubscriptionId, Page>);

#[derive(Default)]
struct Page {
    /// What the last process left.
    left: CrashState,
    members: BTreeMap<InstanceId, CrashState>,
}

impl CrashBook {
    /// A member opens, and the store says this: what it is to know.
    pub(crate) fn open(
        &mut self,
        id: &SubscriptionId,
        member: InstanceId,
        stored: CrashState,
    ) -> CrashState {
        let page = self.0.entry(id.clone()).or_default();
        if page.members.is_empty() {
            page.left = stored;
        }
        page.members.insert(member, page.left.clone());
        page.left.clone()
    }

    /// A member notes its state: what is to be stored.
    pub(crate) fn note(
        &mut self,
        id: &SubscriptionId,
        member: InstanceId,
        state: CrashState,
    ) -> CrashState {
        let page = self.0.entry(id.clone()).or_default();
        page.members.insert(member, state);
        let mut all = CrashState::default();
        for state in page.members.values() {
            all.crashes = all.crashes.max(state.crashes);
            for (message, deaths) in &state.suspects {
                match all.suspects.iter_mut().find(|(m, _)| m == message) {
                    Some((_, most)) => *most = (*most).max(*deaths),
                    None => all.suspects.push((*message, *deaths)),
                }
            }
        }
        if all.crashes == 0 {
            page.left = CrashState::default();
        }
        all
    }

    /// A member has ended.
    pub(crate) fn close(&mut self, id: &SubscriptionId, member: InstanceId) {
        if let Some(page) = self.0.get_mut(id) {
            page.members.remove(&member);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use postrider_core::id::MessageId;

    use super::*;

    const A: InstanceId = InstanceId(1);
    const B: InstanceId = InstanceId(2);

    fn id() -> SubscriptionId {
        SubscriptionId::parse("shipping@topic:shop.order").unwrap()
    }

    fn state(crashes: u32, suspects: &[(&str, u32)]) -> CrashState {
        let suspects = suspects
            .iter()
            .map(|(m, n)| (MessageId::parse_or_hash(m), *n));
        CrashState {
            crashes,
            suspects: suspects.collect(),
        }
    }

    #[test]
    fn what_a_living_member_noted_is_no_crash_to_the_next() {
        let mut book = CrashBook::default();
        assert_eq!(book.open(&id(), A, state(2, &[])), state(2, &[]));
        let stored = book.note(&id(), A, state(3, &[("m", 1)]));
        assert_eq!(book.open(&id(), B, stored), state(2, &[]));
        book.close(&id(), A);
        book.close(&id(), B);
        let stored = state(3, &[("m", 1)]);
        assert_eq!(book.open(&id(), A, stored.clone()), stored, "they all died");
    }

    #[test]
    fn members_do_not_wipe_out_what_others_noted() {
        let mut book = CrashBook::default();
        let left = state(3, &[("m", 1)]);
        book.open(&id(), A, left.clone());
        book.open(&id(), B, left);
        book.note(&id(), A, state(4, &[("m", 2)]));
        let stored = book.note(&id(), B, state(4, &[("m", 1), ("n", 1)]));
        assert_eq!(stored, state(4, &[("m", 2), ("n", 1)]));
        let stored = book.note(&id(), B, state(0, &[]));
        assert_eq!(stored, state(4, &[("m", 2)]), "A still tries it");
        assert_eq!(book.note(&id(), A, state(0, &[])), state(0, &[]));
        let third = InstanceId(3);
        assert_eq!(book.open(&id(), third, state(0, &[])), state(0, &[]));
    }
}
