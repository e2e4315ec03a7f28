//! One trait for all shapes of handlers, implemented for functions by macro.

use std::any::TypeId;
use std::future::Future;

use postrider_core::fault::HandlerError;
use postrider_core::message::Message;
use postrider_core::store::{Seen, TxStore};

use super::Description;
use crate::context::{Context, Registry};
use crate::delivery::Ending;
use crate::effect::{Effects, IntoOutcome, seal_effects};
use crate::error::Result;
use crate::extract::{Committed, FromDelivery, Tx, in_store};

/// A function that handles a message. You never name `Marker`: it tells the shapes of functions apart.
#[diagnostic::on_unimplemented(
    message = "this function is not a handler",
    label = "`{Self}` is not a handler",
    note = "a handler is `async fn(Message, extractors…) -> effects`, or `fn(Message, &mut Tx<Store>, extractors…) -> effects`",
    note = "the first parameter must be a type with `#[derive(Message)]`; then up to six of `State<T>`, `Meta`, `Headers`, `Bus`, `Db<S>`, `Ctx`, `Delivery`, by value",
    note = "it returns `()`, `Publish`, `Send`, `Reply`, `After`, `Effects`, an `Option`, `Vec` or tuple of them, or a `Result` of these and an error with `#[derive(Fault)]`",
    note = "a handler that takes `Db` may return `Committed`; an async handler's future must be `Send`"
)]
pub trait Handler<Marker>: Clone + Send + Sync + Sized + 'static {
    /// What is known of it before it runs.
    fn describe() -> Description;

    /// What it needs of the service.
    ///
    /// # Errors
    /// A state or store is missing.
    fn check(registry: &Registry) -> Result;

    /// Handles one delivery.
    fn call(self, context: Context) -> impl Future<Output = Ending> + Send;
}

/// What an async handler may return: effects, a `Result` of effects, or what `db.commit(…)` gave.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    note = "return `()`, `Publish(event)`, `Send(command)`, `Reply(message)`, `After(duration, effect)`, `Effects`, an `Option`, `Vec` or tuple of them, `Committed`, or a `Result` of one of these and an error with `#[derive(Fault)]`"
)]
pub trait IntoEnding {
    #[doc(hidden)]
    fn into_ending(self, context: &Context) -> Ending;
}

impl<T: IntoOutcome> IntoEnding for T {
    fn into_ending(self, context: &Context) -> Ending {
        self.into_outcome()
            .map_or_else(Ending::Failed, |effects| publish(effects, context))
    }
}

impl IntoEnding for Committed {
    fn into_ending(self, _: &Context) -> Ending {
        self.0
    }
}

impl<E: postrider_core::fault::ToOutcome> IntoEnding for Result<Committed, E> {
    fn into_ending(self, _: &Context) -> Ending {
        self.map_or_else(|e| Ending::Failed(e.to_outcome()), |committed| committed.0)
    }
}

fn publish(effects: Effects, context: &Context) -> Ending {
    let refused = |e: postrider_core::BoxError| Ending::Failed(HandlerError::Permanent(e));
    let drafts = match effects.into_drafts() {
        Ok(drafts) => drafts,
        Err(error) => return refused(error.into()),
    };
    match seal_effects(
        drafts,
        &context.delivery,
        context.host.bus.source(),
        crate::telemetry::current(),
    ) {
        Ok(messages) => Ending::Effects(messages),
        Err(error) => refused(error.into()),
    }
}

/// Looks at the inbox of the extractor, if it has one. `Some`: the handler is not called.
async fn look<E: FromDelivery>(context: &Context) -> Option<Ending> {
    match E::seen(context)?.await {
        Ok(Seen::New) => None,
        Ok(Seen::Done) => Some(Ending::Duplicate),
        Ok(Seen::Conflict) => Some(Ending::Conflict),
        Err(fault) => Some(Ending::StoreFault(fault)),
    }
}

fn describe<M: Message>(name: &'static str, store: Option<TypeId>) -> Description {
    Description {
        name,
        kind: M::KIND,
        destination: M::DESTINATION,
        message_type: M::TYPE,
        version: M::VERSION,
        keyed: M::KEYED,
        store,
    }
}

#[doc(hidden)]
pub struct Async;

#[doc(hidden)]
pub struct InTx<S>(std::marker::PhantomData<fn(S)>);

macro_rules! handlers {
    ($($E:ident)*) => {
        #[allow(non_snake_case, unused_variables)]
        impl<F, Fut, R, M, $($E,)*> Handler<(Async, M, $($E,)*)> for F
        where
            F: Fn(M, $($E,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + Send,
            R: IntoEnding,
            M: Message,
            $($E: FromDelivery,)*
        {
            fn describe() -> Description {
                describe::<M>(std::any::type_name::<F>(), None $(.or_else($E::store))*)
            }

            fn check(registry: &Registry) -> Result {
                $($E::check(registry)?;)*
                Ok(())
            }

            async fn call(self, context: Context) -> Ending {
                let message = match context.delivery.read::<M>() {
                    Ok(message) => message,
                    Err(error) => return Ending::Unreadable(error.into()),
                };
                $(if let Some(ending) = look::<$E>(&context).await {
                    return ending;
                })*
                $(let $E = match $E::from_delivery(&context) {
                    Ok(value) => value,
                    Err(error) => return Ending::Failed(error),
                };)*
                let returned = self(message, $($E,)*).await;
                returned.into_ending(&context)
            }
        }

        #[allow(non_snake_case, unused_variables)]
        impl<F, S, R, M, $($E,)*> Handler<(InTx<S>, M, $($E,)*)> for F
        where
            F: for<'a, 'c> Fn(M, &'a mut Tx<'c, S>, $($E,)*) -> R + Clone + Send + Sync + 'static,
            S: TxStore,
            R: IntoOutcome,
            M: Message,
            $($E: FromDelivery,)*
        {
            fn describe() -> Description {
                describe::<M>(std::any::type_name::<F>(), Some(TypeId::of::<S>()))
            }

            fn check(registry: &Registry) -> Result {
                registry.require_store::<S>()?;
                $($E::check(registry)?;)*
                Ok(())
            }

            async fn call(self, context: Context) -> Ending {
                let store = match context.registry().require_store::<S>() {
                    Ok(store) => store,
                    Err(error) => return Ending::Failed(HandlerError::Stop(error.into())),
                };
                let mut first = match context.delivery.read::<M>() {
                    Ok(message) => Some(message),
                    Err(error) => return Ending::Unreadable(error.into()),
                };
                let within = context.clone();
                let work = move |conn: &mut S::Conn| {
                    // A second run (its group failed) reads the message again; it was readable once.
                    let message = first.take().map_or_else(|| within.delivery.read::<M>(), Ok);
                    let message = message.map_err(|e| HandlerError::Permanent(e.into()))?;
                    $(let $E = $E::from_delivery(&within)?;)*
                    self(message, &mut Tx::over(conn), $($E,)*).into_outcome()
                };
                in_store(&store, &context, work).await
            }
        }
    };
}

handlers!();
handlers!(E1);
handlers!(E1 E2);
handlers!(E1 E2 E3);
handlers!(E1 E2 E3 E4);
handlers!(E1 E2 E3 E4 E5);
handlers!(E1 E2 E3 E4 E5 E6);
