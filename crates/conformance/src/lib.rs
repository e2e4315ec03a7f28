//! One suite for every engine: the promises of the delivery contract as cases, run against the real server.
//!
//! **Is**: cases ([`CASES`]), each a function over the public contract alone (`Service`, `Bus` and what an [`Engine`](postrider::Engine) says of
//! itself), a [`Subject`] that the author of an engine writes, histories of what handlers saw, and checkers of these.
//!
//! **Is not**: a test of one engine's inside. What a case cannot ask of an engine is skipped, and a skip is data with a reason ([`Verdict::Skipped`]).
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use postrider_conformance::{case, run, subjects::Embedded};
//!
//! let subject = Embedded::in_memory();
//! let verdict = run(case("c2_no_ack_redelivers").expect("it is in the list"), &subject).await;
//! assert!(verdict.is_passed(), "{verdict}");
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Members of a service live in this process. A *crash* is a member that is dropped: its handlers end at their next `await`, nothing is settled, its
//! connection goes away. What a process that is killed leaves beyond that (a session that must time out) is what `postrider demo --kills` shows.

mod cases;
mod history;
mod member;
mod subject;
pub mod subjects;
mod verdict;

pub use cases::{CASES, Case, case, run};
pub use history::{Anomaly, Event, History, What};
pub use subject::Subject;
pub use verdict::{Findings, Verdict};
