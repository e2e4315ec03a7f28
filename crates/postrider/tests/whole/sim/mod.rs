//! The whole stack on a simulated disk and clock: publishers, services with their drivers and kernels, relays with their outboxes, the
//! embedded engine with its pump, the log. One seed is one small story: a few lives of one process, each ended by a power cut, a `kill -9`,
//! a failed write or sync, or a cut in the middle of a commit of a store or of the failure store beside the engine; meanwhile members come and go,
//! freeze for longer than their leases, and hear nothing of what the engine did. Then everything is mended, and everything must be there.
//!
//! **Deterministic**: one thread, tokio's paused time, one stream of chance. The same seed gives the same story.
//!
//! Waits are in virtual time (`start_paused`).

mod clock;
pub mod dead_letter;
mod home;
mod ledger;
mod life;
mod rot;
mod run;
mod scenario;
mod services;
mod store;

pub use run::{Failure, Outcome, run, shrink};
pub use scenario::Scenario;
