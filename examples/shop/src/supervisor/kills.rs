//! When the services are killed: at seeded points of progress, so that all kills happen however fast the machine is.

use crate::seed::hash;

/// The kills that are still to come, as numbers of ended orders, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KillPlan {
    at: std::collections::VecDeque<u64>,
}

impl KillPlan {
    /// `count` kills between `from` orders (that ended before) and `to`: one in each equal part, at a seeded place of it.
    pub(super) fn new(seed: u64, count: u32, from: u64, to: u64) -> Self {
        let span = u128::from(to.saturating_sub(from));
        let at = (0..count).map(|n| {
            // Within the middle of its part, in thousandths of it.
            let place =
                u128::from(n) * 1000 + 100 + u128::from(hash(seed, "kill", &n.to_string()) % 800);
            from + u64::try_from(span * place / (u128::from(count) * 1000)).unwrap_or(u64::MAX)
        });
        Self { at: at.collect() }
    }

    /// Whether a kill is due at this many ended orders, or at once because all have ended.
    pub(super) fn is_due(&self, ended: u64, all_ended: bool) -> bool {
        self.at.front().is_some_and(|at| all_ended || ended >= *at)
    }

    /// Takes the next kill out.
    pub(super) fn take(&mut self) {
        self.at.pop_front();
    }

    /// Whether none is to come.
    pub(super) fn is_done(&self) -> bool {
        self.at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_seeded_and_all_happen() {
        let plan = KillPlan::new(3, 20, 0, 10_000);
        assert_eq!(plan.at.len(), 20);
        assert!(
            plan.at
                .iter()
                .zip(plan.at.iter().skip(1))
                .all(|(a, b)| a < b),
            "{plan:?}"
        );
        assert!(
            plan.at.iter().all(|at| (1..10_000).contains(at)),
            "{plan:?}"
        );
        assert_eq!(plan, KillPlan::new(3, 20, 0, 10_000));
        assert_ne!(plan, KillPlan::new(4, 20, 0, 10_000));
        let mut left = KillPlan::new(3, 3, 10, 10);
        let mut kills = 0;
        while left.is_due(10, true) {
            left.take();
            kills += 1;
        }
        assert_eq!((kills, left.is_done()), (3, true));
    }

    #[test]
    fn a_resumed_run_kills_in_what_is_left() {
        let plan = KillPlan::new(3, 5, 900, 1000);
        assert!(
            plan.at.iter().all(|at| (900..1000).contains(at)),
            "{plan:?}"
        );
        assert!(!plan.is_due(900, false));
    }
}
