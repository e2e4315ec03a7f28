//! A handler with what is said of it: retry, timeout, layers, and the wishes of its subscription.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use postrider_core::fault::HandlerError;
use postrider_core::name::Destination;
use postrider_core::policy::{Retry, WhenExhausted};
use postrider_core::source::SeekTo;
use postrider_core::{BoxError, Fut};
use tower::util::{BoxCloneSyncService, ServiceExt as _};
use tower::{Layer, Service};

use super::call::IntoEnding;
use super::{Description, Handler};
use crate::context::{Context, Host, Registry};
use crate::delivery::{Delivery, Ending};
use crate::erased::ErasedHandler;
use crate::error::{Error, Result};
use crate::layer::Timeout;

/// A handler as a tower service: what a [`Layer`] given to [`HandlerExt::layer`] wraps. An error counts as transient.
pub type HandlerService = BoxCloneSyncService<Delivery, Ending, BoxError>;

/// What happens to a message that failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetter {
    /// A failure record, and its key is parked: the rest of the key follows it, in order. The default of an ordered subscription.
    Park,
    /// A failure record, and the key goes on. The default of an unordered one; on an ordered one it gives up order for that key.
    Continue,
    /// The subscription stops, and the service with it; nothing is settled.
    Stop,
}

impl From<DeadLetter> for WhenExhausted {
    fn from(choice: DeadLetter) -> Self {
        match choice {
            DeadLetter::Park => Self::ParkKey,
            DeadLetter::Continue => Self::DeadLetterAndContinue,
            DeadLetter::Stop => Self::Stop,
        }
    }
}

/// What a handler says of its subscription; handlers of one destination must agree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SubscriptionWishes {
    pub(crate) unordered: bool,
    pub(crate) concurrency: Option<u32>,
    pub(crate) dead_letter: Option<DeadLetter>,
    pub(crate) start_at: Option<SeekTo>,
    pub(crate) lease: Option<Duration>,
}

type Wrap = Box<dyn FnOnce(HandlerService) -> HandlerService + Send>;
type Bind = Box<dyn FnOnce(Arc<Host>) -> Core + Send>;

/// A handler without its layers: called as it is, or wrapped.
struct Core {
    call: Box<dyn Fn(Delivery) -> Fut<'static, Ending> + Send + Sync>,
    service: HandlerService,
}

/// A handler with what is said of it. Made by [`HandlerExt`] and [`raw`]; taken by [`Service::on`](crate::Service::on).
#[must_use = "give it to `Service::on`"]
pub struct Configured {
    pub(crate) description: Description,
    pub(crate) destination: Result<Destination>,
    pub(crate) wishes: SubscriptionWishes,
    retry: Retry,
    check: fn(&Registry) -> Result,
    bind: Bind,
    layers: Vec<Wrap>,
}

impl Configured {
    fn new<Marker: 'static, H: Handler<Marker>>(handler: H) -> Self {
        let description = H::describe();
        Self {
            description,
            destination: crate::effect::destination(description.kind, description.destination),
            wishes: SubscriptionWishes::default(),
            retry: Retry::default(),
            check: H::check,
            bind: Box::new(move |host| {
                let call = Call::<H, Marker> {
                    handler,
                    host,
                    marker: PhantomData,
                };
                let direct = call.clone();
                Core {
                    call: Box::new(move |delivery| Box::pin(direct.run(delivery))),
                    service: BoxCloneSyncService::new(call),
                }
            }),
            layers: Vec::new(),
        }
    }

    /// # Errors
    /// A state or store is missing; the error names the handler.
    pub(crate) fn check(&self, registry: &Registry) -> Result {
        (self.check)(registry).map_err(|error| {
            let what = format!(
                "the handler `{}` cannot run: {}",
                self.description.name,
                error.what()
            );
            Error::new(error.code(), what)
        })
    }

    pub(crate) fn bind(self, host: Arc<Host>) -> Bound {
        let core = (self.bind)(host);
        let call = match self.layers.is_empty() {
            true => core.call,
            false => {
                let wrap = |inner, wrap: Wrap| wrap(inner);
                layered(self.layers.into_iter().fold(core.service, wrap))
            }
        };
        Bound {
            message_type: self.description.message_type,
            retry: self.retry,
            call,
        }
    }
}

