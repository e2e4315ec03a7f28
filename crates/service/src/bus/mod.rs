//! The bus: publish, send, request, schedule. One per process is enough; clones share it.

mod options;
mod outlet;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_core::clock::Timestamp;
use postrider_core::code::Code;
use postrider_core::engine::{Cancel, Engine, EngineInfo, Receipt, Scheduled};
use postrider_core::envelope::{Envelope, Outgoing};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::message::{Command, Event, Key, Message};
use postrider_core::name::DestinationKind;
use postrider_core::text::Text;

pub use options::BusOptions;

use crate::effect::{Draft, Effects, IntoEffects, Publish, Send, To, destination, follow};
use crate::error::{Error, Result};
use crate::failures::Failures;
use crate::request::Requests;
use crate::runtime::Runtime;
use outlet::Outlet;
use window::Window;

/// A connection to an engine, shared by its clones.
///
/// Everything published through one bus goes out in the order in which it was given, per key. At most
/// [`BusOptions::window_messages_max`] messages and [`BusOptions::window_bytes_max`] bytes await confirmation at a time: `publish` waits for
/// room, `try_publish` says `Overloaded`.
///
/// Cancel safety: a dropped `publish` may or may not have happened. Publishing is at least once by itself; inside a handler, return the message
/// instead, so that it is part of the commit.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
    source: Text,
    within: Option<Arc<Envelope>>,
}

struct Inner {
    runtime: Arc<Runtime>,
    window: Window,
    requests: Requests,
    options: BusOptions,
    services: AtomicUsize,
    #[cfg(all(feature = "admin", unix))]
    admin: parking_lot::Mutex<Option<crate::admin::AdminServer>>,
}

/// A service that runs on a bus.
pub(crate) struct ServiceCount(Arc<Inner>);

impl Drop for ServiceCount {
    fn drop(&mut self) {
        self.0.services.fetch_sub(1, Ordering::SeqCst);
    }
}

/// When a scheduled message may be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Not before this wall time.
    At(Timestamp),
    /// Not before this has passed.
    After(Duration),
}

impl From<Timestamp> for When {
    fn from(at: Timestamp) -> Self {
        Self::At(at)
    }
}

impl From<Duration> for When {
    fn from(after: Duration) -> Self {
        Self::After(after)
    }
}

impl Bus {
    /// A bus on an engine that is open. Most programs use `Bus::connect(url)` of the `postrider` crate instead.
    ///
    /// # Errors
    /// The engine gives no publisher.
    pub async fn from_engine(engine: Arc<dyn Engine>, options: BusOptions) -> Result<Self> {
        let inner = engine.publisher().await?;
        let publisher = Arc::new(Outlet::new(inner, engine.clone(), options.provision));
        let runtime = Arc::new(Runtime::new(
            engine,
            publisher,
            options.clock.clone(),
            options.entropy.clone(),
            options.recorder.clone(),
        ));
        Ok(Self {
            source: options.source.clone(),
            within: None,
            inner: Arc::new(Inner {
                window: Window::new(options.window_messages_max, options.window_bytes_max),
                requests: Requests::new(&options.recorder),
                runtime,
                options,
                services: AtomicUsize::new(0),
                #[cfg(all(feature = "admin", unix))]
                admin: parking_lot::Mutex::default(),
            }),
        })
    }

    /// Publishes an event to its topic and waits for the confirmation: at return it survives what the receipt's durability says. Waits for
    /// room in the window first. An event that nobody subscribes to is stored for nobody: the receipt says so, and so does a
    /// warning, once per topic.
    ///
    /// # Errors
    /// `PR-12xx`; [`Error::effect`] says whether it may have been stored.
    pub async fn publish<P: IntoPublish>(&self, event: P) -> Result<Receipt> {
        let draft = event.into_publish().into_draft()?;
        let _room = self.inner.window.wait(1, draft.size()).await;
        self.put_one(self.seal(draft)?).await
    }

    /// As [`Bus::publish`], but where the window is full it fails at once.
    ///
    /// # Errors
    /// `PUBLISH_OVERLOADED` (`PR-1203`): nothing was published.
    pub async fn try_publish<P: IntoPublish>(&self, event: P) -> Result<Receipt> {
        let draft = event.into_publish().into_draft()?;
        let _room = self.inner.window.take(draft.size())?;
        self.put_one(self.seal(draft)?).await
    }

