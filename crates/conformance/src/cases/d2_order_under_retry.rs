//! **Set-up**: two members. **Action**: 30 messages of each of 20 keys; each tenth fails twice before it succeeds. **Expected**: the next of a key
//! begins only after the one before it has succeeded; each succeeds once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postrider::{HandlerError, millis};

use super::{counted, ended};
use crate::history::{Anomaly, Repeats, What};
use crate::member::{Stage, keys, publish, work};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEYS: u32 = 20;
const PER_KEY: u32 = 30;
const FAILURES: u32 = 2;

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let failed: Arc<Mutex<HashMap<(String, u32), u32>>> = Arc::default();
    let stage = Stage::new(subject, move |call| {
        let failed = failed.clone();
        async move {
            work(millis(1)).await;
            let mut failed = failed.lock();
            let count = failed.entry((call.key, call.n)).or_default();
            if call.n % 10 == 9 && *count < FAILURES {
                *count += 1;
                return Err(HandlerError::Transient("each tenth fails twice".into()));
            }
            Ok(())
        }
    });
    let members = [
        stage.start(subject, "reader").await?,
        stage.start(subject, "reader").await?,
    ];
    let keys = keys(KEYS);
    publish(&members[0].bus, &keys, 0..PER_KEY).await?;
    let events = ended(&stage, members, keys, PER_KEY, Repeats::None).await?;
    let failures = events.iter().filter(|e| e.what == What::Failed).count() as u32;
    let expected = KEYS * (PER_KEY / 10) * FAILURES;
    if failures != expected {
        let what = format!("{failures} attempts failed where {expected} should");
        return Err(Anomaly::Other { what });
    }
    Ok(counted(&events).with("failed_attempts", failures.into()))
}
