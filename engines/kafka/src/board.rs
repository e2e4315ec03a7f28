//! How far the members in this process have committed: what a look at the depth need not ask the group for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use postrider_core::source::{Commit, ResumeState};

/// How far a partition is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) watermark: u64,
    /// Messages above the watermark that are done.
    pub(crate) done: u64,
}

impl From<&ResumeState> for Standing {
    fn from(left: &ResumeState) -> Self {
        Self {
            watermark: left.watermark.0,
            done: left.done_above.iter().map(|(_, count)| count).sum(),
        }
    }
}

impl From<&Commit> for Standing {
    fn from(commit: &Commit) -> Self {
        Self {
            watermark: commit.watermark.0,
            done: commit.done_above.iter().map(|(_, count)| count).sum(),
        }
    }
}

/// A member in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberNo(u64);

type Partitions = HashMap<i32, (MemberNo, Standing)>;

/// What the members in this process own, by group. Only what the group has confirmed stands here.
#[derive(Default)]
pub(crate) struct Board {
    members: AtomicU64,
    groups: Mutex<HashMap<String, Partitions>>,
}

impl Board {
    pub(crate) fn join(&self) -> MemberNo {
        MemberNo(self.members.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn note(&self, group: &str, by: MemberNo, partition: i32, standing: Standing) {
        let mut groups = self.groups.lock();
        let partitions = groups.entry(group.to_owned()).or_default();
        partitions.insert(partition, (by, standing));
    }

    /// ORDER: another member of this process may own the partition already; what that one noted stays.
    pub(crate) fn forget(&self, group: &str, by: MemberNo, partitions: &[i32]) {
        let mut groups = self.groups.lock();
        let Some(owned) = groups.get_mut(group) else {
            return;
        };
        for partition in partitions {
            if owned.get(partition).is_some_and(|(owner, _)| *owner == by) {
                owned.remove(partition);
            }
        }
        if owned.is_empty() {
            groups.remove(group);
        }
    }

    pub(crate) fn leave(&self, group: &str, by: MemberNo) {
        let mut groups = self.groups.lock();
        if let Some(owned) = groups.get_mut(group) {
            owned.retain(|_, (owner, _)| *owner != by);
            if owned.is_empty() {
                groups.remove(group);
            }
        }
    }

    pub(crate) fn of(&self, group: &str) -> HashMap<i32, Standing> {
        let groups = self.groups.lock();
        let owned = groups.get(group).into_iter().flatten();
        owned.map(|(p, (_, standing))| (*p, *standing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_that_moved_within_the_process_is_its_new_owners() {
        let board = Board::default();
        let (first, second) = (board.join(), board.join());
        let at = |watermark| Standing { watermark, done: 1 };
        board.note("g", first, 0, at(3));
        board.note("g", first, 1, at(4));
        board.note("g", second, 1, at(7));
        board.forget("g", first, &[0, 1]);
        assert_eq!(board.of("g"), HashMap::from([(1, at(7))]));
        board.leave("g", first);
        assert_eq!(board.of("g"), HashMap::from([(1, at(7))]));
        board.leave("g", second);
        assert_eq!(board.of("g"), HashMap::new());
    }
}
