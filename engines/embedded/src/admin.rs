//! Depth, position and messages, for people; moving a subscription; and the backup.

mod look;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use postrider_core::Fut;
use postrider_core::browse::{Browse, Browsed, Found, Kept, Search, SeekHow, Sought};
use postrider_core::code::Code;
use postrider_core::engine::{Admin, BackupReport, DestinationDepth, SubscriptionDepth};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind, Name, SubscriptionId};
use postrider_core::source::{Position, SeekTo};
use postrider_log::disk::FileDisk;
use postrider_log::{self as log, Level, tools};

use crate::error::fault;
use crate::failures;
use crate::names;
use crate::shared::Shared;

#[derive(Debug)]
pub(crate) struct EmbeddedAdmin {
    shared: Arc<Shared>,
    directory: Option<PathBuf>,
}

impl EmbeddedAdmin {
    pub(crate) fn new(shared: Arc<Shared>, directory: Option<PathBuf>) -> Self {
        Self { shared, directory }
    }

    fn all(&self) -> Result<Vec<DestinationDepth>, Fault> {
        let all = self.shared.stage(|log, _| -> Result<_, log::Error> {
            let mut all = Vec::new();
            for stream in names::streams(log)? {
                let Some(destination) = names::destination(&stream.name) else {
                    continue;
                };
                if destination.kind == DestinationKind::Inbox {
                    continue;
                }
                let mut subscriptions = Vec::new();
                for sub in stream.subscriptions {
                    let service = Name::new(log.subscription_info(sub)?.name);
                    subscriptions.extend(service.ok().map(|service| SubscriptionId {
                        service,
                        on: destination.clone(),
                    }));
                }
                all.push(DestinationDepth {
                    destination,
                    messages: stream.records,
                    next_position: stream.next,
                    subscriptions,
                });
            }
            all.sort_by(|a, b| a.destination.cmp(&b.destination));
            Ok(all)
        });
        all.map_err(|ended| ended.fault())?
            .map_err(|error| fault(&error))
    }

    fn depth_of(&self, subscription: &SubscriptionId) -> Result<SubscriptionDepth, Fault> {
        let depth = self.shared.stage(|log, now| {
            let Some(sub) = names::find(log, subscription) else {
                return Err(unknown(subscription));
            };
            let info = log.subscription_info(sub).map_err(|error| fault(&error))?;
            Ok(SubscriptionDepth {
                depth: info.depth,
                in_flight: info.in_flight as u64,
                delayed: info.delayed as u64,
                oldest_age_ms: info
                    .oldest_ms
                    .map(|oldest| now.wall_ms.saturating_sub(oldest)),
            })
        });
        depth.map_err(|ended| ended.fault())?
    }

    async fn copy(&self, target: &Path) -> Result<BackupReport, Fault> {
        let target = std::path::absolute(target).map_err(|error| config(target, &error))?;
        let own = self.directory.as_deref().map(std::path::absolute);
        if let Some(Ok(own)) = own
            && target.starts_with(&own)
        {
            return Err(config(
                &target,
                "it lies in the engine's own directory: name another",
            ));
        }
        let last = self.shared.stage(|log, _| log.last());
        let last = last.map_err(|ended| ended.fault())?;
        // DURABILITY: what is confirmed at a weaker level than a sync is in the copy too.
        let durable = self.shared.safe(last, Level::Fsync).await;
        durable.map_err(|ended| ended.fault())?;
        let job = self.shared.stage(|log, _| log.backup());
        let job = job.map_err(|ended| ended.fault())?;
        let job = job.map_err(|error| fault(&error))?;
        // CANCEL: a copy that was begun is made to its end; nothing waits for it.
        let copied = tokio::task::spawn_blocking(move || {
            let disk = Arc::new(FileDisk::new(&target));
            let copied = job.run(&*disk, &mut |_| {})?;
            let verified = tools::verify_disk(disk)?;
            let damage = verified.damage.first().map(|damage| damage.what.clone());
            match verified.refused.or(damage) {
                None => Ok((copied, verified.live)),
                Some(reason) => Err(log::Error::Refused {
                    reason: format!(
                        "the copy cannot be read back ({reason}): remove it, try again"
                    ),
                }),
            }
        });
        let copied = copied.await.map_err(|error| config(&"the copy", &error))?;
        let (copied, live) = copied.map_err(|error| fault(&error))?;
        Ok(BackupReport {
            last: copied.last.0,
            segments: copied.segments,
            bytes: copied.bytes,
            live,
        })
    }
}

