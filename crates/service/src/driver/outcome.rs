//! A handler ended: what that means for the delivery.

use std::time::Duration;

use postrider_core::failure::Cause;
use postrider_core::fault::{Dependency, HandlerError};
use postrider_kernel::{Outcome, Slot};

use super::held::{Doing, Publishing};
use super::run::{Driver, HandlerEnd};
use crate::delivery::Ending;
use crate::failures::error_chain;

/// The dependency that a failed store stands for.
const STORE: Dependency = Dependency::new("store");

impl Driver {
    pub(super) fn handler_ended(&mut self, ended: HandlerEnd) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((slot, run)) = self.tasks.remove(&id) else {
            // It was given up before.
            return;
        };
        let current = self.slab.get(slot);
        if !current.is_some_and(|h| h.run == run && matches!(h.doing, Doing::Handling { .. })) {
            return;
        }
        match ended {
            Ok((_, (ending, took))) => {
                self.metrics.handler_time(took);
                self.ending(slot, ending, took);
            }
            Err(error) if error.is_cancelled() => self.finished(slot, Outcome::Cancelled),
            Err(error) => {
                let text = panic_text(error.into_panic());
                self.failed(
                    slot,
                    vec![format!("the handler panicked: {text}")],
                    "panicked",
                );
                self.finished(slot, Outcome::Panicked);
            }
        }
    }

    fn ending(&mut self, slot: Slot, ending: Ending, _took: Duration) {
        let outcome = match ending {
            Ending::Effects(effects) if !effects.is_empty() => {
                self.begin_publish(slot, effects);
                return;
            }
            Ending::Effects(_) | Ending::Committed => {
                self.metrics.handled.add(1);
                Outcome::Done
            }
            Ending::Duplicate => {
                self.metrics.duplicates.add(1);
                Outcome::Done
            }
            Ending::Failed(error) => self.handler_error(slot, error),
            Ending::Unreadable(error) => {
                self.failed(slot, error_chain(&*error), "unreadable");
                Outcome::Permanent(Cause::Unreadable)
            }
            Ending::Conflict => {
                let text = "PR-1501: the same id was handled before with another body";
                self.failed(slot, vec![text.to_owned()], "conflict");
                Outcome::Permanent(Cause::InboxConflict)
            }
            Ending::Fenced => Outcome::Cancelled,
            Ending::StoreFault(fault) => {
                tracing::warn!(target: "postrider", subscription = %self.spec.id, %fault, "the store failed; no attempt is burned");
                self.failed(slot, error_chain(&fault), "store");
                Outcome::Unavailable(STORE)
            }
        };
        self.finished(slot, outcome);
    }

    fn handler_error(&mut self, slot: Slot, error: HandlerError) -> Outcome {
        let chain = error_chain(&**error.source_error());
        let (word, outcome) = match error {
            HandlerError::Transient(_) => ("transient", Outcome::Transient),
            HandlerError::RetryAfter(wait, _) => ("retry_after", Outcome::RetryAfter(wait)),
            HandlerError::Permanent(_) => ("permanent", Outcome::Permanent(Cause::Permanent)),
            HandlerError::Unavailable(dependency, _) => {
                ("unavailable", Outcome::Unavailable(dependency))
            }
            HandlerError::Stop(_) => ("stop", Outcome::Stop),
        };
        self.failed(slot, chain, word);
        outcome
    }

    /// Keeps the error for the failure record that may come of it.
    pub(super) fn failed(&mut self, slot: Slot, errors: Vec<String>, outcome: &'static str) {
        self.metrics.failed(outcome);
        let Some(held) = self.slab.get_mut(slot) else {
            return;
        };
        if let Some((envelope, _)) = &held.content {
            tracing::debug!(
                target: "postrider",
                subscription = %self.spec.id,
                message = %envelope.id,
                r#type = %envelope.message_type,
                outcome,
                error = errors.first().map_or("", String::as_str),
                "an attempt failed"
            );
        }
        held.errors = errors;
    }

    fn begin_publish(&mut self, slot: Slot, effects: Vec<postrider_core::envelope::Outgoing>) {
        let held = self
            .slab
            .get_mut(slot)
            .expect("a handler that ended is held");
        if held.cancelled {
            // It returned after its delivery was lost.
            self.finished(slot, Outcome::Cancelled);
            return;
        }
        let run = held.run;
        held.doing = Doing::Publishing(Publishing {
            effects,
            tries: 0,
            calling: false,
            alone: false,
        });
        self.publishing += 1;
        self.to_publish.push_back((slot, run));
    }
}

pub(super) fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a value that is not a text".into())
}
