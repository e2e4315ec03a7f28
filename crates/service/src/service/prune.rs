//! The inbox is pruned by age: once an hour, rows older than the service's `inbox_keep` go.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::store::Store;
use tokio_util::sync::CancellationToken;

use crate::runtime::Runtime;

/// How often the inbox is pruned; the first time this long after the start.
const EVERY: Duration = Duration::from_secs(3600);

/// Prunes until the token is cancelled.
pub(super) fn spawn(
    stores: Vec<Arc<dyn Store>>,
    runtime: Arc<Runtime>,
    keep: Duration,
) -> CancellationToken {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    if stores.is_empty() {
        return stop;
    }
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stopped.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            prune(&stores, before(runtime.clock.wall(), keep)).await;
        }
    });
    stop
}

fn before(now: Timestamp, keep: Duration) -> Timestamp {
    let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
    Timestamp(now.millis().saturating_sub(keep))
}

async fn prune(stores: &[Arc<dyn Store>], before: Timestamp) {
    for store in stores {
        match store.prune_inbox(before).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, store = store.info().product, "pruned the inbox"),
            Err(fault) => {
                tracing::warn!(%fault, "the inbox was not pruned; tried again in an hour")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_for_as_long_as_was_said() {
        let day = Duration::from_secs(24 * 3600);
        let now = Timestamp(100 * 24 * 3_600_000);
        assert_eq!(before(now, day).plus(day), now);
        assert_eq!(before(Timestamp(5), day), Timestamp(0));
    }
}
