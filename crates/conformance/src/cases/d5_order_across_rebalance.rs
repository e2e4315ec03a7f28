//! **Set-up**: one member. **Action**: 40 messages of each of 40 keys; on the way two members join, the first leaves, another joins, and one more
//! leaves: each drains before it goes. **Expected**: as across a crash, nothing is lost, per key no skip, and what comes again is a suffix; and
//! each member that came had work.

use std::collections::BTreeSet;

use postrider::millis;

use super::{SOON, counted, ended};
use crate::history::{Anomaly, Repeats, handled};
use crate::member::{Stage, keys, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEYS: u32 = 40;
const PER_KEY: u32 = 40;

enum Move {
    Join,
    Leave,
}

const MOVES: [Move; 5] = [Move::Join, Move::Join, Move::Leave, Move::Join, Move::Leave];

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let stage = Stage::working(subject, millis(5));
    let mut members = vec![stage.start(subject, "reader").await?];
    let keys = keys(KEYS);
    let publisher = subject.connect().await?;
    // A part for each move, published when it is made: there is work for whoever comes.
    let parts = MOVES.len() as u32 + 1;
    let mut from = 0;
    let history = &stage.history;
    for (part, step) in (1..=parts).zip(MOVES.iter().map(Some).chain([None])) {
        let to = PER_KEY * part / parts;
        publish(&publisher, &keys, from..to).await?;
        let half = (KEYS * (from + to) / 2) as usize;
        from = to;
        history
            .until("the next move", SOON, |e| handled(e) >= half)
            .await?;
        match step {
            Some(Move::Join) => members.push(stage.start(subject, "reader").await?),
            Some(Move::Leave) => members.remove(0).stop().await,
            None => {}
        }
    }
    let events = ended(&stage, members, keys, PER_KEY, Repeats::OfSuffix).await?;
    let worked: BTreeSet<u32> = events.iter().map(|e| e.member).collect();
    Ok(counted(&events)
        .with("moves", MOVES.len() as u64)
        .with("members_that_worked", worked.len() as u64))
}