    /// Publishes events in their order, in calls of the engine of up to 512. Result `i` belongs to event `i`; where one fails, later ones of the
    /// same key fail too, whichever call they are in, and are not published.
    pub async fn publish_all<P: IntoPublish>(
        &self,
        events: impl IntoIterator<Item = P>,
    ) -> Vec<Result<Receipt>> {
        let (batch, mut results) = self.seal_all(events);
        // ORDER: of events of one type, so that all go to one topic, and the key alone says what must not pass what.
        let mut broken = Broken::new();
        for chunk in chunks(batch, BATCH_MESSAGES_MAX) {
            self.put_chunk(chunk, &mut broken, &mut results).await;
        }
        results
    }

    /// What can be given to the engine, and a result for each event: of the others, why not.
    fn seal_all<P: IntoPublish>(
        &self,
        events: impl IntoIterator<Item = P>,
    ) -> (Vec<Waiting>, Vec<Result<Receipt>>) {
        let mut results = Vec::new();
        let mut batch = Vec::new();
        let mut broken = Broken::new();
        for event in events {
            let mut event = event.into_publish();
            let key = event.key_found().cloned();
            if let Some(retriable) = key.as_ref().and_then(|key| broken.get(key)) {
                results.push(Err(Fault::behind_failed(*retriable).into()));
                continue;
            }
            let draft = event.into_draft().map_err(Error::from);
            let sealed = draft.and_then(|d| Ok((d.size(), self.seal(d)?)));
            results.push(match sealed {
                Ok((size, message)) => {
                    batch.push((results.len(), size, message));
                    Err(Error::new(Code::ENGINE_FAILED, "the engine gave no result"))
                }
                Err(error) => {
                    broken.extend(key.map(|key| (key, error.is_retriable())));
                    Err(error)
                }
            });
        }
        (batch, results)
    }

    /// Sends a command to its queue and waits for the confirmation. Otherwise as [`Bus::publish`].
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn send<S: IntoSend>(&self, command: S) -> Result<Receipt> {
        let draft = command.into_send().into_draft()?;
        let _room = self.inner.window.wait(1, draft.size()).await;
        self.put_one(self.seal(draft)?).await
    }

    /// Sends a command and waits for the answer until `deadline` has passed. The deadline travels with the command: later than that it is
    /// not started. An answer that comes later is counted and dropped.
    ///
    /// ```text
    /// let quote: Quote = bus.request(AskPrice { sku }, secs(2)).await?;
    /// ```
    ///
    /// Cancel safety: a dropped request may still be handled; its answer is dropped.
    ///
    /// # Errors
    /// `REQUEST_TIMED_OUT` (`PR-1312`), `REQUEST_NO_RESPONDER` (`PR-1313`: at once, where nobody owns the queue), `REPLY_FAILED`
    /// (`PR-1314`: the other side refused; the error holds what it said), or as [`Bus::publish`].
    pub async fn request<R: Message>(
        &self,
        command: impl IntoSend,
        deadline: Duration,
    ) -> Result<R> {
        let draft = command.into_send().into_draft()?;
        crate::request::ask(self, draft, deadline).await
    }

    /// Publishes or sends one message (`Publish(event)` or `Send(command)`) that is delivered later. What it gives takes the message back ([`Bus::cancel`]).
    ///
    /// # Errors
    /// As [`Bus::publish`]; an engine that cannot delay, or not that far, says so.
    pub async fn schedule(
        &self,
        when: impl Into<When>,
        message: impl IntoEffects,
    ) -> Result<Scheduled> {
        let mut draft = one(message)?;
        draft.deliver_at(match when.into() {
            When::At(at) => at,
            When::After(delay) => self.now().plus(delay),
        });
        let _room = self.inner.window.wait(1, draft.size()).await;
        let message = self.seal(draft)?;
        let (destination, id) = (message.destination.clone(), message.envelope.id);
        let receipt = self.put_one(message).await?;
        Ok(Scheduled {
            destination,
            id,
            position: receipt.position,
        })
    }

    /// Takes a scheduled message back.
    ///
    /// # Errors
    /// The engine cannot, or does not know the message.
    pub async fn cancel(&self, scheduled: &Scheduled) -> Result<Cancel> {
        Ok(self.inner.runtime.publisher.cancel(scheduled).await?)
    }

    /// What the engine says of itself.
    #[must_use]
    pub fn info(&self) -> &EngineInfo {
        self.inner.runtime.engine.info()
    }

    /// The failure store that the engine keeps, if it keeps one.
    #[must_use]
    pub fn failure_store(&self) -> Option<Arc<dyn FailureStore>> {
        self.inner.runtime.engine.failures()
    }

