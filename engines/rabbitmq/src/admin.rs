//! Depth: what is ready on the server, and what this process holds. A client is not told what others hold: only the management API knows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::engine::{Admin, DestinationDepth, SubscriptionDepth};
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::SubscriptionId;

use crate::link::Link;
use crate::names::Names;
use crate::source::Held;
use crate::topology::Desk;

/// The sources that are open in this process, by subscription.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    open: Mutex<HashMap<SubscriptionId, Vec<Weak<dyn Held>>>>,
}

impl Sources {
    pub(crate) fn opened(&self, id: &SubscriptionId, source: Weak<dyn Held>) {
        let mut open = self.open.lock();
        open.retain(|_, all| {
            all.retain(|source| source.strong_count() > 0);
            !all.is_empty()
        });
        open.entry(id.clone()).or_default().push(source);
    }

    fn held(&self, id: &SubscriptionId) -> u64 {
        let open = self.open.lock();
        let all = open.get(id).into_iter().flatten();
        all.filter_map(Weak::upgrade).map(|s| s.held()).sum()
    }

    fn subscriptions(&self) -> Vec<SubscriptionId> {
        self.open.lock().keys().cloned().collect()
    }
}

/// Looks at the queues of the server by passive declarations, which change nothing.
pub(crate) struct RabbitAdmin {
    link: Arc<Link>,
    names: Arc<Names>,
    sources: Arc<Sources>,
}

impl RabbitAdmin {
    pub(crate) fn new(link: &Arc<Link>, names: &Arc<Names>, sources: &Arc<Sources>) -> Self {
        Self {
            link: Arc::clone(link),
            names: Arc::clone(names),
            sources: Arc::clone(sources),
        }
    }

    async fn depth_of(&self, id: &SubscriptionId) -> Result<SubscriptionDepth, Fault> {
        let mut desk = Desk::new(&self.link);
        // ORDER: what is held is counted before what is ready: what goes back or is handed over meanwhile is counted twice rather than not at all.
        let before = self.sources.held(id);
        let mut ready = 0;
        let mut found = false;
        for ordered in [true, false] {
            for queue in self.names.queues(id, ordered)? {
                // All queues of a subscription or none, but for one whose creation was interrupted.
                let Some(messages) = desk.ready(queue).await? else {
                    break;
                };
                found = true;
                ready += messages;
            }
            if found {
                break;
            }
        }
        if !found {
            let text =
                format!("there is no queue for {id} on the server: provision the subscription");
            return Err(Fault::new(FaultKind::NotFound, Advice::FixConfig, text));
        }
        let in_flight = before.max(self.sources.held(id));
        Ok(SubscriptionDepth {
            depth: ready + in_flight,
            in_flight,
            ..SubscriptionDepth::default()
        })
    }

    /// A server does not list its queues to a client, so these are the destinations that this process reads.
    async fn all(&self) -> Result<Vec<DestinationDepth>, Fault> {
        let mut all: Vec<DestinationDepth> = Vec::new();
        for id in self.sources.subscriptions() {
            let messages = self.depth_of(&id).await?.depth;
            match all.iter_mut().find(|d| d.destination == id.on) {
                Some(known) => {
                    known.messages = known.messages.max(messages);
                    known.subscriptions.push(id);
                }
                None => all.push(DestinationDepth {
                    destination: id.on.clone(),
                    messages,
                    // Queues do not number what they hold.
                    next_position: 0,
                    subscriptions: vec![id],
                }),
            }
        }
        all.sort_by(|a, b| a.destination.cmp(&b.destination));
        Ok(all)
    }
}

impl Admin for RabbitAdmin {
    fn destinations(&self) -> Fut<'_, Result<Vec<DestinationDepth>, Fault>> {
        Box::pin(self.all())
    }

    fn depth<'a>(
        &'a self,
        subscription: &'a SubscriptionId,
    ) -> Fut<'a, Result<SubscriptionDepth, Fault>> {
        Box::pin(self.depth_of(subscription))
    }
}
