//! What topics, queues, inboxes and subscriptions are called in the log.

use postrider_core::name::{Destination, DestinationKind, Name, SubscriptionId};
use postrider_log::{Kind, Log, StreamConfig, StreamId, StreamInfo, SubId};

use crate::shared::Shared;

/// What stands before the name of a stream that only holds failures of a subscription whose messages live in another engine.
const ELSEWHERE: &str = "elsewhere:";
/// What stands before the name of every inbox.
pub(crate) const INBOX: &str = "inbox:";

/// The stream of a destination.
pub(crate) fn stream(destination: &Destination) -> String {
    let (kind, name) = (destination.kind.as_str(), destination.name.as_str());
    let mut text = String::with_capacity(kind.len() + 1 + name.len());
    text.push_str(kind);
    text.push(':');
    text.push_str(name);
    text
}

/// The stream that is a home for failures of a subscription that is not in this log.
pub(crate) fn elsewhere(subscription: &SubscriptionId) -> String {
    format!("{ELSEWHERE}{}", subscription.on)
}

/// The destination of a stream; `None` for one that is not a destination.
pub(crate) fn destination(stream: &str) -> Option<Destination> {
    Destination::parse(stream).ok()
}

/// The destination of a stream, be it here or elsewhere.
pub(crate) fn any_destination(stream: &str) -> Option<Destination> {
    destination(stream.strip_prefix(ELSEWHERE).unwrap_or(stream))
}

/// The subscription in this log.
pub(crate) fn find(log: &Log, subscription: &SubscriptionId) -> Option<SubId> {
    let stream = log.find_stream(&stream(&subscription.on))?;
    log.find_subscription(stream, subscription.service.as_str())
}

/// The subscription, or the home of its failures.
pub(crate) fn find_home(log: &Log, subscription: &SubscriptionId) -> Option<SubId> {
    find(log, subscription).or_else(|| {
        let stream = log.find_stream(&elsewhere(subscription))?;
        log.find_subscription(stream, subscription.service.as_str())
    })
}

/// Where a message goes and how many subscriptions get it. A topic is created by its first message. `None`: nobody would get it.
pub(crate) fn route(
    log: &mut Log,
    shared: &Shared,
    destination: &Destination,
) -> Result<Option<(StreamId, u32)>, postrider_log::Error> {
    let name = stream(destination);
    let id = match (log.find_stream(&name), destination.kind) {
        (Some(id), _) => id,
        (None, DestinationKind::Topic) => log.create_stream(&name, shared.kept(Kind::Topic))?.0,
        (None, _) => return Ok(None),
    };
    let subscriptions = u32::try_from(log.subscriptions(id)?.len()).unwrap_or(u32::MAX);
    let deaf = subscriptions == 0 && destination.kind != DestinationKind::Topic;
    Ok((!deaf).then_some((id, subscriptions)))
}

/// A topic or queue of this engine: neither an inbox nor a home for the failures of another engine.
pub(crate) fn is_kept(stream: &str) -> bool {
    !stream.starts_with(INBOX) && !stream.starts_with(ELSEWHERE)
}

/// All streams, as they are now.
pub(crate) fn streams(log: &Log) -> Result<Vec<StreamInfo>, postrider_log::Error> {
    log.streams()
        .into_iter()
        .map(|id| log.stream_info(id))
        .collect()
}

/// All subscriptions that have or could have failures: of this log, and of other engines with a home here.
pub(crate) fn subscriptions(log: &Log) -> Result<Vec<SubscriptionId>, postrider_log::Error> {
    let mut all = Vec::new();
    for stream in streams(log)? {
        let Some(on) = any_destination(&stream.name) else {
            continue;
        };
        for sub in stream.subscriptions {
            let service = Name::new(log.subscription_info(sub)?.name);
            all.extend(service.ok().map(|service| SubscriptionId {
                service,
                on: on.clone(),
            }));
        }
    }
    all.retain(|id| id.on.kind != DestinationKind::Inbox);
    all.sort();
    Ok(all)
}

impl Shared {
    /// What a stream of this kind is created with where nothing else is said.
    pub(crate) fn config(&self, kind: Kind) -> StreamConfig {
        let dedupe = postrider_log::DedupeWindow {
            window: self.settings.dedupe_window,
            ..postrider_log::DedupeWindow::default()
        };
        StreamConfig {
            kind,
            level: self.settings.level,
            dedupe,
            ..StreamConfig::default()
        }
    }

    /// As [`config`](Self::config), of a topic or queue: with what is kept beyond need.
    pub(crate) fn kept(&self, kind: Kind) -> StreamConfig {
        StreamConfig {
            retention: self.settings.retention.unwrap_or_default(),
            ..self.config(kind)
        }
    }
}
