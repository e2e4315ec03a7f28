//! One relay for each store on a bus, however many services use the store: two would each publish every row, from places of their own.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Ended, RelayHandle};

/// The relays of one bus.
#[derive(Default)]
pub(crate) struct Relays(Mutex<State>);

#[derive(Default)]
struct State {
    relays: Vec<Entry>,
    /// Those that nobody has any more and that have not ended, by their store: without a handle, which would keep the store open.
    ending: Vec<(usize, Ended)>,
}

struct Entry {
    /// [`Store::identity`](postrider_core::store::Store::identity).
    store: usize,
    /// Who started it.
    service: String,
    relay: RelayHandle,
    members: usize,
    /// It was told to end: who comes now gets another, which waits for this one.
    told: bool,
}

/// One service's part in the relay of its store. Dropped it leaves, and the last one ends the relay.
pub(crate) struct RelayShare {
    relay: RelayHandle,
    relays: Arc<Relays>,
    /// Whether it was the last when it left.
    left: Mutex<Option<bool>>,
}

impl Relays {
    /// The relay of this store: the one that runs, or a new one, to run after the end of the one that it is given.
    pub(crate) fn share(
        self: &Arc<Self>,
        store: usize,
        service: &str,
        start: impl FnOnce(Option<Ended>) -> RelayHandle,
    ) -> RelayShare {
        let mut state = self.0.lock();
        state.ending.retain(|(_, ended)| is_running(ended));
        let same = |entry: &&mut Entry| entry.store == store && !entry.told;
        let running = state.relays.iter_mut().find(same);
        let relay = match running {
            Some(entry) => {
                entry.members += 1;
                entry.relay.clone()
            }
            None => {
                let relay = start(state.last_end(store));
                state.relays.push(Entry {
                    store,
                    service: service.to_owned(),
                    relay: relay.clone(),
                    members: 1,
                    told: false,
                });
                relay
            }
        };
        RelayShare {
            relay,
            relays: Arc::clone(self),
            left: Mutex::new(None),
        }
    }

    /// All of them, with the service that started each.
    pub(crate) fn all(&self) -> Vec<(String, RelayHandle)> {
        let state = self.0.lock();
        let all = state.relays.iter();
        all.map(|e| (e.service.clone(), e.relay.clone())).collect()
    }
}

impl State {
    /// The end of the latest relay of this store that is on its way to it. ORDER: each waits for the one before, so that one is enough.
    fn last_end(&self, store: usize) -> Option<Ended> {
        let told = self.relays.iter().rev().find(|e| e.store == store);
        let told = told.map(|e| e.relay.ended.clone());
        let ending = || self.ending.iter().rev().find(|(s, _)| *s == store);
        told.or_else(|| ending().map(|(_, ended)| ended.clone()))
    }

    fn entry(&mut self, relay: &RelayHandle) -> Option<&mut Entry> {
        self.relays.iter_mut().find(|e| e.relay.is(relay))
    }

    /// Lets go of a relay without members.
    fn forget(&mut self, relay: &RelayHandle) {
        if let Some(index) = self.relays.iter().position(|e| e.relay.is(relay)) {
            let entry = self.relays.remove(index);
            if is_running(&entry.relay.ended) {
                self.ending.push((entry.store, entry.relay.ended.clone()));
            }
        }
    }
}

fn is_running(ended: &Ended) -> bool {
    !*ended.borrow() && ended.has_changed().is_ok()
}

impl RelayShare {
    /// The relay.
    pub(crate) fn relay(&self) -> &RelayHandle {
        &self.relay
    }

    /// The service needs it no longer. Gives whether nobody did then: it is for this one to end it. Again: the same answer.
    pub(crate) fn leave(&self) -> bool {
        let mut left = self.left.lock();
        *left.get_or_insert_with(|| {
            let mut state = self.relays.0.lock();
            let entry = state.entry(&self.relay);
            entry.is_none_or(|entry| {
                entry.members -= 1;
                entry.members == 0
            })
        })
    }

    /// As [`RelayHandle::stop`], where it was the last to leave and nobody came since. `true`: it ended in time, or it is for another to end it.
    pub(crate) async fn stop(&self, within: Duration) -> bool {
        !self.tell() || self.relay.stop(within).await
    }

    /// Tells the relay to end if it is for this one to end it.
    fn tell(&self) -> bool {
        if !self.leave() {
            return false;
        }
        let mut state = self.relays.0.lock();
        let unused = state.entry(&self.relay).is_none_or(|entry| {
            entry.told = entry.members == 0;
            entry.told
        });
        if unused {
            self.relay.leave();
        }
        unused
    }
}

impl Drop for RelayShare {
    fn drop(&mut self) {
        if self.tell() {
            self.relays.0.lock().forget(&self.relay);
        }
    }
}

#[cfg(test)]
mod tests;
