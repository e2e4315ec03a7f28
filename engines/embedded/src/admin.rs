//! Depth and position, for people.

use std::sync::Arc;

use postrider_core::Fut;
use postrider_core::engine::{Admin, DestinationDepth, SubscriptionDepth};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::{DestinationKind, Name, SubscriptionId};
use postrider_log as log;

use crate::error::fault;
use crate::names;
use crate::shared::Shared;

#[derive(Debug)]
pub(crate) struct EmbeddedAdmin {
    shared: Arc<Shared>,
}

impl EmbeddedAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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
                let text =
                    format!("there is no subscription {subscription}: list the destinations first");
                return Err(Fault::new(FaultKind::NotFound, Advice::FixConfig, text));
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
}
