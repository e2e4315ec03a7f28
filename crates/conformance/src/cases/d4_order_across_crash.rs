//! **Set-up**: three members. **Action**: 40 messages of each of 40 keys; four times on the way a member is dropped with what it has in hand, and
//! another one starts. **Expected**: nothing is lost; per key no skip, and what comes again is a suffix.

use postrider::millis;

use super::{SOON, counted, ended};
use crate::history::{Anomaly, Repeats, handled};
use crate::member::{Stage, keys, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEYS: u32 = 40;
const PER_KEY: u32 = 40;
const CRASHES: usize = 4;

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let stage = Stage::working(subject, millis(5));
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(stage.start(subject, "reader").await?);
    }
    let keys = keys(KEYS);
    let publisher = subject.connect().await?;
    publish(&publisher, &keys, 0..PER_KEY).await?;
    let all = (KEYS * PER_KEY) as usize;
    let history = &stage.history;
    for crash in 1..=CRASHES {
        let due = all * crash / (CRASHES + 2);
        history
            .until("the next crash", SOON, |e| handled(e) >= due)
            .await?;
        members.remove(0).crash();
        members.push(stage.start(subject, "reader").await?);
    }
    let events = ended(&stage, members, keys, PER_KEY, Repeats::OfSuffix).await?;
    Ok(counted(&events).with("crashes", CRASHES as u64))
}
