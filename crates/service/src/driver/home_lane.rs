//! Failures: records, parked keys, redrives and the crash state. In order, one call of the failure store at a time, so that a
//! store that is away stops failures only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::backoff;
use postrider_core::crash::CrashNote;
use postrider_core::failure::{
    Cause, FailureDraft, FailureFacts, FailureStore, KeyState, RedriveOutcome, RedriveToken,
};
use postrider_core::fault::{Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::SubscriptionId;
use postrider_core::planted::{self, Plant};
use postrider_core::settle::Settle;
use postrider_kernel::{Input, Slot};

use super::calls::{HomeAnswer, HomeReturned, Returned};
use super::engine_lane::is_lost;
use super::held::{From, Held};
use super::run::{Alarm, Driver};
use super::watching::Pending;
use crate::failures::group_text;

/// How long to wait after a claim that gave nothing, at first and at most, before the store is asked to say when there is something.
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(5);
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A piece of work for the failure store. Bounded by what is held.
#[derive(Clone)]
pub(super) enum HomeWork {
    /// Keep this failure; the key is parked with it, or not.
    Keep {
        slot: Slot,
        draft: Box<FailureDraft>,
        park: Option<Bytes>,
    },
    /// Append these behind their parked key.
    Follow {
        key: Bytes,
        slots: Vec<Slot>,
        drafts: Vec<FailureDraft>,
    },
    /// A redriven record ended.
    Finish {
        slot: Slot,
        outcome: RedriveOutcome,
    },
    Claim(u32),
    Note(Vec<Pending>),
}

/// What waits for the failure store.
#[derive(Default)]
pub(super) struct HomeLane {
    queue: VecDeque<HomeWork>,
    calling: bool,
    /// The last call was a note: what else waits goes before the next one.
    noted_last: bool,
    /// Until its alarm: the last call failed.
    pub(super) waits: bool,
    tries: u32,
    /// Redriven records that the kernel has room for.
    pub(super) room: u32,
    /// There may be something to claim.
    pub(super) claim_wanted: bool,
    /// Claims in a row that gave nothing.
    empty_claims: u32,
}

impl HomeLane {
    pub(super) fn push(&mut self, work: HomeWork) {
        self.queue.push_back(work);
    }
}

impl Driver {
    /// A message failed for good.
    pub(super) fn set_aside(&mut self, slot: Slot, cause: Cause, attempts: u32, park: bool) {
        self.metrics.dead(cause);
        self.reply_failure(slot, cause);
        let draft = Box::new(self.draft(slot, cause, attempts));
        tracing::error!(
            target: "postrider",
            subscription = %self.spec.id,
            message = draft.facts.message_id.map(tracing::field::display),
            group = draft.facts.group,
            attempts,
            parked = park,
            "{}: {}",
            cause.code(),
            draft.facts.errors.first().map_or("failed for good", String::as_str)
        );
        if self.atomic_dead_letter {
            let settle = match park {
                true => Settle::Park(draft),
                false => Settle::DeadLetter(draft),
            };
            self.engine.settle(slot, settle);
            return;
        }
        let park = draft.key.clone().filter(|_| park);
        self.home.push(HomeWork::Keep { slot, draft, park });
    }

    /// Messages behind a parked key.
    pub(super) fn park(&mut self, key: Bytes, slots: Vec<Slot>) {
        let drafts: Vec<FailureDraft> = slots
            .iter()
            .map(|slot| self.draft(*slot, Cause::Follower, 0))
            .collect();
        slots
            .iter()
            .for_each(|_| self.metrics.dead(Cause::Follower));
        if self.atomic_dead_letter {
            for (slot, draft) in slots.into_iter().zip(drafts) {
                self.engine.settle(slot, Settle::Park(Box::new(draft)));
            }
            return;
        }
        self.home.push(HomeWork::Follow { key, slots, drafts });
    }

    /// A redriven record ended.
    pub(super) fn finish_redrive(
        &mut self,
        slot: Slot,
        failed: Option<Cause>,
        attempts: u32,
        released: bool,
    ) {
        let outcome = match failed {
            Some(cause) => {
                self.metrics.dead(cause);
                let facts = self.draft(slot, cause, attempts).facts;
                RedriveOutcome::Failed(Box::new(facts))
            }
            None if released => {
                if self.drain_deadline.is_some() {
                    self.report.released += 1;
                }
                RedriveOutcome::Released
            }
            None => RedriveOutcome::Done,
        };
        self.home.push(HomeWork::Finish { slot, outcome });
    }

    fn draft(&self, slot: Slot, cause: Cause, attempts: u32) -> FailureDraft {
        let held = self
            .slab
            .get(slot)
            .expect("the kernel sets aside what is held");
        let envelope = held.content.as_ref().map(|(envelope, _)| envelope);
        let message_type = envelope.map(|e| e.message_type.to_string());
        let mut errors = held.errors.clone();
        if cause == Cause::Follower {
            errors = vec!["it came behind a parked key".to_owned()];
        }
        let error = errors.first().map(String::as_str);
        FailureDraft {
            key: held.key.clone(),
            facts: FailureFacts {
                message_id: envelope.map(|e| e.id),
                cause,
                group: group_text(cause, message_type.as_deref(), error),
                message_type,
                attempts: attempts.saturating_add(attempts_before(held)),
                errors,
                first_seen: held.first_seen,
                failed_at: self.runtime.clock.wall(),
                position: held.position,
            },
            raw: held.raw.clone(),
        }
    }

    /// Makes the next call, if none is outstanding.
    pub(super) fn call_home(&mut self) {
        if self.home.calling || self.home.waits {
            return;
        }
        let Some(failures) = self.failures.clone() else {
            return;
        };
        if self.home.queue.is_empty() && self.home.claim_wanted && self.home.room > 0 {
            self.home.claim_wanted = false;
            self.home.queue.push_back(HomeWork::Claim(self.home.room));
        }
        let waits = self.home.noted_last && !self.home.queue.is_empty();
        self.home.noted_last = !self.watch.is_empty() && !waits;
        let work = if self.home.noted_last {
            HomeWork::Note(self.watch.take())
        } else if let Some(work) = self.home.queue.pop_front() {
            work
        } else {
            return;
        };
        let token = self.redrive_token(&work);
        self.slots_of(&work)
            .iter()
            .for_each(|slot| self.slab.call_out(*slot));
        let (id, member) = (self.spec.id.clone(), self.spec.member);
        let note = match &work {
            HomeWork::Note(notes) => Some(self.crash_note(notes)),
            _ => None,
        };
        self.home.calling = true;
        self.calls.push(Box::pin(async move {
            Returned::Home(Box::new(match (&work, token) {
                (HomeWork::Finish { slot, outcome }, Some(token)) => {
                    let finished = failures.finish(&id, token, outcome.clone()).await;
                    HomeReturned::finished(*slot, finished, work)
                }
                _ => HomeReturned {
                    answer: call(&*failures, &id, member, work.clone(), note).await,
                    token: None,
                    work,
                },
            }))
        }));
    }

    /// A claim is finished with the token that it gave.
    fn redrive_token(&mut self, work: &HomeWork) -> Option<RedriveToken> {
        let HomeWork::Finish { slot, .. } = work else {
            return None;
        };
        self.slab.get_mut(*slot)?.take_redrive_token()
    }

    fn slots_of(&self, work: &HomeWork) -> Vec<Slot> {
        match work {
            HomeWork::Keep { slot, .. } | HomeWork::Finish { slot, .. } => vec![*slot],
            HomeWork::Follow { slots, .. } => slots.clone(),
            HomeWork::Claim(_) | HomeWork::Note(_) => Vec::new(),
        }
    }

    pub(super) fn home_answered(&mut self, returned: HomeReturned) {
        let HomeReturned {
            work,
            answer,
            token,
        } = returned;
        self.home.calling = false;
        if let Some((slot, token)) = token
            && let Some(held) = self.slab.get_mut(slot)
        {
            held.put_redrive_token(token);
        }
        let slots = self.slots_of(&work);
        slots.iter().for_each(|slot| self.slab.call_back(*slot));
        match answer {
            Ok(answer) => {
                self.home.tries = 0;
                self.home_did(&work, slots, answer);
            }
            Err(fault) if fault.kind == FaultKind::NotParked => {
                self.inputs.push_back(Input::NotParked(slots));
            }
            Err(_)
                if planted::is(Plant::RecordNotKept) && matches!(work, HomeWork::Keep { .. }) =>
            {
                self.home_did(&work, slots, HomeAnswer::Kept);
            }
            Err(fault) if is_lost(&fault) && matches!(work, HomeWork::Finish { .. }) => {
                self.inputs.push_back(Input::SettleLost(slots));
            }
            Err(fault) => self.home_failed(work, &fault),
        }
    }

    fn home_did(&mut self, work: &HomeWork, slots: Vec<Slot>, answer: HomeAnswer) {
        match answer {
            // DURABILITY: the record is confirmed; now the message may be acknowledged. A crash between the two brings the message again, and
            // the store takes the same record once.
            HomeAnswer::Kept => {
                for slot in slots {
                    if self.has_token(slot) {
                        self.engine.settle(slot, Settle::Ack);
                    } else {
                        self.inputs.push_back(Input::Settled(vec![slot]));
                    }
                }
            }
            HomeAnswer::Finished(state) => {
                let key = slots.first().and_then(|s| self.parked_key(*s));
                self.inputs.push_back(Input::Settled(slots));
                if let (KeyState::Free, Some(key)) = (state, key) {
                    self.inputs.push_back(Input::KeyFree(key));
                }
            }
            HomeAnswer::Claimed(records) => {
                self.claimed(work, records.len() as u32);
                self.take_redriven(records);
            }
            HomeAnswer::Noted(state) => {
                if let HomeWork::Note(notes) = work {
                    self.noted(notes, &state);
                }
            }
        }
    }

    fn parked_key(&self, slot: Slot) -> Option<Bytes> {
        let held = self.slab.get(slot)?;
        match &held.from {
            From::Redrive(redrive) if redrive.record.parked => held.key.clone(),
            _ => None,
        }
    }

    /// Nothing is given up: what failed for good is held until its record is kept.
    fn home_failed(&mut self, work: HomeWork, fault: &Fault) {
        self.home.tries = self.home.tries.saturating_add(1);
        let wait = backoff(self.home.tries, self.runtime.entropy.next_u64());
        tracing::warn!(target: "postrider", subscription = %self.spec.id, %fault, ?wait, "the failure store did not take it; it is tried again");
        self.home.waits = true;
        self.alarm(self.later(wait), Alarm::Home);
        match work {
            HomeWork::Claim(_) => self.home.claim_wanted = true,
            HomeWork::Note(notes) => self.watch.put_back(notes),
            // ORDER: before everything that became due later.
            work => self.home.queue.push_front(work),
        }
    }

    /// As many as there was room for: there may be more. Fewer: the store is asked to say when there are. It may say so early, so a claim that gave
    /// nothing is followed by a pause that grows, lest a store that says so at once keeps the driver busy.
    fn claimed(&mut self, work: &HomeWork, count: u32) {
        self.home.room = self.home.room.saturating_sub(count);
        if matches!(work, HomeWork::Claim(room) if count == *room) {
            self.home.claim_wanted = true;
        } else if count > 0 {
            self.home.empty_claims = 0;
            self.watch_failures();
        } else {
            let pause = WATCH_PAUSE_MIN.saturating_mul(1 << self.home.empty_claims.min(10));
            self.home.empty_claims += 1;
            self.alarm(self.later(pause.min(WATCH_PAUSE_MAX)), Alarm::Watch);
        }
    }

    /// Waits for the failure store to have something to claim.
    pub(super) fn watch_failures(&mut self) {
        let Some(failures) = self.failures.clone() else {
            return;
        };
        let id = self.spec.id.clone();
        self.calls.push(Box::pin(async move {
            failures.changed(&id).await;
            Returned::FailuresChanged
        }));
    }

    /// Who asked is told that it failed. Best effort: a requester has a deadline of its own.
    fn reply_failure(&mut self, slot: Slot, cause: Cause) {
        let Some(held) = self.slab.get(slot) else {
            return;
        };
        let text = held
            .errors
            .first()
            .map_or("failed for good", String::as_str);
        let delivery = held.delivery.as_ref();
        let reply = delivery.and_then(|d| crate::request::error_reply(d, cause.code(), text));
        let Some(reply) = reply else { return };
        let publisher = Arc::clone(&self.runtime.publisher);
        self.calls.push(Box::pin(async move {
            Returned::Replied(publisher.publish(vec![reply]).await)
        }));
    }
}

fn attempts_before(held: &Held) -> u32 {
    match &held.from {
        From::Redrive(redrive) => redrive.record.draft.facts.attempts,
        _ => 0,
    }
}

async fn call(
    failures: &dyn FailureStore,
    id: &SubscriptionId,
    member: InstanceId,
    work: HomeWork,
    note: Option<CrashNote>,
) -> Result<HomeAnswer, Fault> {
    if let Some(note) = note {
        return Ok(HomeAnswer::Noted(failures.note_crash(id, note).await?));
    }
    match work {
        HomeWork::Keep { draft, park, .. } => {
            match park {
                Some(key) => failures.park(id, key, vec![*draft]).await?,
                None => failures.append(id, vec![*draft]).await?,
            };
            Ok(HomeAnswer::Kept)
        }
        HomeWork::Follow { key, drafts, .. } => {
            failures.park(id, key, drafts).await?;
            Ok(HomeAnswer::Kept)
        }
        // Without a token there is nothing to finish, and what is to be noted was made above.
        HomeWork::Finish { .. } | HomeWork::Note(_) => Ok(HomeAnswer::Kept),
        HomeWork::Claim(room) => Ok(HomeAnswer::Claimed(failures.claim(id, member, room).await?)),
    }
}
