//! The task that publishes.
//!
//! Many messages are on their way at once, but of one destination and key only one: the next is sent when it is confirmed, so that one that fails
//! stops those behind it, and what is stored is always in order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation, ErrorKind};
use postrider_core::Fut;
use postrider_core::capability::{Capability, Durability};
use postrider_core::code::Code;
use postrider_core::engine::Receipt;
use postrider_core::envelope::Outgoing;
use postrider_core::fault::{Advice, Effect, Fault, FaultKind};
use postrider_core::name::{Destination, DestinationKind, SubscriptionId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Job, unsupported};
use crate::error::{closed, fault};
use crate::headers::{self, Encoded};
use crate::link::{Link, backoff};
use crate::names::Names;
use crate::topology::Desk;

/// Messages on their way at once. Each confirmation of several looks through all of them.
const WINDOW: usize = 1024;
/// Messages taken in and not answered; further calls wait.
const BACKLOG: usize = 8192;
/// How long messages wait for a connection that is gone before they are answered.
const OUTAGE_MAX: Duration = Duration::from_secs(5);

/// Destination and key, or the key's shard: what is stored in order.
type Lane = (Destination, Bytes);

/// A message to send.
struct Item {
    call: u64,
    index: usize,
    lane: Option<Lane>,
    destination: Destination,
    exchange: ShortString,
    routing_key: ShortString,
    encoded: Encoded,
}

/// Whose confirmation it is.
struct Sent {
    call: u64,
    index: usize,
    lane: Option<Lane>,
    kind: DestinationKind,
    channel: u64,
}

struct Call {
    results: Vec<Option<Result<Receipt, Fault>>>,
    left: usize,
    /// Lanes of which a message failed: later ones of this call fail too.
    failed: HashSet<Lane>,
    done: oneshot::Sender<Vec<Result<Receipt, Fault>>>,
}

pub(super) struct Pump {
    link: Arc<Link>,
    names: Arc<Names>,
    bytes_max: usize,
    channel: Option<Channel>,
    /// Counts channels, so that the end of one is not taken for the end of the next.
    channels: u64,
    /// Destinations that were looked at on this channel and are there.
    known: HashSet<Destination>,
    calls: HashMap<u64, Call>,
    calls_ever: u64,
    backlog: usize,
    ready: VecDeque<Item>,
    /// Lanes with a message on its way, and what waits behind it.
    lanes: HashMap<Lane, VecDeque<Item>>,
    on_the_way: FuturesUnordered<Fut<'static, (Sent, lapin::Result<Confirmation>)>>,
}

enum Wake {
    Confirmed(Box<(Sent, lapin::Result<Confirmation>)>),
    Job(Option<Job>),
    Send,
    Stop,
}

impl Pump {
    pub(super) fn new(link: Arc<Link>, names: Arc<Names>, bytes_max: usize) -> Self {
        Self {
            link,
            names,
            bytes_max,
            channel: None,
            channels: 0,
            known: HashSet::new(),
            calls: HashMap::new(),
            calls_ever: 0,
            backlog: 0,
            ready: VecDeque::new(),
            lanes: HashMap::new(),
            on_the_way: FuturesUnordered::new(),
        }
    }