fn config(target: &(impl std::fmt::Debug + ?Sized), why: impl std::fmt::Display) -> Fault {
    let text = format!("no backup was made in {target:?}: {why}");
    Fault::new(FaultKind::Config, Advice::FixConfig, text)
}

/// What a seek came to: what it does, and the frame that has it done.
type SeekDone = (Sought, Option<log::Lsn>);

impl EmbeddedAdmin {
    fn seek_now(
        &self,
        subscription: &SubscriptionId,
        to: SeekTo,
        how: &SeekHow,
    ) -> Result<SeekDone, Fault> {
        self.with(|log, now| {
            let said = |error: log::Error| fault(&error);
            let sub = names::find(log, subscription).ok_or_else(|| unknown(subscription))?;
            let stream = log.subscription_info(sub).map_err(said)?.stream;
            let first = log.first_offset(stream).map_err(said)?;
            let start = match to {
                SeekTo::Earliest => log::Start::Earliest,
                SeekTo::Latest => log::Start::Latest,
                SeekTo::Position(Position(at)) if at < first => {
                    return Err(look::trimmed(&subscription.on, at, first));
                }
                SeekTo::Position(Position(at)) => log::Start::At(at),
                SeekTo::Time(at) => {
                    log::Start::At(log.offset_at(stream, at.millis()).map_err(said)?)
                }
            };
            let count = log.seek_count(sub, start).map_err(said)?;
            let sought = Sought {
                to: count.to,
                first: count.first,
                end: count.next,
                skipped: count.skipped,
                again: count.again,
            };
            let SeekHow::Do(reason) = how else {
                return Ok((sought, None));
            };
            if count.in_flight > 0 {
                return Err(held(subscription, count.in_flight));
            }
            let reason = failures::seek_reason(reason, &sought);
            let lsn = log
                .seek_because(sub, count.to, &reason, now)
                .map_err(said)?;
            Ok((sought, Some(lsn)))
        })
    }
}

fn unknown(subscription: &SubscriptionId) -> Fault {
    let text = format!("there is no subscription {subscription}: list the destinations first");
    Fault::new(FaultKind::NotFound, Advice::FixConfig, text).code(Code::ADMIN_NOT_FOUND)
}

/// Whoever holds messages would handle them beside those that come after the move.
fn held(subscription: &SubscriptionId, messages: usize) -> Fault {
    let text = format!(
        "members hold {messages} messages of {subscription}, so it was not moved: pause it, and try again when its handlers have ended"
    );
    Fault::new(FaultKind::Conflict, Advice::FixMessage, text).code(Code::CLI_CONFLICT)
}

impl Admin for EmbeddedAdmin {
    fn destinations(&self) -> Fut<'_, Result<Vec<DestinationDepth>, Fault>> {
        Box::pin(std::future::ready(self.all()))
    }

    fn depth<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
    ) -> Fut<'a, Result<SubscriptionDepth, Fault>> {
        Box::pin(std::future::ready(self.depth_of(subscription)))
    }

    fn backup<'a>(&'a self, target: &'a Path) -> Fut<'a, Result<BackupReport, Fault>> {
        Box::pin(self.copy(target))
    }

    fn browse(&self, ask: Browse) -> Fut<'_, Result<Browsed, Fault>> {
        Box::pin(self.page(ask))
    }

    fn message<'a>(
        &'a self,
        destination: &'a Destination,
        position: u64,
    ) -> Fut<'a, Result<Kept, Fault>> {
        Box::pin(std::future::ready(self.one(destination, position)))
    }

    fn find(&self, search: Search) -> Fut<'_, Result<Found, Fault>> {
        Box::pin(self.search(search))
    }

    fn seek<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
        to: SeekTo,
        how: SeekHow,
    ) -> Fut<'a, Result<Sought, Fault>> {
        Box::pin(async move {
            let (sought, lsn) = self.seek_now(subscription, to, &how)?;
            if let Some(lsn) = lsn {
                let safe = self.shared.safe(lsn, log::Level::Fsync).await;
                safe.map_err(|ended| ended.fault().unknown_effect())?;
            }
            Ok(sought)
        })
    }
}
