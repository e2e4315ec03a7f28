//! The parked keys in memory: each message that comes in asks for its key, on a thread that must not wait for a disk.
//!
//! Whatever is parked is in the set from its commit on, before whoever parked it is told. A key MAY stay in it too long (a person discarded its records):
//! the message that comes next wants to follow it, is refused, and that takes it out.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use parking_lot::RwLock;
use postrider_core::name::SubscriptionId;

/// Keys of a subscription that are kept; where more are parked, the table is asked.
const KEYS_MAX: usize = 100_000;

/// The parked keys of the subscriptions that were opened.
#[derive(Debug, Default)]
pub(crate) struct ParkedKeys(RwLock<HashMap<SubscriptionId, Keys>>);

#[derive(Debug)]
enum Keys {
    All(HashSet<Bytes>),
    TooMany,
}

/// What a commit changes.
#[derive(Debug)]
pub(crate) enum Change {
    /// The subscription was opened, and these are all of its parked keys.
    Opened(Vec<Bytes>),
    Parked(Bytes),
    Freed(Bytes),
}

impl ParkedKeys {
    /// Whether a key is parked, a yes perhaps for too long. `None`: the table knows.
    pub(crate) fn is_parked(&self, subscription: &SubscriptionId, key: &Bytes) -> Option<bool> {
        match self.0.read().get(subscription)? {
            Keys::All(keys) => Some(keys.contains(key)),
            Keys::TooMany => None,
        }
    }

    /// A commit changed this, in this order. By the writer alone.
    pub(crate) fn apply(&self, changes: &mut Vec<(SubscriptionId, Change)>) {
        if changes.is_empty() {
            return;
        }
        let mut subscriptions = self.0.write();
        for (subscription, change) in changes.drain(..) {
            if let Change::Opened(keys) = change {
                subscriptions.insert(subscription, Keys::of(keys));
            } else if let Some(keys) = subscriptions.get_mut(&subscription) {
                keys.apply(change);
            }
        }
    }
}

impl Keys {
    fn of(keys: Vec<Bytes>) -> Self {
        match keys.len() > KEYS_MAX {
            true => Self::TooMany,
            false => Self::All(keys.into_iter().collect()),
        }
    }

    fn apply(&mut self, change: Change) {
        let Self::All(keys) = self else { return };
        match change {
            Change::Parked(key) => {
                keys.insert(key);
            }
            Change::Freed(key) => {
                keys.remove(&key);
            }
            Change::Opened(all) => *self = Self::of(all),
        }
        if matches!(self, Self::All(keys) if keys.len() > KEYS_MAX) {
            *self = Self::TooMany;
        }
    }
}

#[cfg(test)]
mod tests;
