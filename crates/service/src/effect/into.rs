//! From what a handler returns to the messages that go out.

use postrider_core::fault::{HandlerError, ToOutcome};
use postrider_core::message::{Command, Event, Message};

use super::{After, Draft, Effects, Publish, Reply, Send, To};

/// What happens because of a handler: see [the table](crate::effect).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an effect",
    label = "a handler cannot return this",
    note = "return `()`, `Publish(event)`, `Send(command)`, `Reply(message)`, `After(duration, effect)`, `Effects`, or an `Option`, `Vec` or tuple of them",
    note = "or a `Result` of one of these and an error with `#[derive(Fault)]`"
)]
pub trait IntoEffects {
    /// Adds the messages to those that are there.
    fn into_effects(self, effects: &mut Effects);
}

impl IntoEffects for () {
    fn into_effects(self, _: &mut Effects) {}
}

impl IntoEffects for Effects {
    fn into_effects(self, effects: &mut Effects) {
        effects.drafts.extend(self.drafts);
        effects.fault = effects.fault.take().or(self.fault);
    }
}

impl<E: Event> IntoEffects for Publish<E> {
    fn into_effects(self, effects: &mut Effects) {
        effects.push(self.into_draft());
    }
}

impl<C: Command> IntoEffects for Send<C> {
    fn into_effects(self, effects: &mut Effects) {
        effects.push(self.into_draft());
    }
}

impl<M: Message> IntoEffects for Reply<M> {
    fn into_effects(self, effects: &mut Effects) {
        effects.push(Draft::of(To::Asker, &self.message, self.wishes));
    }
}

impl<E: IntoEffects> IntoEffects for After<E> {
    fn into_effects(self, effects: &mut Effects) {
        let first = effects.drafts.len();
        self.1.into_effects(effects);
        for draft in effects.drafts.iter_mut().skip(first) {
            if draft.wishes.at.is_none() && draft.wishes.after.is_none() {
                draft.wishes.after = Some(self.0);
            }
        }
    }
}

impl<E: IntoEffects> IntoEffects for Option<E> {
    fn into_effects(self, effects: &mut Effects) {
        if let Some(effect) = self {
            effect.into_effects(effects);
        }
    }
}

impl<E: IntoEffects> IntoEffects for Vec<E> {
    fn into_effects(self, effects: &mut Effects) {
        for effect in self {
            effect.into_effects(effects);
        }
    }
}

macro_rules! tuple {
    ($($E:ident)*) => {
        impl<$($E: IntoEffects),*> IntoEffects for ($($E,)*) {
            #[allow(non_snake_case)]
            fn into_effects(self, effects: &mut Effects) {
                let ($($E,)*) = self;
                $($E.into_effects(effects);)*
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);
tuple!(A B C D E F G);
tuple!(A B C D E F G H);

/// What a handler may return: effects, or a `Result` of effects and an error that says what it means ([`ToOutcome`]).
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "not effects, nor a `Result` of effects and an error with `#[derive(Fault)]`",
    note = "effects are `()`, `Publish(event)`, `Send(command)`, `Reply(message)`, `After(duration, effect)`, `Effects`, and `Option`, `Vec` or tuples of them"
)]
pub trait IntoOutcome {
    /// The effects, or what the error means for the delivery.
    ///
    /// # Errors
    /// The handler's own.
    fn into_outcome(self) -> Result<Effects, HandlerError>;
}

impl<T: IntoEffects> IntoOutcome for T {
    fn into_outcome(self) -> Result<Effects, HandlerError> {
        Ok(Effects::new().with(self))
    }
}

impl<T: IntoEffects, E: ToOutcome> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Result<Effects, HandlerError> {
        match self {
            Ok(effects) => Ok(Effects::new().with(effects)),
            Err(error) => Err(error.to_outcome()),
        }
    }
}
