//! Which member has which records on their way back to the handler. In memory: after a restart nobody has any.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::id::InstanceId;
use postrider_log::{FailureId, SubId};
use tokio::sync::Notify;

/// The claims of one engine.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    subs: HashMap<SubId, OfSub>,
    generation: u64,
}

#[derive(Debug, Default)]
struct OfSub {
    taken: BTreeMap<FailureId, Claim>,
    /// How many of a key's records are taken, and by whom.
    keys: HashMap<Bytes, (InstanceId, u32)>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Claim {
    member: InstanceId,
    generation: u64,
    key: Option<Bytes>,
}

impl Claims {
    /// Who is told when a claim may give something.
    pub(crate) fn changed(&mut self, sub: SubId) -> Arc<Notify> {
        Arc::clone(&self.subs.entry(sub).or_default().changed)
    }

    /// Whether this record may be taken by this member: it is free, and no other member has records of its key.
    pub(crate) fn is_free(
        &self,
        sub: SubId,
        id: FailureId,
        key: Option<&Bytes>,
        member: InstanceId,
    ) -> bool {
        let Some(of_sub) = self.subs.get(&sub) else {
            return true;
        };
        let elsewhere = key
            .and_then(|key| of_sub.keys.get(key))
            .is_some_and(|(owner, _)| *owner != member);
        !elsewhere && !of_sub.taken.contains_key(&id)
    }

    /// Whether this record is taken by nobody, be its key elsewhere or not.
    pub(crate) fn is_taken(&self, sub: SubId, id: FailureId) -> bool {
        self.subs
            .get(&sub)
            .is_some_and(|of_sub| of_sub.taken.contains_key(&id))
    }

    /// Takes a record that is free. Gives what tells this claim from an earlier one.
    pub(crate) fn take(
        &mut self,
        sub: SubId,
        id: FailureId,
        key: Option<Bytes>,
        member: InstanceId,
    ) -> u64 {
        self.generation += 1;
        let of_sub = self.subs.entry(sub).or_default();
        if let Some(key) = &key {
            of_sub.keys.entry(key.clone()).or_insert((member, 0)).1 += 1;
        }
        let before = of_sub.taken.insert(
            id,
            Claim {
                member,
                generation: self.generation,
                key,
            },
        );
        assert!(before.is_none(), "a record is taken once");
        self.generation
    }

    /// Ends a claim. `false`: it is not this one.
    pub(crate) fn end(&mut self, sub: SubId, id: FailureId, generation: u64) -> bool {
        let Some(of_sub) = self.subs.get_mut(&sub) else {
            return false;
        };
        match of_sub.taken.get(&id) {
            Some(claim) if claim.generation == generation => {}
            _ => return false,
        }
        of_sub.remove(id);
        of_sub.changed.notify_waiters();
        true
    }

    /// Whether the claim is this one.
    pub(crate) fn holds(&self, sub: SubId, id: FailureId, generation: u64) -> bool {
        let claim = self.subs.get(&sub).and_then(|of_sub| of_sub.taken.get(&id));
        claim.is_some_and(|claim| claim.generation == generation)
    }

    /// The member is gone: what it took can be taken again.
    pub(crate) fn release(&mut self, sub: SubId, member: InstanceId) {
        let Some(of_sub) = self.subs.get_mut(&sub) else {
            return;
        };
        let held = of_sub
            .taken
            .iter()
            .filter(|(_, claim)| claim.member == member);
        let held: Vec<FailureId> = held.map(|(id, _)| *id).collect();
        held.into_iter().for_each(|id| of_sub.remove(id));
        of_sub.changed.notify_waiters();
    }

    /// Something was marked for redrive, or the engine ended.
    pub(crate) fn wake(&mut self, sub: SubId) {
        self.subs.entry(sub).or_default().changed.notify_waiters();
    }

    /// Everybody who waits looks again.
    pub(crate) fn wake_all(&self) {
        self.subs
            .values()
            .for_each(|of_sub| of_sub.changed.notify_waiters());
    }
}

impl OfSub {
    fn remove(&mut self, id: FailureId) {
        let Some(claim) = self.taken.remove(&id) else {
            return;
        };
        let Some(key) = claim.key else { return };
        if let Some((_, count)) = self.keys.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUB: SubId = SubId(1);
    const A: InstanceId = InstanceId(1);
    const B: InstanceId = InstanceId(2);

    #[test]
    fn a_key_is_with_one_member_and_returns_when_it_is_gone() {
        let key = Bytes::from_static(b"order-1");
        let mut claims = Claims::default();
        let first = claims.take(SUB, FailureId(1), Some(key.clone()), A);
        assert!(claims.is_free(SUB, FailureId(2), Some(&key), A));
        assert!(!claims.is_free(SUB, FailureId(2), Some(&key), B));
        assert!(claims.is_free(SUB, FailureId(3), None, B));
        claims.release(SUB, A);
        assert!(claims.is_free(SUB, FailureId(1), Some(&key), B));
        let second = claims.take(SUB, FailureId(1), Some(key), B);
        assert!(
            !claims.end(SUB, FailureId(1), first),
            "the claim of a member that is gone ends nothing"
        );
        assert!(claims.end(SUB, FailureId(1), second));
    }
}
