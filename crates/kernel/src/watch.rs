//! Messages that may have killed a process: asked for before they are handled, held back while they are suspects, set aside when condemned.
//!
//! Only a message that was handed out before is watched. Where the engine does not count hand-overs, the first of an ownership (as many as the window
//! takes) may have been handed out. What answers is [`Suspects`](crate::Suspects), by way of the driver; meanwhile all other lanes go on.

use std::time::Duration;

use postrider_core::id::MessageId;

use crate::dispatch::Entry;
use crate::io::{Incoming, Origin, Output, Slot, Verdict};
use crate::kernel::{Kernel, Phase};
use crate::message::{Message, State};
use crate::timers::Alarm;

/// How a message is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Not at all: it was not handed out before, or its handler has ended since.
    No,
    /// It is asked for before it is handled.
    Candidate,
    /// It was asked for: it keeps its turn and a place among the handlers.
    Asked,
    /// It is a suspect: it was told to wait, and is asked for again.
    Suspect,
    /// It is noted as being in a handler.
    Noted,
    /// It is set aside when its turn comes.
    Condemned,
}

impl Kernel {
    /// Whether a message that comes in is watched.
    pub(crate) fn watch_of(&mut self, incoming: &Incoming) -> Watch {
        if !self.config.failure_store || incoming.skip || incoming.unreadable {
            return Watch::No;
        }
        let first_max = self.config.policy.limits.window_messages_max;
        let came_back = match (incoming.origin, incoming.deliveries) {
            (Origin::Redrive, _) => true,
            (_, Some(deliveries)) => deliveries > 0,
            (Origin::Lease { .. }, None) => {
                self.uncounted = self.uncounted.saturating_add(1);
                self.uncounted <= first_max
            }
            (Origin::Log { at, .. }, None) => self.shards.get_mut(&at.shard).is_some_and(|shard| {
                shard.received = shard.received.saturating_add(1);
                shard.received <= first_max
            }),
        };
        if came_back {
            Watch::Candidate
        } else {
            Watch::No
        }
    }

    /// Whether it is to be asked for before it is handled.
    pub(crate) fn must_ask(&self, slot: Slot) -> bool {
        let watch = self.messages.at(slot).watch;
        matches!(watch, Watch::Candidate | Watch::Suspect) && !self.unfit(slot)
    }

    /// Asks for a message whose turn it is.
    pub(crate) fn ask(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        message.watch = Watch::Asked;
        let id = message.id;
        self.asking += 1;
        self.out.push(Output::Ask { slot, id });
    }

    pub(crate) fn answered(&mut self, slot: Slot, id: MessageId, verdict: Verdict) {
        let asked = |m: &&mut Message| m.id == id && m.watch == Watch::Asked;
        let Some(message) = self.messages.get_mut(slot).filter(asked) else {
            // It was taken away meanwhile.
            self.gone(id, false);
            return;
        };
        self.asking -= 1;
        let waits = message.state == State::Queued;
        message.watch = match verdict {
            Verdict::Go => Watch::Noted,
            Verdict::Hold(_) => Watch::Suspect,
            Verdict::Condemned => Watch::Condemned,
        };
        match verdict {
            Verdict::Hold(wait) if waits && self.is_accepting() => self.suspend(slot, wait),
            Verdict::Go | Verdict::Condemned if self.is_its_turn(slot) => {
                // While a dependency is down, it is the probe that goes.
                if self.outages.is_empty() {
                    self.start(slot);
                }
            }
            Verdict::Go => {
                self.messages.at_mut(slot).watch = Watch::Candidate;
                self.gone(id, false);
                self.line_up_again(slot);
            }
            Verdict::Hold(_) | Verdict::Condemned => self.line_up_again(slot),
        }
    }

    /// Whether a message that was asked for may be handled now that the answer is here.
    fn is_its_turn(&self, slot: Slot) -> bool {
        let message = self.messages.at(slot);
        let first = match message.lane {
            Some(lane) => self.head(lane) == Some(slot),
            None => message.state == State::Queued,
        };
        let open = self.phase == Phase::Open && !self.paused && !self.stopped;
        open && first && (self.outages.is_empty() || self.outages.is_probe(slot))
    }

    /// A suspect waits, and its lane with it. It burns no attempt and needs no token of the retry budget.
    fn suspend(&mut self, slot: Slot, wait: Duration) {
        let until = self.now.plus(wait);
        let message = self.messages.at_mut(slot);
        message.state = State::Waiting;
        message.retry_at = Some(until);
        let lane = message.lane;
        self.timers.set(until, Alarm::Retry(slot));
        match lane {
            Some(lane) => {
                self.lanes.set_blocked(lane, true);
                self.relieve_lane(lane);
            }
            None => self.free_blocked += 1,
        }
    }

    /// A suspect has waited: it is asked for again when its turn comes.
    pub(crate) fn suspect_waited(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        message.state = State::Queued;
        let lane = message.lane;
        self.unblocked(lane);
        self.line_up_again(slot);
    }

    /// Gives a turn to a message that is where it was, if it still waits for one.
    fn line_up_again(&mut self, slot: Slot) {
        let message = self.messages.at(slot);
        if message.state != State::Queued {
            return;
        }
        match message.lane {
            Some(lane) => self.maybe_ready(lane),
            None => self.ready.push_back(Entry::Free(message.seq, slot)),
        }
    }

    /// A condemned message was set aside, for good or until a person sends it back: then it is watched anew.
    pub(crate) fn set_aside_condemned(&mut self, slot: Slot) {
        let message = self.messages.at_mut(slot);
        message.watch = Watch::No;
        let id = message.id;
        self.gone(id, true);
    }

    /// A message leaves the kernel: what was said of it does not hold any more.
    pub(crate) fn unwatch(&mut self, message: &Message) {
        match message.watch {
            Watch::No | Watch::Candidate => {}
            // The answer is still to come, and finds it gone.
            Watch::Asked => self.asking -= 1,
            Watch::Suspect | Watch::Condemned => self.gone(message.id, false),
            Watch::Noted => {
                let given_up = matches!(message.state, State::Running { .. });
                self.gone(message.id, given_up);
            }
        }
    }

    pub(crate) fn gone(&mut self, id: MessageId, ended: bool) {
        self.going += 1;
        self.out.push(Output::Gone { id, ended });
    }

    pub(crate) fn count_suspects(&self) -> u64 {
        let suspects = self.messages.slots().map(|slot| self.messages.at(slot));
        suspects.filter(|m| m.watch == Watch::Suspect).count() as u64
    }
}
