//! What a source's tasks, its `next` and its settlers share.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::Channel;
use lapin::message::Delivery;
use parking_lot::Mutex;
use postrider_core::fault::Fault;
use postrider_core::settle::LeaseToken;
use postrider_core::source::{Credit, Leased, Record};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::closed;
use crate::headers;

/// Numbers channels over the whole process: no two tokens are ever taken for each other.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

pub(super) struct Shared {
    state: Mutex<State>,
    /// Something can be handed over.
    pub(super) ready: Notify,
    /// A generation ended.
    pub(super) lost: Notify,
    /// A shard's task has something to look at.
    pub(super) wake: Notify,
}

struct State {
    shards: Vec<Shard>,
    /// The shard to begin with: they take turns.
    turn: usize,
    lost: Vec<u64>,
    fault: Option<Fault>,
    closed: bool,
}

#[derive(Default)]
struct Shard {
    open: Option<Open>,
    /// The channel was given up because nobody asks for messages: it is opened when somebody does.
    idle: bool,
}

struct Open {
    generation: u64,
    channel: Channel,
    /// Delivered to this process and not handed over.
    buffer: VecDeque<(u64, Record)>,
    /// Handed over and not settled, with those that were released.
    held: u32,
    /// Of these, released: they go back with the channel.
    released: u32,
    /// When something was handed over last, or began to wait.
    moved: Instant,
}

/// What a shard's task does about its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Stay,
    /// Give all back and take it again.
    Recycle,
    /// Give all back, since nobody asks.
    Idle,
    Closed,
}

impl Shared {
    pub(super) fn new(shards: usize) -> Self {
        let mut state = State {
            shards: Vec::new(),
            turn: 0,
            lost: Vec::new(),
            fault: None,
            closed: false,
        };
        state.shards.resize_with(shards, Shard::default);
        Self {
            state: Mutex::new(state),
            ready: Notify::new(),
            lost: Notify::new(),
            wake: Notify::new(),
        }
    }

