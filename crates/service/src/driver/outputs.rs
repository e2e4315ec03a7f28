//! What the kernel wants done, in its order.

use postrider_core::failure::Cause;
use postrider_core::settle::Settle;
use postrider_core::source::Credit;
use postrider_core::store::Fence;
use postrider_kernel::{Input, Origin, Outcome, Output, Slot};
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument as _;

use super::error::DriverError;
use super::held::{Doing, From, Held};
use super::run::{Alarm, CANCEL_GRACE, Driver};
use crate::delivery::{Delivery, Inner};
use crate::telemetry;

impl Driver {
    pub(super) fn act(&mut self, output: Output) {
        match output {
            Output::Dispatch { slot, attempt } => self.dispatch(slot, attempt),
            Output::Cancel(slot) => self.cancel(slot),
            Output::Ack(slots) => self.settle_all(slots, || Settle::Ack),
            Output::Release(slots) => {
                if self.drain_deadline.is_some() {
                    self.report.released += slots.len() as u32;
                }
                self.settle_all(slots, || Settle::Release);
            }
            Output::RetryLater {
                slot,
                delay,
                attempts,
            } => self
                .engine
                .settle(slot, Settle::RetryAfter { delay, attempts }),
            Output::Fail {
                slot,
                cause,
                attempts,
                park,
            } => self.set_aside(slot, cause, attempts, park),
            Output::Park { key, slots } => self.park(key, slots),
            Output::FinishRedrive {
                slot,
                failed,
                attempts,
                released,
            } => self.finish_redrive(slot, failed, attempts, released),
            Output::Extend(slots) => self.engine.extend(slots),
            Output::Commit { at, commit } => {
                self.commits.insert(at, (commit, 0));
            }
            Output::Ask { slot, id } => self.ask(slot, id),
            Output::Gone { id, ended } => self.gone(id, ended),
            Output::Revoked { at } => self.revoked.push(at),
            Output::Credit { source, redrive } => self.grant(source, redrive),
            Output::SetTimer(at) => {
                self.alarms.retain(|(_, alarm)| *alarm != Alarm::Kernel);
                if let Some(at) = at {
                    self.alarm(at, Alarm::Kernel);
                }
            }
            Output::Paused(dependency) => {
                tracing::warn!(target: "postrider", subscription = %self.spec.id, %dependency, "consumption pauses until the dependency answers");
                self.status.lock().waits_for = Some(dependency.to_string());
            }
            Output::Forget(slot) => self.forget(slot),
            Output::Stopped { slot, cause } => self.stopped(slot, cause),
            Output::Drained => {
                self.report.left += self.slab.len();
                self.drained = true;
            }
        }
    }

    /// ORDER: the kernel counts what it was told of. What came in and waits for its turn among the inputs has used credit that the kernel does not
    /// know of yet.
    fn grant(&mut self, mut source: Credit, mut redrive: u32) {
        for input in &self.inputs {
            let Input::Messages(incoming) = input else {
                continue;
            };
            for one in incoming {
                if matches!(one.origin, Origin::Redrive) {
                    redrive = redrive.saturating_sub(1);
                } else {
                    source.messages = source.messages.saturating_sub(1);
                    source.bytes = source.bytes.saturating_sub(one.size);
                }
            }
        }
        self.credit = source;
        self.home.room = redrive;
    }

    fn settle_all(&mut self, slots: Vec<Slot>, how: impl Fn() -> Settle) {
        for slot in slots {
            self.engine.settle(slot, how());
        }
    }