    /// Failures of the subscriptions that run on this bus: list, show, redrive, discard.
    #[must_use]
    pub fn failures(&self) -> Failures {
        let runtime = &self.inner.runtime;
        let store = self.failure_store();
        Failures::new(runtime.registry.clone(), store, runtime.clock.clone())
    }

    /// The metrics of everything on this bus in the Prometheus text format (0.0.4), with what waits in engine and outboxes counted now: for a
    /// scrape. `None` where [`BusOptions::recorder`] is exported by other means.
    pub async fn metrics(&self) -> Option<String> {
        let runtime = &self.inner.runtime;
        crate::metrics::refresh(runtime).await;
        runtime.recorder.prometheus()
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.inner.runtime.engine
    }

    /// Wall time, from the bus's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.runtime.clock.wall()
    }

    /// Replies that came after their request had ended.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.inner.requests.late()
    }

    /// Messages and bytes that await confirmation now.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        self.inner.window.in_flight()
    }

    /// Confirms what was accepted and closes the engine. Every clone is closed with it. Idempotent.
    ///
    /// # Errors
    /// Something could not be confirmed within `grace`; it is closed all the same.
    pub async fn close(&self, grace: Duration) -> Result {
        self.inner.requests.stop();
        #[cfg(all(feature = "admin", unix))]
        drop(self.inner.admin.lock().take());
        Ok(self.inner.runtime.engine.close(grace).await?)
    }

    /// The same bus, whose messages say that they come from this service.
    #[must_use]
    pub fn named(&self, source: impl Into<Text>) -> Self {
        Self {
            source: source.into(),
            ..self.clone()
        }
    }

    /// The same bus, whose messages belong to the conversation of this message.
    pub(crate) fn within(&self, parent: &Envelope) -> Self {
        Self {
            within: Some(Arc::new(parent.clone())),
            ..self.clone()
        }
    }

    pub(crate) fn source(&self) -> &Text {
        &self.source
    }

    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.inner.runtime
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.inner.requests
    }

    pub(crate) fn options(&self) -> &BusOptions {
        &self.inner.options
    }

    /// Serves the admin API in the engine's directory, or in the one that was named, from the first service until the bus is closed. Where it cannot, that
    /// is said, also to a user without a `tracing` subscriber.
    #[cfg(all(feature = "admin", unix))]
    pub(crate) fn serve_admin(&self, announce: bool) {
        use crate::admin::{Place, serve};
        let mut admin = self.inner.admin.lock();
        let runtime = &self.inner.runtime;
        let own = runtime.engine.directory().map(|own| (own, Place::Engine));
        let named = self.inner.options.admin_directory.as_deref();
        let Some((directory, place)) = own.or_else(|| named.map(|named| (named, Place::Named)))
        else {
            return;
        };
        if admin.is_none() {
            match serve(directory, place, runtime.clone()) {
                Ok(server) => *admin = Some(server),
                Err(fault) => {
                    tracing::warn!(%fault, "no admin API");
                    if announce {
                        eprintln!("postrider: {fault}");
                    }
                }
            }
        }
    }

    /// Counts a service that runs on the bus, until the count is dropped.
    pub(crate) fn count_service(&self) -> ServiceCount {
        self.inner.services.fetch_add(1, Ordering::SeqCst);
        ServiceCount(self.inner.clone())
    }

    /// Whether no service runs on the bus.
    pub(crate) fn is_idle(&self) -> bool {
        self.inner.services.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn seal(&self, draft: Draft) -> Result<Outgoing> {
        let to = match draft.to {
            To::Topic(name) => destination(DestinationKind::Topic, name)?,
            To::Queue(name) => destination(DestinationKind::Queue, name)?,
            To::Asker => return Err(no_asker(draft.message_type)),
        };
        let runtime = &self.inner.runtime;
        let mut message = draft.seal(to, runtime.new_id(), &self.source, runtime.clock.wall())?;
        if let Some(parent) = &self.within {
            follow(&mut message.envelope, parent);
        }
        crate::telemetry::inject(&mut message.envelope, &*runtime.entropy);
        Ok(message)
    }

    async fn put_one(&self, message: Outgoing) -> Result<Receipt> {
        Ok(self.put_one_or_fault(message).await?)
    }

    pub(crate) async fn put_one_or_fault(&self, message: Outgoing) -> Result<Receipt, Fault> {
        let results = self.inner.runtime.publisher.publish(vec![message]).await;
        let only = results.into_iter().next();
        only.unwrap_or_else(|| Err(Fault::closed("the publisher")))
    }

    /// The window's room for a message of this size, awaited.
    pub(crate) async fn room(&self, bytes: usize) -> window::Room<'_> {
        self.inner.window.wait(1, bytes).await
    }

    /// Publishes what is not behind a message of its key that failed before.
    async fn put_chunk(
        &self,
        mut chunk: Vec<Waiting>,
        broken: &mut Broken,
        results: &mut [Result<Receipt>],
    ) {
        if !broken.is_empty() {
            chunk.retain(|(index, _, message)| {
                let key = message.envelope.key.as_ref();
                let Some(retriable) = key.and_then(|key| broken.get(key)) else {
                    return true;
                };
                results[*index] = Err(Fault::behind_failed(*retriable).into());
                false
            });
        }
        if chunk.is_empty() {
            return;
        }
        let bytes = chunk.iter().map(|(_, size, _)| size).sum();
        let _room = self.inner.window.wait(chunk.len(), bytes).await;
        let (sent, messages): (Vec<_>, Vec<_>) = chunk
            .into_iter()
            .map(|(index, _, m)| ((index, m.envelope.key.clone()), m))
            .unzip();
        let mut given = self
            .inner
            .runtime
            .publisher
            .publish(messages)
            .await
            .into_iter();
        for (index, key) in sent {
            // Where the engine answered with too few results, the one that says so is there already.
            if let Some(result) = given.next() {
                results[index] = result.map_err(Error::from);
            }
            if let (Err(error), Some(key)) = (&results[index], key) {
                broken.entry(key).or_insert_with(|| error.is_retriable());
            }
        }
    }
}

