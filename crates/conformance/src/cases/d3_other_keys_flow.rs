//! **Set-up**: one member. **Action**: 20 messages of each of 50 keys; the first message of one key fails until all others are handled.
//! **Expected**: the other 49 keys are handled to the end while that one fails; once it succeeds, the rest of its key follows in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrider::HandlerError;

use super::{SOON, counted};
use crate::history::{Anomaly, Repeats, What, handled, in_order, nothing_lost};
use crate::member::{Stage, keys, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEYS: u32 = 50;
const PER_KEY: u32 = 20;
const STUCK: &str = "k7";

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let healed = Arc::new(AtomicBool::new(false));
    let heals = healed.clone();
    let stage = Stage::new(subject, move |call| {
        let fails = call.key == STUCK && !healed.load(Ordering::SeqCst);
        async move {
            match fails {
                true => Err(HandlerError::Transient("not yet".into())),
                false => Ok(()),
            }
        }
    });
    let member = stage.start(subject, "reader").await?;
    let keys = keys(KEYS);
    publish(&member.bus, &keys, 0..PER_KEY).await?;
    let history = &stage.history;
    let others = ((KEYS - 1) * PER_KEY) as usize;
    history
        .until("the last message of the other keys", SOON, |e| {
            handled(e) == others
        })
        .await?;
    let stuck = history.events();
    let tried = stuck.iter().filter(|e| e.key == STUCK);
    if tried.clone().any(|e| e.n > 0 || e.what == What::Done) {
        let what = format!("{STUCK} went on though its first message fails");
        return Err(Anomaly::Other { what });
    }
    history
        .until("an attempt at the stuck key", SOON, |e| {
            e.iter().any(|e| e.key == STUCK && e.what == What::Failed)
        })
        .await?;
    heals.store(true, Ordering::SeqCst);
    let all = (KEYS * PER_KEY) as usize;
    history
        .until("the stuck key", SOON, |e| handled(e) == all)
        .await?;
    member.stop().await;
    let events = history.events();
    let published: Vec<_> = keys.into_iter().map(|key| (key, PER_KEY)).collect();
    nothing_lost(&events, &published)?;
    in_order(&events, Repeats::None)?;
    let attempts = events.iter().filter(|e| e.what == What::Failed).count();
    Ok(counted(&events).with("failed_attempts", attempts as u64))
}
