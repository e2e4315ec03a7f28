//! Calls of engine and failure store that are outstanding, and what they came back with.

use postrider_core::clock::Mono;
use postrider_core::crash::CrashState;
use postrider_core::engine::{CommitError, Receipt};
use postrider_core::failure::{FinishError, KeyState, RedriveToken, Redriven};
use postrider_core::fault::Fault;
use postrider_core::settle::{LeaseToken, SettleError};
use postrider_kernel::Slot;

use super::home_lane::HomeWork;

/// A delivery whose effects are in a call: which, which run of its handler, how many messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effected {
    pub(super) slot: Slot,
    pub(super) run: u64,
    pub(super) count: usize,
}

/// A call that came back.
pub(super) enum Returned {
    Settled(Vec<Slot>, Vec<Result<(), SettleError>>),
    Extended(Vec<(Slot, LeaseToken)>, Vec<Result<Mono, Fault>>),
    Published(Vec<Effected>, Vec<Result<Receipt, Fault>>),
    Committed(Vec<Effected>, Result<Vec<Receipt>, CommitError>),
    /// The failure store's answer to a piece of work.
    Home(Box<HomeReturned>),
    /// The failure store has something to claim.
    FailuresChanged,
    /// A reply to a request that failed was sent, or not.
    Replied(Vec<Result<Receipt, Fault>>),
}

/// A piece of work for the failure store that came back.
pub(super) struct HomeReturned {
    pub(super) work: HomeWork,
    pub(super) answer: Result<HomeAnswer, Fault>,
    /// The token of a claim that was not ended, to try again with.
    pub(super) token: Option<(Slot, RedriveToken)>,
}

impl HomeReturned {
    pub(super) fn finished(
        slot: Slot,
        finished: Result<KeyState, FinishError>,
        work: HomeWork,
    ) -> Self {
        let (answer, token) = match finished {
            Ok(state) => (Ok(HomeAnswer::Finished(state)), None),
            Err(FinishError { fault, token }) => (Err(fault), Some((slot, token))),
        };
        Self {
            work,
            answer,
            token,
        }
    }
}

/// What the failure store did.
pub(super) enum HomeAnswer {
    Kept,
    Finished(KeyState),
    Claimed(Vec<Redriven>),
    /// What is known of crashes after a note.
    Noted(CrashState),
}