/// The call of a handler in its layers.
fn layered(service: HandlerService) -> Box<dyn Fn(Delivery) -> Fut<'static, Ending> + Send + Sync> {
    Box::new(move |delivery| {
        let service = service.clone();
        Box::pin(async move {
            let ending = service.oneshot(delivery).await;
            ending.unwrap_or_else(|e| Ending::Failed(HandlerError::Transient(e)))
        })
    })
}

/// A handler with its layers, in a running service.
pub(crate) struct Bound {
    message_type: &'static str,
    retry: Retry,
    call: Box<dyn Fn(Delivery) -> Fut<'static, Ending> + Send + Sync>,
}

impl ErasedHandler for Bound {
    fn message_type(&self) -> &str {
        self.message_type
    }

    fn retry(&self) -> Retry {
        self.retry
    }

    fn call(&self, delivery: Delivery) -> Fut<'static, Ending> {
        (self.call)(delivery)
    }
}

/// The innermost service: the function itself.
struct Call<H, Marker> {
    handler: H,
    host: Arc<Host>,
    marker: PhantomData<fn(Marker)>,
}

impl<H: Clone, Marker> Clone for Call<H, Marker> {
    fn clone(&self) -> Self {
        Self {
            handler: self.handler.clone(),
            host: self.host.clone(),
            marker: PhantomData,
        }
    }
}

impl<H: Handler<Marker>, Marker: 'static> Call<H, Marker> {
    fn run(&self, delivery: Delivery) -> impl Future<Output = Ending> + Send + 'static {
        let (handler, host) = (self.handler.clone(), self.host.clone());
        // The call itself is within the future, so that a panic in it is one of the handler.
        async move { handler.call(Context { delivery, host }).await }
    }
}

impl<H: Handler<Marker>, Marker: 'static> Service<Delivery> for Call<H, Marker> {
    type Response = Ending;
    type Error = BoxError;
    type Future = Fut<'static, Result<Ending, BoxError>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        let ending = self.run(delivery);
        Box::pin(async move { Ok(ending.await) })
    }
}

/// What [`Service::on`](crate::Service::on) takes: a function that is a [`Handler`], or one with policies.
#[diagnostic::on_unimplemented(
    message = "this function is not a handler",
    label = "`{Self}` is not a handler",
    note = "a handler is `async fn(Message, extractors…) -> effects`, or `fn(Message, &mut Tx<Store>, extractors…) -> effects`",
    note = "the first parameter must be a type with `#[derive(Message)]`; then up to six of `State<T>`, `Meta`, `Headers`, `Bus`, `Db<S>`, `Ctx`, `Delivery`, by value",
    note = "it returns `()`, `Publish`, `Send`, `Reply`, `After`, `Effects`, an `Option`, `Vec` or tuple of them, or a `Result` of these and an error with `#[derive(Fault)]`",
    note = "a handler that takes `Db` may return `Committed`; an async handler's future must be `Send`"
)]
pub trait IntoHandler<Marker> {
    /// The handler with its policies.
    fn into_handler(self) -> Configured;
}

#[doc(hidden)]
pub struct Plain;

impl<H: Handler<Marker>, Marker: 'static> IntoHandler<(Plain, Marker)> for H {
    fn into_handler(self) -> Configured {
        Configured::new(self)
    }
}

impl IntoHandler<Configured> for Configured {
    fn into_handler(self) -> Configured {
        self
    }
}