/// How many messages `publish_all` gives to the engine in one call.
const BATCH_MESSAGES_MAX: usize = 512;

/// A message of a batch: its index, its size, itself.
type Waiting = (usize, usize, Outgoing);

/// Keys of a batch of which a message failed, and whether trying again can help that one.
type Broken = HashMap<Key, bool>;

fn one(message: impl IntoEffects) -> Result<Draft> {
    let drafts = Effects::new().with(message).into_drafts()?;
    let count = drafts.len();
    let only = drafts.into_iter().next().filter(|_| count == 1);
    only.ok_or_else(|| {
        let what = format!("{count} messages were given where one is scheduled");
        Error::new(Code::PUBLISH_BAD_ENVELOPE, what)
            .why("each scheduled message can be taken back on its own")
            .remedy("schedule them one by one")
    })
}

fn chunks<T>(items: Vec<T>, size: usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        chunks.push(items.by_ref().take(size.max(1)).collect());
    }
    chunks
}

fn no_asker(message_type: &str) -> Error {
    Error::new(
        Code::PUBLISH_BAD_ENVELOPE,
        format!("`{message_type}` is a reply: it goes where a request says"),
    )
    .remedy("return `Reply(message)` from the handler of the request")
}

/// Whether this failure means that nobody would receive the message.
pub(crate) fn is_no_route(fault: &Fault) -> bool {
    fault.kind == FaultKind::NoRoute
}

/// What [`Bus::publish`] takes: an event, or `Publish(event)` with options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    label = "not an event",
    note = "only a message with `#[message(topic = \"…\")]` is published; a command (`queue = \"…\"`) is sent with `send`"
)]
pub trait IntoPublish {
    /// The event's type.
    type Event: Event;
    /// The event with its options.
    fn into_publish(self) -> Publish<Self::Event>;
}

/// What [`Bus::send`] and [`Bus::request`] take: a command, or `Send(command)` with options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be sent",
    label = "not a command",
    note = "only a message with `#[message(queue = \"…\")]` is sent; an event (`topic = \"…\"`) is published with `publish`"
)]
pub trait IntoSend {
    /// The command's type.
    type Command: Command;
    /// The command with its options.
    fn into_send(self) -> Send<Self::Command>;
}

impl<E: Event> IntoPublish for E {
    type Event = E;
    fn into_publish(self) -> Publish<E> {
        crate::effect::Publish(self)
    }
}

impl<E: Event> IntoPublish for Publish<E> {
    type Event = E;
    fn into_publish(self) -> Self {
        self
    }
}

impl<C: Command> IntoSend for C {
    type Command = C;
    fn into_send(self) -> Send<C> {
        crate::effect::Send(self)
    }
}

impl<C: Command> IntoSend for Send<C> {
    type Command = C;
    fn into_send(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests;
