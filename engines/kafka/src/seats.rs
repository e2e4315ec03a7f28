//! Names of the members in this process, so that a process that comes back is known to the groups.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

/// Which numbers are taken, by group.
#[derive(Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<HashMap<String, BTreeSet<u32>>>>);

/// A name in a group, free again when this is dropped.
pub(crate) struct Seat {
    seats: Seats,
    group: String,
    number: u32,
    pub(crate) name: String,
}

impl Seats {
    /// The member's name, and the first free number: a process may open a subscription more than once, and does so again after a restart.
    pub(crate) fn take(&self, group: &str, member: &str) -> Seat {
        let mut groups = self.0.lock();
        let taken = groups.entry(group.to_owned()).or_default();
        let free = (0..).find(|number| !taken.contains(number));
        let number = free.unwrap_or(u32::MAX);
        taken.insert(number);
        Seat {
            seats: self.clone(),
            group: group.to_owned(),
            number,
            name: format!("{member}.{number}"),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut groups = self.seats.0.lock();
        if let Some(taken) = groups.get_mut(&self.group) {
            taken.remove(&self.number);
            if taken.is_empty() {
                groups.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_free_again_once_its_member_is_gone() {
        let seats = Seats::default();
        let first = seats.take("g", "node-1");
        let second = seats.take("g", "node-1");
        let other = seats.take("h", "node-1");
        assert_eq!(
            [&first.name, &second.name, &other.name],
            ["node-1.0", "node-1.1", "node-1.0"]
        );
        drop(first);
        assert_eq!(seats.take("g", "node-1").name, "node-1.0");
    }
}
