//! The fewest operations that still fail: pieces of the story leave, large ones first, as long as it fails without them.

/// Stories played to find a shorter one. More is a patience that nobody has.
const TRIES_MAX: usize = 4_000;

pub(super) fn shortest<T: Clone>(whole: &[T], fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut best = whole.to_vec();
    let mut tries = 0;
    let mut piece = best.len().div_ceil(2).max(1);
    loop {
        let before = best.len();
        // From the end: what comes after the failure leaves first.
        let mut end = best.len();
        while end > 0 && tries < TRIES_MAX {
            let from = end.saturating_sub(piece);
            let mut shorter = best.clone();
            shorter.drain(from..end);
            tries += 1;
            if fails(&shorter) {
                best = shorter;
            }
            end = from;
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if best.len() == before || tries >= TRIES_MAX {
            return best;
        }
    }
}
