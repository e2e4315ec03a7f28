//! **Set-up**: two services on one topic. **Action**: three messages of one key and three of another; one service refuses the first of them for good,
//! so its key is parked and the rest follows; a person has it redriven. **Expected**: that service handles the parked key in order, once; the
//! other one has handled each message once and sees nothing of the redrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrider::contract::failure::Selection;
use postrider::{HandlerError, SubscriptionId};

use super::{SOON, counted};
use crate::history::{Anomaly, History, Repeats, What, handled, in_order, nothing_lost};
use crate::member::{Member, Stage, publish};
use crate::subject::Subject;
use crate::verdict::Findings;

const KEY: &str = "parked";
const PER_KEY: u32 = 3;

pub(super) async fn run(subject: &dyn Subject) -> Result<Findings, Anomaly> {
    let mended = Arc::new(AtomicBool::new(false));
    let mends = mended.clone();
    let stage = Stage::new(subject, move |call| {
        let refused = call.service == "left"
            && (call.key.as_str(), call.n) == (KEY, 0)
            && !mended.load(Ordering::SeqCst);
        async move {
            match refused {
                true => Err(HandlerError::Permanent("it is refused".into())),
                false => Ok(()),
            }
        }
    });
    let left = stage.start(subject, "left").await?;
    let right = stage.start(subject, "right").await?;
    let keys = [KEY.to_owned(), "other".to_owned()];
    publish(&left.bus, &keys, 0..PER_KEY).await?;
    let history = &stage.history;
    history
        .until("all but the parked key", SOON, |e| {
            handled(e) == 3 * PER_KEY as usize
        })
        .await?;
    let id = SubscriptionId::parse("left@topic:conformance.ledger");
    let id = id.map_err(postrider::Error::from)?;
    parked(&left, &id).await?;
    mends.store(true, Ordering::SeqCst);
    let failures = left.bus.failures();
    let marked = failures
        .redrive(&id, Selection::All, "conformance", "it is mended")
        .await;
    let marked = marked.map_err(postrider::Error::from)?;
    history
        .until("the redriven key", SOON, |e| {
            handled(e) == 4 * PER_KEY as usize
        })
        .await?;
    gone(&left, &id).await?;
    left.stop().await;
    right.stop().await;
    judge(history, marked)
}

fn judge(history: &History, marked: u64) -> Result<Findings, Anomaly> {
    let (left, right) = (history.of("left"), history.of("right"));
    let published = [KEY, "other"].map(|key| (key.to_owned(), PER_KEY));
    for events in [&left, &right] {
        nothing_lost(events, &published)?;
        in_order(events, Repeats::None)?;
    }
    let redriven = |e: &&crate::Event| e.redriven && e.what == What::Started;
    let (ours, others) = (
        left.iter().filter(redriven).count(),
        right.iter().filter(redriven).count(),
    );
    if (marked, ours, others) != (PER_KEY.into(), PER_KEY as usize, 0) {
        let what = format!(
            "{marked} records were marked; {ours} came back to their subscription and {others} to another"
        );
        return Err(Anomaly::Other { what });
    }
    Ok(counted(&history.events()).with("redriven", marked))
}

/// Waits until the whole key is in the failure store.
async fn parked(member: &Member, id: &SubscriptionId) -> Result<(), Anomaly> {
    records(member, id, "the key was not parked", |records| {
        records == PER_KEY as usize
    })
    .await
}

/// Waits until nothing is left in it.
async fn gone(member: &Member, id: &SubscriptionId) -> Result<(), Anomaly> {
    records(member, id, "what was redriven stayed", |records| {
        records == 0
    })
    .await
}

async fn records(
    member: &Member,
    id: &SubscriptionId,
    late: &str,
    enough: impl Fn(usize) -> bool,
) -> Result<(), Anomaly> {
    let failures = member.bus.failures();
    let asking = async {
        loop {
            let listed = failures.list(id, None, None, 100).await;
            let listed = listed.map_err(postrider::Error::from)?;
            if enough(listed.len()) {
                return Ok(());
            }
            // Nothing tells when a record was stored: it is asked again.
            tokio::time::sleep(super::LOOK).await;
        }
    };
    let asked = tokio::time::timeout(SOON, asking).await;
    asked.unwrap_or_else(|_elapsed| Err(Anomaly::Late { what: late.into() }))
}