/// What can be said of every handler.
pub trait HandlerExt<Marker>: IntoHandler<Marker> + Sized {
    /// How failures of this handler are tried again. Default: [`Retry::default`].
    fn retry(self, retry: Retry) -> Configured {
        let mut configured = self.into_handler();
        configured.retry = retry;
        configured
    }

    /// The subscription gives up order per key: messages of one key may run at once. All keyed handlers of it must say so.
    fn unordered(self) -> Configured {
        let mut configured = self.into_handler();
        configured.wishes.unordered = true;
        configured
    }

    /// How many handlers of the subscription run at once. Default: 64.
    fn concurrency(self, handlers_max: u32) -> Configured {
        let mut configured = self.into_handler();
        configured.wishes.concurrency = Some(handlers_max);
        configured
    }

    /// The handler is cancelled after this long, and the message tried again (`PR-1302`). Its effects may have happened.
    fn timeout(self, limit: Duration) -> Configured {
        self.layer(Timeout::new(limit))
    }

    /// What happens to a message of the subscription that failed for good.
    fn dead_letter(self, choice: DeadLetter) -> Configured {
        let mut configured = self.into_handler();
        configured.wishes.dead_letter = Some(choice);
        configured
    }

    /// Where the subscription begins if it does not exist. Default: with the first message that is kept.
    fn start_at(self, start: SeekTo) -> Configured {
        let mut configured = self.into_handler();
        configured.wishes.start_at = Some(start);
        configured
    }

    /// How long a message of the subscription is held before another member may have it. It is extended while the handler runs; a
    /// shorter lease finds a dead process sooner. Default: 30 s.
    fn lease(self, lease: Duration) -> Configured {
        let mut configured = self.into_handler();
        configured.wishes.lease = Some(lease);
        configured
    }

    /// Wraps the handler in a tower layer; a later one wraps the earlier ones. A layer that waits holds a slot of the subscription's
    /// concurrency: retry and order belong to the subscription, not to layers.
    fn layer<L>(self, layer: L) -> Configured
    where
        L: Layer<HandlerService> + Send + 'static,
        L::Service: Service<Delivery, Response = Ending> + Clone + Send + Sync + 'static,
        <L::Service as Service<Delivery>>::Error: Into<BoxError>,
        <L::Service as Service<Delivery>>::Future: Send + 'static,
    {
        let mut configured = self.into_handler();
        configured.layers.push(Box::new(move |inner| {
            BoxCloneSyncService::new(layer.layer(inner).map_err(Into::into))
        }));
        configured
    }
}

impl<H: IntoHandler<Marker>, Marker> HandlerExt<Marker> for H {}

/// A handler of everything that goes to a destination (`"topic:shop.order"`) and that no other handler of the service takes: an audit, a
/// bridge. It gets the delivery as it came, whatever its type and version.
pub fn raw<F, Fut, R>(destination: &str, handler: F) -> Configured
where
    F: Fn(Delivery) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send + 'static,
    R: IntoEnding,
{
    let parsed = Destination::parse(destination).map_err(Error::from);
    let kind = parsed
        .as_ref()
        .map_or(postrider_core::name::DestinationKind::Topic, |d| d.kind);
    Configured {
        description: Description {
            name: std::any::type_name::<F>(),
            kind,
            destination: "",
            message_type: "",
            version: u32::MAX,
            keyed: kind == postrider_core::name::DestinationKind::Topic,
            store: None,
        },
        destination: parsed,
        wishes: SubscriptionWishes::default(),
        retry: Retry::default(),
        check: |_| Ok(()),
        bind: Box::new(move |host| {
            let service = BoxCloneSyncService::new(
                tower::service_fn(move |delivery: Delivery| {
                    let context = Context {
                        delivery: delivery.clone(),
                        host: host.clone(),
                    };
                    let run = handler(delivery);
                    async move { Ok::<_, Infallible>(run.await.into_ending(&context)) }
                })
                .map_err(BoxError::from),
            );
            Core {
                call: layered(service.clone()),
                service,
            }
        }),
        layers: Vec::new(),
    }
}