    /// What there is room for; `None`: nothing now.
    pub(super) fn take(&self, room: Credit) -> Option<Result<Vec<Leased>, Fault>> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.closed {
            return Some(Err(closed()));
        }
        let mut woken = false;
        for shard in &mut state.shards {
            woken |= std::mem::take(&mut shard.idle);
        }
        if woken {
            self.wake.notify_waiters();
        }
        let mut out = Vec::new();
        let (mut messages, mut bytes) = (room.messages, room.bytes);
        let count = state.shards.len();
        for offset in 0..count {
            let index = (state.turn + offset) % count;
            let Some(open) = &mut state.shards[index].open else {
                continue;
            };
            open.hand_over(&mut messages, &mut bytes, &mut out);
            if messages == 0 || bytes == 0 {
                state.turn = index + 1;
                break;
            }
        }
        if !out.is_empty() {
            return Some(Ok(out));
        }
        // One shard that cannot be consumed must not slow the others: its task tries again, and has said so.
        let fault = state.fault.take()?;
        let none_open = state.shards.iter().all(|shard| shard.open.is_none());
        none_open.then_some(Err(fault))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_waiters();
        self.ready.notify_waiters();
        self.ready.notify_one();
    }

    /// A shard is consumed on this channel; gives the number of the channel.
    pub(super) fn opened(&self, index: usize, channel: Channel) -> u64 {
        let generation = GENERATIONS.fetch_add(1, Ordering::SeqCst);
        self.state.lock().shards[index].open = Some(Open {
            generation,
            channel,
            buffer: VecDeque::new(),
            held: 0,
            released: 0,
            moved: Instant::now(),
        });
        generation
    }

    pub(super) fn delivered(&self, index: usize, delivery: Delivery) {
        let record = headers::read(&delivery.properties, delivery.data);
        let mut state = self.state.lock();
        if let Some(open) = &mut state.shards[index].open {
            if open.buffer.is_empty() {
                open.moved = Instant::now();
            }
            open.buffer.push_back((delivery.delivery_tag, record));
        }
        drop(state);
        self.ready.notify_one();
    }

    /// The channel of a shard ended. One that was given up by [`Shared::look`] has nothing to lose any more.
    ///
    /// ORDER: said before the channel of the next generation is opened, so before anything of it is handed over.
    pub(super) fn ended(&self, index: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(open) = state.shards[index].open.take()
            && open.held > open.released
        {
            state.lost.push(open.generation);
            self.lost.notify_one();
        }
    }

    pub(super) fn take_lost(&self) -> Vec<u64> {
        std::mem::take(&mut self.state.lock().lost)
    }

    /// The next call of `next` says so; the task tries again all the same.
    pub(super) fn failed(&self, fault: Fault) {
        self.state.lock().fault = Some(fault);
        self.ready.notify_one();
    }

    /// The channel of a generation that has not ended.
    pub(super) fn channel_of(&self, generation: u64) -> Option<Channel> {
        let state = self.state.lock();
        let open = state.shards.iter().filter_map(|s| s.open.as_ref());
        let open = open.into_iter().find(|o| o.generation == generation)?;
        Some(open.channel.clone())
    }

    fn with_open(&self, generation: u64, change: impl FnOnce(&mut Open)) {
        let mut state = self.state.lock();
        let mut open = state.shards.iter_mut().filter_map(|s| s.open.as_mut());
        if let Some(open) = open.find(|o| o.generation == generation) {
            change(open);
            if open.goes_back() {
                self.wake.notify_waiters();
            }
        }
    }

    pub(super) fn settled(&self, generation: u64) {
        self.with_open(generation, |open| open.held = open.held.saturating_sub(1));
    }

    pub(super) fn release(&self, generation: u64) {
        self.with_open(generation, |open| open.released += 1);
    }

    pub(super) fn is_idle(&self, index: usize) -> bool {
        let state = self.state.lock();
        state.shards[index].idle && !state.closed
    }

    /// What the task of a shard does about its channel; `patience`: how long delivered messages may wait for somebody to ask. A shard that is to go
    /// back is not open any more at return, so that nothing of it is handed over meanwhile.
    pub(super) fn look(&self, index: usize, patience: Duration) -> Look {
        let mut state = self.state.lock();
        if state.closed {
            return Look::Closed;
        }
        let shard = &mut state.shards[index];
        let Some(open) = &shard.open else {
            return Look::Stay;
        };
        let look = open.look(patience);
        if look != Look::Stay {
            shard.open = None;
            shard.idle = look == Look::Idle;
        }
        look
    }
}

impl super::Held for Shared {
    fn held(&self) -> u64 {
        let state = self.state.lock();
        let open = state.shards.iter().filter_map(|s| s.open.as_ref());
        open.map(|o| u64::from(o.held) + o.buffer.len() as u64)
            .sum()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Open {
    fn look(&self, patience: Duration) -> Look {
        if self.goes_back() {
            return Look::Recycle;
        }
        let waits = self.held == 0 && !self.buffer.is_empty() && self.moved.elapsed() > patience;
        // Another member may have them, if this one has no room for them.
        match waits {
            true => Look::Idle,
            false => Look::Stay,
        }
    }

    /// Something was released, and nothing else is held.
    fn goes_back(&self) -> bool {
        self.released > 0 && self.held == self.released
    }

    /// ORDER: nothing more while something is to go back: it would be before what was handed over.
    fn hand_over(&mut self, messages: &mut u32, bytes: &mut u64, out: &mut Vec<Leased>) {
        while self.released == 0 && *messages > 0 && *bytes > 0 {
            let Some((tag, record)) = self.buffer.pop_front() else {
                return;
            };
            *messages -= 1;
            *bytes = bytes.saturating_sub(record.raw.size() as u64);
            self.held += 1;
            self.moved = Instant::now();
            out.push(Leased {
                record,
                token: LeaseToken {
                    position: tag,
                    generation: self.generation,
                },
                until: None,
                // The server counts hand-overs to a member, not handler starts: what waited here counts too.
                deliveries: None,
                key_parked: false,
            });
        }
    }
}
