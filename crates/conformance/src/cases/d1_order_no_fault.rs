//! **Set-up**: four members of one service. **Action**: 100 messages of each of 100 keys are published, the keys in turn. **Expected**: nothing is
//! lost, each is handled once, per key in order, and no two of a key at once, whichever members have them.

use postrider::millis;

use super::{counted, ended};
use crate::history::{Anomaly, Repeats};
use crate::member::{Stage, keys, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEYS: u32 = 100;
const PER_KEY: u32 = 100;
const MEMBERS: u32 = 4;

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let stage = Stage::working(subject, millis(0));
    let mut members = Vec::new();
    for _ in 0..MEMBERS {
        members.push(stage.start(subject, "reader").await?);
    }
    let keys = keys(KEYS);
    publish(&members[0].bus, &keys, 0..PER_KEY).await?;
    let events = ended(&stage, members, keys, PER_KEY, Repeats::None).await?;
    Ok(counted(&events))
}