    fn dispatch(&mut self, slot: Slot, attempt: u32) {
        self.runs += 1;
        let run = self.runs;
        let runtime = Arc::clone(&self.runtime);
        let subscription = self.spec.id.clone();
        let held = self
            .slab
            .get_mut(slot)
            .expect("the kernel dispatches what is held");
        let redriven = held.is_redriven();
        let (Some((envelope, payload)), Some(handler)) = (&held.content, &held.handler) else {
            // The kernel was told that it cannot be read, so it does not come here; a failure record is the safe answer.
            let outcome = Outcome::Permanent(Cause::Unreadable);
            self.inputs.push_back(Input::Finished { slot, outcome });
            return;
        };
        let expired = envelope
            .expires_at
            .is_some_and(|at| at <= runtime.clock.wall());
        if expired && !redriven {
            self.metrics.expired.add(1);
            self.inputs.push_back(Input::Finished {
                slot,
                outcome: Outcome::Done,
            });
            return;
        }
        if attempt > 1 {
            self.metrics.retried.add(1);
        }
        let context = telemetry::context_of(envelope, &*runtime.entropy);
        let system = runtime.engine.info().scheme;
        let span = telemetry::process_span(system, &subscription, envelope, attempt, context);
        let clock = Arc::clone(&runtime.clock);
        let delivery = Delivery {
            inner: Arc::new(Inner {
                envelope: envelope.clone(),
                payload: payload.clone(),
                subscription,
                attempt,
                redriven,
                first_seen: held.first_seen,
                position: held.position,
                fence: Fence::new(),
                runtime,
            }),
        };
        let handler = Arc::clone(handler);
        held.delivery = Some(delivery.clone());
        held.run = run;
        held.cancelled = false;
        let task = async move {
            let began = clock.mono();
            // Within the task, so that a panic while the handler is being called is caught too.
            let ending = handler.call(delivery).await;
            (ending, clock.mono().since(began))
        };
        let task = telemetry::within(context, task).instrument(span);
        let abort = self.handlers.spawn(task);
        self.tasks.insert(abort.id(), (slot, run));
        held.doing = Doing::Handling { abort };
    }

    /// CANCEL: first the fence, then the task, so that nothing is committed for a delivery that belongs to another.
    fn cancel(&mut self, slot: Slot) {
        let until = self.now().plus(CANCEL_GRACE);
        if self.drain_deadline.is_some() {
            self.report.cancelled += 1;
        }
        let Some(held) = self.slab.get_mut(slot) else {
            return;
        };
        held.cancelled = true;
        if let Some(delivery) = &held.delivery {
            delivery.inner.fence.break_off();
        }
        let run = held.run;
        match &held.doing {
            Doing::Handling { abort } => abort.abort(),
            Doing::Publishing(p) if p.calling => {}
            Doing::Publishing(_) | Doing::Nothing => {
                self.finished(slot, Outcome::Cancelled);
                return;
            }
        }
        self.alarm(until, Alarm::Cancelled(slot, run));
    }

    /// A handler that blocks cannot be aborted: it is given up, and what it returns later is ignored.
    pub(super) fn give_up_handler(&mut self, slot: Slot, run: u64) {
        let current = self.slab.get(slot);
        let waits = current.is_some_and(|h| h.run == run && !matches!(h.doing, Doing::Nothing));
        if waits {
            self.tasks.retain(|_, (s, r)| (*s, *r) != (slot, run));
            tracing::warn!(
                target: "postrider",
                subscription = %self.spec.id,
                "a handler did not end within {CANCEL_GRACE:?} of its cancellation: it blocks its thread; its result will be ignored"
            );
            self.finished(slot, Outcome::Cancelled);
        }
    }

    /// Tells the kernel, and notes that nothing is being done for the message any more.
    pub(super) fn finished(&mut self, slot: Slot, outcome: Outcome) {
        let Some(held) = self.slab.get_mut(slot) else {
            return;
        };
        if matches!(held.doing, Doing::Publishing(_)) {
            self.publishing -= 1;
        }
        held.doing = Doing::Nothing;
        self.inputs.push_back(Input::Finished { slot, outcome });
    }

    /// Of a drain that was given up, some are forgotten with their settle still outstanding.
    fn forget(&mut self, slot: Slot) {
        let unsettled = |h: &Held| h.calls > 0 || matches!(h.from, From::Lease(Some(_)));
        if self.drain_deadline.is_some() && self.slab.get(slot).is_some_and(unsettled) {
            self.report.left += 1;
        }
        self.slab.forget(slot);
    }

    fn stopped(&mut self, slot: Slot, cause: Cause) {
        let held = self.slab.get(slot);
        let message = held
            .and_then(|h| h.content.as_ref())
            .map(|(e, _)| e.id.to_string());
        let reason = held.and_then(|h| h.errors.first().cloned());
        self.fail(DriverError::Stopped {
            subscription: self.spec.id.clone(),
            message: message.unwrap_or_else(|| "?".into()),
            cause,
            reason: reason.unwrap_or_else(|| "no reason was given".into()),
        });
    }

    /// The lease source's settles need the token; a redriven record has none, a log record neither.
    pub(super) fn has_token(&self, slot: Slot) -> bool {
        let held = self.slab.get(slot);
        held.is_some_and(|h| matches!(h.from, From::Lease(_)))
    }

    pub(super) fn later(&self, wait: Duration) -> postrider_core::clock::Mono {
        self.now().plus(wait)
    }
}
