//! **Set-up**: one member. **Action**: four messages of one key; the member dies while its handler has the second one, and another member starts.
//! **Expected**: the second message is handled by the new member, and then the rest, in order; the first may come again with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{SOON, counted};
use crate::history::{Anomaly, Repeats, What, handled, in_order, nothing_lost};
use crate::member::{Stage, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let dead = Arc::new(AtomicBool::new(false));
    let is_dead = dead.clone();
    let stage = Stage::new(subject, move |call| {
        let hangs = call.n == 1 && !is_dead.load(Ordering::SeqCst);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let first = stage.start(subject, "reader").await?;
    let keys = ["k".to_owned()];
    publish(&first.bus, &keys, 0..4).await?;
    let history = &stage.history;
    history
        .until("the second message", SOON, |e| {
            e.iter().any(|e| e.n == 1 && e.what == What::Started)
        })
        .await?;
    dead.store(true, Ordering::SeqCst);
    first.crash();
    let second = stage.start(subject, "reader").await?;
    history
        .until("the redelivery", SOON, |e| handled(e) == 4)
        .await?;
    second.stop().await;
    let events = history.events();
    nothing_lost(&events, &[("k".to_owned(), 4)])?;
    in_order(&events, Repeats::OfSuffix)?;
    let starts = events
        .iter()
        .filter(|e| e.n == 1 && e.what == What::Started)
        .count();
    if starts < 2 {
        let what = format!("the message was started {starts} times: it was not redelivered");
        return Err(Anomaly::Other { what });
    }
    Ok(counted(&events))
}