    pub(super) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (mut open, mut stopping) = (true, false);
        while open || self.backlog > 0 {
            let sends = !self.ready.is_empty() && self.on_the_way.len() < WINDOW;
            let wake = tokio::select! {
                biased;
                Some(confirmed) = self.on_the_way.next() => Wake::Confirmed(Box::new(confirmed)),
                // An error: the engine is gone, as when it says so.
                _ = stop.wait_for(|stop| *stop), if !stopping => Wake::Stop,
                job = jobs.recv(), if open && self.backlog < BACKLOG => Wake::Job(job),
                () = std::future::ready(()), if sends => Wake::Send,
            };
            match wake {
                Wake::Confirmed(confirmed) => {
                    let (sent, result) = *confirmed;
                    self.confirmed(sent, result);
                }
                Wake::Job(Some(job)) => self.admit(job),
                Wake::Job(None) => open = false,
                Wake::Send => self.send_next().await,
                Wake::Stop => {
                    // What was accepted is still sent and answered.
                    stopping = true;
                    jobs.close();
                }
            }
        }
        if let Some(channel) = self.channel {
            // Nothing is on its way; the server forgets it with the connection otherwise.
            let _ = channel.close(200, "done".into()).await;
        }
    }

    /// Takes a call in: checks and encodes its messages.
    fn admit(&mut self, job: Job) {
        let Job { messages, done } = job;
        self.calls_ever += 1;
        let call = self.calls_ever;
        let mut results = Vec::new();
        results.resize_with(messages.len(), || None);
        self.backlog += messages.len();
        self.calls.insert(
            call,
            Call {
                left: results.len(),
                results,
                failed: HashSet::new(),
                done,
            },
        );
        for (index, message) in messages.into_iter().enumerate() {
            let key = message.envelope.key.as_ref();
            let lane = key.map(|key| (message.destination.clone(), key.as_bytes().clone()));
            match self.item(call, index, lane.clone(), &message) {
                Ok(item) => self.line_up(item),
                Err(fault) => self.answer(call, index, lane.as_ref(), Err(fault)),
            }
        }
    }

    fn item(
        &self,
        call: u64,
        index: usize,
        lane: Option<Lane>,
        message: &Outgoing,
    ) -> Result<Item, Fault> {
        let envelope = &message.envelope;
        if envelope.deliver_at.is_some_and(|at| at > envelope.time) {
            let text =
                "RabbitMQ keeps no message back until a later time: use an engine that delays";
            return Err(unsupported(Capability::DelayedDelivery, text));
        }
        if message.destination.kind == DestinationKind::Inbox {
            let text = format!("{} is not on this engine", message.destination);
            let fault = Fault::new(FaultKind::NoRoute, Advice::FixConfig, text);
            return Err(fault.code(Code::PUBLISH_NO_ROUTE));
        }
        let encoded = headers::write(message, self.bytes_max)?;
        let shard = match &envelope.key {
            Some(key) => self.names.shard_of(key.as_bytes()),
            None => self.names.shard_of(envelope.id.as_bytes()),
        };
        Ok(Item {
            call,
            index,
            lane,
            exchange: self.names.exchange(&message.destination)?,
            destination: message.destination.clone(),
            routing_key: Names::routing_key(shard, &envelope.message_type),
            encoded,
        })
    }

    /// ORDER: behind the message of its lane that is on its way.
    fn line_up(&mut self, item: Item) {
        match &item.lane {
            None => self.ready.push_back(item),
            Some(lane) => match self.lanes.get_mut(lane) {
                Some(waiting) => waiting.push_back(item),
                None => {
                    self.lanes.insert(lane.clone(), VecDeque::new());
                    self.ready.push_back(item);
                }
            },
        }
    }

    /// The lane's message is answered: the next one goes, if it may.
    fn lane_over(&mut self, lane: Lane) {
        loop {
            let Some(waiting) = self.lanes.get_mut(&lane) else {
                return;
            };
            let Some(next) = waiting.pop_front() else {
                self.lanes.remove(&lane);
                return;
            };
            let call = self.calls.get(&next.call);
            if call.is_some_and(|call| call.failed.contains(&lane)) {
                self.answer(
                    next.call,
                    next.index,
                    Some(&lane),
                    Err(Fault::behind_failed(true)),
                );
                continue;
            }
            self.ready.push_back(next);
            return;
        }
    }

    fn answer(
        &mut self,
        call: u64,
        index: usize,
        lane: Option<&Lane>,
        result: Result<Receipt, Fault>,
    ) {
        self.backlog -= 1;
        let entry = self
            .calls
            .get_mut(&call)
            .expect("a call stays until its last message is answered");
        if let (Err(_), Some(lane)) = (&result, lane) {
            entry.failed.insert(lane.clone());
        }
        entry.results[index] = Some(result);
        entry.left -= 1;
        if entry.left == 0 {
            let Some(call) = self.calls.remove(&call) else {
                return;
            };
            let every = |result: Option<_>| result.expect("each message was answered once");
            // Who published may have gone away meanwhile.
            let _ = call
                .done
                .send(call.results.into_iter().map(every).collect());
        }
    }

    fn refuse(&mut self, item: Item, fault: Fault) {
        self.answer(item.call, item.index, item.lane.as_ref(), Err(fault));
        if let Some(lane) = item.lane {
            self.lane_over(lane);
        }
    }

    /// Sends the first message that is ready.
    async fn send_next(&mut self) {
        let channel = match self.channel().await {
            Ok(channel) => channel,
            Err(fault) => return self.refuse_ready(&fault),
        };
        let Some(item) = self.ready.pop_front() else {
            return;
        };
        if !self.known.contains(&item.destination) {
            match self.look(&item.destination).await {
                Ok(()) => drop(self.known.insert(item.destination.clone())),
                Err(fault) => return self.refuse(item, fault),
            }
        }
        let Encoded { properties, body } = &item.encoded;
        let publishing = channel.basic_publish(
            item.exchange.clone(),
            item.routing_key.clone(),
            BasicPublishOptions::default(),
            body,
            properties.clone(),
        );
        match publishing.await {
            Ok(confirm) => {
                let sent = Sent {
                    call: item.call,
                    index: item.index,
                    lane: item.lane,
                    kind: item.destination.kind,
                    channel: self.channels,
                };
                self.on_the_way
                    .push(Box::pin(async move { (sent, confirm.await) }));
            }
            Err(error) => {
                self.channel = None;
                let not_sent = matches!(
                    error.kind(),
                    ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_)
                );
                if not_sent {
                    self.ready.push_front(item);
                } else {
                    self.refuse(item, fault("publishing", &error).unknown_effect());
                }
            }
        }
    }

    /// The channel in confirm mode; where it is gone, another one, for which is waited a while.
    async fn channel(&mut self) -> Result<Channel, Fault> {
        if let Some(channel) = self.channel.as_ref().filter(|c| c.status().connected()) {
            return Ok(channel.clone());
        }
        self.channel = None;
        self.known.clear();
        let give_up = Instant::now() + OUTAGE_MAX;
        let mut tries = 0;
        loop {
            match self.open().await {
                Ok(channel) => {
                    self.channels += 1;
                    self.channel = Some(channel.clone());
                    return Ok(channel);
                }
                Err(fault) if !fault.is_retriable() || Instant::now() >= give_up => {
                    return Err(fault);
                }
                Err(fault) => {
                    tries += 1;
                    let wait = backoff(tries);
                    tracing::debug!(target: "postrider", %fault, ?wait, "publishing waits for a connection");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<Channel, Fault> {
        let channel = self.link.channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .map_err(|error| fault("asking for confirmations", &error))?;
        Ok(channel)
    }

    /// Before the first message: an exchange that is not there would close the channel, and a command without an owner has nowhere to go.
    async fn look(&mut self, destination: &Destination) -> Result<(), Fault> {
        let mut desk = Desk::new(&self.link);
        if !desk.exchange_exists(&self.names, destination).await? {
            let text = format!("there is no {destination}: provision it first");
            let fault = Fault::new(FaultKind::NotFound, Advice::FixConfig, text);
            return Err(fault.code(Code::TOPOLOGY_DIFFERS));
        }
        if destination.kind == DestinationKind::Queue {
            // Its queues do not name their owner: any service stands for it.
            let owner = SubscriptionId {
                service: destination.name.clone(),
                on: destination.clone(),
            };
            let sharded = desk.queue_exists(self.names.shard(&owner, 0)?).await?;
            if !sharded && !desk.queue_exists(self.names.unsharded(&owner)?).await? {
                return Err(no_route(destination));
            }
        }
        Ok(())
    }

    /// There is no connection: what waits is answered, and nothing of it was sent.
    fn refuse_ready(&mut self, fault: &Fault) {
        // Also what waits behind these, which each refusal brings forward: it waited for the same connection.
        while let Some(item) = self.ready.pop_front() {
            let mut again = Fault::new(fault.kind, fault.advice, fault.message.clone());
            again.code = fault.code;
            self.refuse(item, again);
        }
    }

    fn confirmed(&mut self, sent: Sent, result: lapin::Result<Confirmation>) {
        let result = match result {
            Ok(Confirmation::Ack(_)) => Ok(Receipt {
                durability: Durability::Flushed,
                position: None,
                duplicate: false,
                subscriptions: (sent.kind == DestinationKind::Queue).then_some(1),
            }),
            Ok(Confirmation::Nack(_)) => Err(nack()),
            Ok(Confirmation::NotRequested) => Err(closed().unknown_effect()),
            Err(error) => {
                if sent.channel == self.channels {
                    self.channel = None;
                }
                Err(fault("waiting for a confirmation", &error).unknown_effect())
            }
        };
        self.answer(sent.call, sent.index, sent.lane.as_ref(), result);
        if let Some(lane) = sent.lane {
            self.lane_over(lane);
        }
    }
}

/// One of several queues may have taken it.
fn nack() -> Fault {
    let text = "the server did not take the message: one of its queues has no majority, or is being deleted";
    let after = Duration::from_millis(500);
    let mut fault = Fault::new(FaultKind::Unreachable, Advice::Retry { after }, text);
    fault.effect = Effect::Unknown;
    fault.code(Code::ENGINE_FAILED)
}

fn no_route(destination: &Destination) -> Fault {
    let text = format!(
        "nobody owns {destination}: start the service that handles it once, so that its subscription exists"
    );
    Fault::new(FaultKind::NoRoute, Advice::FixConfig, text).code(Code::PUBLISH_NO_ROUTE)
}
