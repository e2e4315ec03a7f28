//! Short rounds that take turns, so that what else the machine does falls on both sides.

/// Figures of two sides, round by round.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    pairs: Vec<(f64, f64)>,
}

impl Rounds {
    /// What both sides reached in one round.
    pub(super) fn add(&mut self, ours: f64, theirs: f64) {
        self.pairs.push((ours, theirs));
    }

    pub(super) fn count(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn ours(&self) -> f64 {
        median(self.pairs.iter().map(|(ours, _)| *ours))
    }

    pub(super) fn theirs(&self) -> f64 {
        median(self.pairs.iter().map(|(_, theirs)| *theirs))
    }

    pub(super) fn ratio(&self) -> f64 {
        let ratios = self.pairs.iter().filter(|(_, theirs)| *theirs != 0.0);
        median(ratios.map(|(ours, theirs)| ours / theirs))
    }
}

/// The one in the middle; of an even number the mean of both. 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => 0.0,
        (Some(one), 1) => *one,
        (Some(upper), _) => (values.get(middle - 1).unwrap_or(upper) + upper) / 2.0,
    }
}

/// The value that this share of all is at or below. 0 of none.
pub(super) fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.max(1) - 1).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        assert_eq!(median([]), 0.0);
        assert_eq!(median([3.0, 1.0]), 2.0);
        assert_eq!(median([9.0, 1.0, 2.0]), 2.0);
        let mut values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.99), 99.0);
        assert_eq!(percentile(&mut values, 1.0), 100.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }
}
