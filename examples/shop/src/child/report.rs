//! Tells the supervisor how it stands: orders from the database, depths from the engine and the outboxes, counts of this process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use postrider::contract::capability::Capability;
use postrider::{Durability, Store};
use tokio::sync::watch;

use super::{Services, say};
use crate::protocol::{Progress, Report};

/// How often it is told at most; also, the look itself takes at most a twentieth of the time.
const EVERY: Duration = Duration::from_millis(100);
/// How long a report is at most waited for beyond the time that it takes: asking a server for its depths may take seconds.
const EVERY_MAX: Duration = Duration::from_secs(1);
/// Failure records whose keys are told.
const KEYS_MAX: usize = 10_000;
/// Failure records in one page.
const PAGE: u32 = 500;

/// What a confirmed message survives, in words.
pub(super) const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "memory only",
        Durability::Os => "survives the death of the process",
        Durability::Interval => "synced at intervals",
        Durability::Replicated => "replicated before ack",
        Durability::Flushed => "fsync before ack",
        Durability::ReplicatedFlushed => "replicated and synced before ack",
    }
}

/// Reports until it is dropped.
pub(super) async fn report(services: Arc<Services>, sent: watch::Receiver<bool>) {
    loop {
        let begin = Instant::now();
        let intake_done = *sent.borrow();
        match look(&services, intake_done).await {
            Ok(progress) => say(&Report::Progress(Box::new(progress))),
            Err(error) => tracing::warn!(error, "a report is left out"),
        }
        tokio::time::sleep((begin.elapsed() * 20).clamp(EVERY, EVERY_MAX)).await;
    }
}

async fn look(services: &Services, intake_done: bool) -> Result<Progress, String> {
    let counts = services.shop.chaos.counts();
    let handled = counts.handled.load(Ordering::Relaxed);
    let mut progress = Progress {
        intake_done,
        handled,
        retries: counts.retries.load(Ordering::Relaxed),
        redriven: counts.redriven.load(Ordering::Relaxed),
        duplicates: counts.duplicates.load(Ordering::Relaxed),
        counts_all: services.bus.info().capabilities.is_native(Capability::Lag),
        ..Progress::default()
    };
    // ORDER: what waits is looked at before what has ended, so that an end is never seen without what it caused having been counted.
    waiting(services, &mut progress).await?;
    orders(services, &mut progress).await?;
    failures(services, &mut progress).await?;
    Ok(progress)
}

async fn orders(services: &Services, progress: &mut Progress) -> Result<(), String> {
    let Some(store) = services.stores.first() else {
        return Ok(());
    };
    let counts = store.read(|db| {
        let mut statement =
            db.prepare_cached("SELECT state, COUNT(*), SUM(cents) FROM orders GROUP BY state")?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
            ))
        })?;
        rows.collect::<Result<Vec<_>, _>>()
    });
    for (state, count, cents) in counts.await.map_err(|e| e.to_string())? {
        let count = count.unsigned_abs();
        progress.placed += count;
        match state.as_str() {
            "shipped" => {
                progress.shipped = count;
                progress.cents_shipped = cents.unsigned_abs();
            }
            "refunded" => progress.refunded = count,
            "cancelled" => progress.cancelled = count,
            _ => {}
        }
    }
    Ok(())
}

async fn waiting(services: &Services, progress: &mut Progress) -> Result<(), String> {
    let mut note = |what: String, count: u64| {
        if count > 0 {
            progress.waiting += count;
            progress.waiting_at.push((what, count));
        }
    };
    for store in &services.stores {
        if let Some(outbox) = store.outbox() {
            let depth = outbox.depth().await.map_err(|e| e.to_string())?;
            note(format!("the outbox of {}", store.info().location), depth);
        }
    }
    let Some(admin) = services.bus.engine().admin() else {
        return Ok(());
    };
    for subscription in &services.subscriptions {
        let depth = admin.depth(subscription).await.map_err(|e| e.to_string())?;
        note(subscription.to_string(), depth.depth);
    }
    Ok(())
}

async fn failures(services: &Services, progress: &mut Progress) -> Result<(), String> {
    let failures = services.bus.failures();
    let groups = failures.groups(None).await.map_err(|e| e.to_string())?;
    for group in &groups {
        progress.failures += group.count;
        progress.failure_groups.push((
            group.subscription.to_string(),
            group.group.clone(),
            group.count,
        ));
    }
    // Keys matter only for the question whether an order that has not ended is lost.
    let is_settled = progress.waiting == 0 && progress.intake_done;
    if !is_settled || progress.ended() == progress.placed || groups.is_empty() {
        return Ok(());
    }
    let mut subscriptions: Vec<_> = groups.iter().map(|g| &g.subscription).collect();
    subscriptions.sort();
    subscriptions.dedup();
    for subscription in subscriptions {
        let mut after = None;
        loop {
            let page = failures
                .list(subscription, None, after, PAGE)
                .await
                .map_err(|e| e.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let keys = page.iter().filter_map(|r| r.draft.key.as_deref());
            progress
                .set_aside
                .extend(keys.map(|k| String::from_utf8_lossy(k).into_owned()));
            if progress.set_aside.len() >= KEYS_MAX {
                return Ok(());
            }
        }
    }
    Ok(())
}
