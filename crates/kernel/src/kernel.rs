//! The machine itself: its state, what it does with each input, and what it does after each.

use std::collections::{BTreeMap, HashSet, VecDeque};

use bytes::Bytes;
use postrider_core::clock::{Mono, SplitMix64};

use crate::config::{CANCEL_GRACE, Config};
use crate::credit::{Tap, Window};
use crate::dispatch::Entry;
use crate::io::{Input, Output, Slot};
use crate::lane::{LaneId, Lanes};
use crate::message::{Message, Messages};
use crate::outage::Outages;
use crate::outbox::Outbox;
use crate::retry::Budget;
use crate::shard::Shard;
use crate::timers::{Alarm, Timers};

/// Where the kernel stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for [`Input::Opened`].
    New,
    Open,
    Draining {
        deadline: Mono,
        cancelled: bool,
    },
    Drained,
}

/// The delivery state machine of one opened source. Not shared, not thread-safe by itself: one owner drives it.
///
/// ```
/// use std::time::Duration;
/// use postrider_core::clock::Mono;
/// use postrider_core::policy::Policy;
/// use postrider_kernel::{Config, Input, Kernel, Output};
///
/// let mut kernel = Kernel::new(Config::lease(Policy::default(), Some(Duration::from_secs(30))), 7);
/// kernel.handle(Mono::default(), Input::Opened { parked: vec![] });
/// assert!(matches!(kernel.poll_output(), Some(Output::Credit { .. })));
/// assert_eq!(kernel.poll_output(), None);
/// ```
#[derive(Debug)]
pub struct Kernel {
    pub(crate) config: Config,
    pub(crate) rng: SplitMix64,
    pub(crate) now: Mono,
    pub(crate) phase: Phase,
    /// A person paused it.
    pub(crate) paused: bool,
    /// It stopped itself.
    pub(crate) stopped: bool,
    pub(crate) out: Outbox,
    pub(crate) messages: Messages,
    pub(crate) lanes: Lanes,
    /// Whose turn it is: each lane at most once, each free message once.
    pub(crate) ready: VecDeque<Entry>,
    /// Retries that wait for a token, with the sequence that tells a stale entry.
    pub(crate) due: VecDeque<(u64, Slot)>,
    /// Lanes whose staged messages may be parked at the end of this input.
    pub(crate) to_park: VecDeque<LaneId>,
    /// Free messages that are backing off.
    pub(crate) free_blocked: u32,
    pub(crate) running: u32,
    /// Keys that are parked, as far as is known: a wrong yes is corrected by `NotParked`.
    pub(crate) parked: HashSet<Bytes>,
    pub(crate) budget: Budget,
    /// Messages that were asked for and not answered yet: each keeps a place among the handlers.
    pub(crate) asking: u32,
    /// `Gone` that are not stored yet.
    pub(crate) going: u32,
    /// Messages that came in without a count of hand-overs, of a lease source.
    pub(crate) uncounted: u32,
    pub(crate) outages: Outages,
    pub(crate) shards: BTreeMap<u32, Shard>,
    pub(crate) window: Window,
    pub(crate) timers: Timers,
}

impl Kernel {
    /// A kernel that waits for [`Input::Opened`]. The seed decides the jitter, nothing else.
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        assert!(
            !config.policy.retries.is_empty(),
            "a policy has a retry rule"
        );
        assert!(
            config.policy.limits.concurrency > 0,
            "a subscription runs at least one handler"
        );
        let limits = config.policy.limits;
        Self {
            rng: SplitMix64::new(seed),
            now: Mono::default(),
            phase: Phase::New,
            paused: false,
            stopped: false,
            out: Outbox::default(),
            messages: Messages::default(),
            lanes: Lanes::new(&limits),
            ready: VecDeque::new(),
            due: VecDeque::new(),
            to_park: VecDeque::new(),
            free_blocked: 0,
            running: 0,
            parked: HashSet::new(),
            budget: Budget::new(config.policy.budget),
            asking: 0,
            going: 0,
            uncounted: 0,
            outages: Outages::default(),
            shards: BTreeMap::new(),
            window: Window::new(&limits, config.redrive_messages_max()),
            timers: Timers::default(),
            config,
        }
    }

    /// Takes an input at a time. Time never goes back: an earlier one counts as the latest that was seen.
    ///
    /// # Panics
    /// On a driver that breaks the contract: an input before `Opened`, a slot that is in use, more messages than were granted.
    pub fn handle(&mut self, now: Mono, input: Input) {
        self.now = self.now.max(now);
        if self.phase == Phase::Drained {
            return;
        }
        let opens = matches!(input, Input::Opened { .. });
        assert!(
            opens == (self.phase == Phase::New),
            "`Opened` is the first input, and comes once"
        );
        self.apply(input);
        self.tick();
        self.settle_down();
    }

    /// The next thing to do, in order. `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    fn apply(&mut self, input: Input) {
        match input {
            Input::Opened { parked } => {
                self.phase = Phase::Open;
                self.parked.extend(parked);
            }
            Input::Messages(incoming) => incoming.into_iter().for_each(|m| self.receive(m)),
            Input::Finished { slot, outcome } => self.handler_ended(slot, outcome),
            Input::Timer => {}
            Input::Extended { slots, until } => self.extended(&slots, until),
            Input::LeaseLost(slots) => self.lease_lost(&slots),
            Input::Settled(slots) => slots.into_iter().for_each(|slot| self.settled(slot)),
            Input::SettleLost(slots) => self.settle_lost(&slots),
            Input::NotParked(slots) => self.not_parked(&slots),
            Input::KeyFree(key) => self.key_free(&key),
            Input::Answer { slot, id, verdict } => self.answered(slot, id, verdict),
            Input::GoneNoted(count) => self.going = self.going.saturating_sub(count),
            Input::Assigned { at, resume } => self.assigned(at, &resume),
            Input::Revoking { at, deadline } => self.revoking(at, deadline),
            Input::Lost { at } => self.shard_lost(at),
            Input::Committed { at, stored } => self.committed(at, stored),
            Input::Available(dependency) => self.outages.available(&dependency),
            Input::Pause => self.pause(),
            Input::Resume => self.paused = false,
            Input::Drain { deadline } => self.drain(deadline),
        }
    }

    /// Everything whose time has come.
    fn tick(&mut self) {
        while let Some(alarm) = self.timers.pop(self.now) {
            match alarm {
                Alarm::Retry(slot) => self.backoff_over(slot),
                Alarm::Gap(lane) => self.gap_over(lane),
                Alarm::Shard(shard) => self.revoke_deadline(shard),
            }
        }
        self.extend_leases();
        self.release_in_outage();
        self.drain_deadline();
    }

    /// What follows from any input.
    fn settle_down(&mut self) {
        self.relieve_window();
        while let Some(lane) = self.to_park.pop_front() {
            self.park_staged(lane);
        }
        self.pump_due();
        self.dispatch();
        self.commit_shards();
        self.maybe_drained();
        if self.phase == Phase::Drained {
            return;
        }
        let tap = if !self.is_accepting() || self.stopped || !self.outages.is_empty() {
            Tap::Closed
        } else if self.due.is_empty() {
            Tap::Open
        } else {
            Tap::Throttled
        };
        if let Some((source, redrive)) = self.window.regrant(tap) {
            self.out.credit(source, redrive);
        }
        self.arm();
    }

    /// Tells the driver when to call again, if that is sooner than it knows. A timer that rings too early does no harm, and leases that move
    /// all the time would make this chatty.
    fn arm(&mut self) {
        if self.timers.armed.is_some_and(|at| at <= self.now) {
            self.timers.armed = None;
        }
        let outage = (!self.outages.is_empty())
            .then(|| self.outage_alarm())
            .flatten();
        let token = if self.due.is_empty() {
            None
        } else {
            self.budget.next_at()
        };
        let drain = match self.phase {
            Phase::Draining {
                deadline,
                cancelled: false,
            } => Some(deadline),
            Phase::Draining {
                deadline,
                cancelled: true,
            } => Some(deadline.plus(CANCEL_GRACE)),
            _ => None,
        };
        let next = [self.timers.next(), outage, token, drain]
            .into_iter()
            .flatten()
            .min();
        if let Some(next) = next
            && self.timers.armed.is_none_or(|armed| next < armed)
        {
            self.timers.armed = Some(next);
            self.out.timer(Some(next));
        }
    }

    /// Messages are taken in and handled.
    pub(crate) fn is_accepting(&self) -> bool {
        self.phase == Phase::Open && !self.paused
    }

    /// The kernel is through with a message.
    pub(crate) fn forget(&mut self, slot: Slot) {
        let Some(message) = self.messages.remove(slot) else {
            return;
        };
        self.disarm(&message);
        self.window.leave(message.size, message.is_redriven());
        self.unwatch(&message);
        if message.lane.is_none() && message.is_backing_off() {
            self.free_blocked -= 1;
        }
        if let Some(lane) = message.lane {
            self.lanes.leave(lane, message.size);
        }
        self.outages.forget(message.slot, self.now);
        self.out.push(Output::Forget(slot));
    }

    fn disarm(&mut self, message: &Message) {
        if let Some(at) = message.retry_at {
            self.timers.cancel(at, Alarm::Retry(message.slot));
        }
        if let Some(at) = message.lease_at {
            self.timers.leases.remove(&(at, message.slot));
        }
    }
}
