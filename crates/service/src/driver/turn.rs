//! One turn: feed the kernel, do what it says, make the calls that became due.

use postrider_core::clock::backoff;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::source::{Commit, ShardEpoch, Source};
use postrider_kernel::Input;

use super::calls::Returned;
use super::error::DriverError;
use super::run::{Alarm, Driver};

impl Driver {
    /// Feeds the kernel until it wants nothing more, then makes the calls. The only `await` in it gives a log source's shards back, which needs the source.
    pub(super) async fn turn(&mut self) {
        loop {
            self.feed();
            self.call_publisher();
            self.call_home();
            self.call_engine();
            if self.inputs.is_empty() {
                self.commit_log().await;
            }
            if self.inputs.is_empty() {
                break;
            }
        }
        self.note_status();
    }

    fn feed(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let now = self.now();
            self.kernel.handle(now, input);
            while let Some(output) = self.kernel.poll_output() {
                self.act(output);
            }
        }
    }

    pub(super) fn call_returned(&mut self, returned: Returned) {
        match returned {
            Returned::Settled(slots, results) => self.settled(slots, results),
            Returned::Extended(tokens, results) => self.extended(tokens, results),
            Returned::Published(deliveries, results) => self.publish_returned(deliveries, results),
            Returned::Committed(deliveries, result) => self.committed(deliveries, result),
            Returned::Home(returned) => self.home_answered(*returned),
            Returned::FailuresChanged => self.home.claim_wanted = true,
            Returned::Replied(results) => {
                for fault in results.into_iter().filter_map(Result::err) {
                    tracing::debug!(target: "postrider", %fault, "an error reply was not taken");
                }
            }
        }
    }

    async fn commit_log(&mut self) {
        let now = self.now();
        let waits = self
            .alarms
            .iter()
            .any(|(at, a)| *a == Alarm::Commit && *at > now);
        if waits {
            return;
        }
        self.commit_shards();
        for at in std::mem::take(&mut self.revoked) {
            self.tell_revoked(at).await;
        }
    }

    /// One call for all shards that have something new; the source says later what became of it.
    fn commit_shards(&mut self) {
        let Source::Log(source) = &mut self.source else {
            return;
        };
        let due = std::mem::take(&mut self.commits);
        if due.is_empty() {
            return;
        }
        let commits = due.iter().map(|(at, (commit, _))| (*at, commit.clone()));
        source.commit(commits.collect());
        self.committing.extend(due);
    }

    pub(super) fn shards_committed(&mut self, results: Vec<(ShardEpoch, Result<(), Fault>)>) {
        for (at, stored) in results {
            // Of an ownership that is over nobody waits for it.
            if let Some((commit, tries)) = self.committing.remove(&at) {
                self.shard_committed(at, commit, tries, stored);
            }
        }
    }

    fn shard_committed(
        &mut self,
        at: ShardEpoch,
        commit: Commit,
        tries: u32,
        stored: Result<(), Fault>,
    ) {
        let fault = match stored {
            Ok(()) => {
                self.inputs.push_back(Input::Committed { at, stored: true });
                return;
            }
            Err(fault) => fault,
        };
        let stops = fault.advice == Advice::StopOwner;
        if stops || fault.kind == FaultKind::Fenced {
            self.inputs
                .push_back(Input::Committed { at, stored: false });
        }
        if stops {
            let subscription = self.spec.id.clone();
            self.fail(DriverError::Source {
                subscription,
                fault,
            });
            return;
        }
        if fault.kind == FaultKind::Fenced {
            return;
        }
        let wait = backoff(tries + 1, self.runtime.entropy.next_u64());
        tracing::warn!(target: "postrider", subscription = %self.spec.id, shard = at.shard, %fault, ?wait, "a commit was not stored; it is made again");
        self.commits.insert(at, (commit, tries + 1));
        self.alarm(self.later(wait), Alarm::Commit);
    }

    async fn tell_revoked(&mut self, at: ShardEpoch) {
        let Source::Log(source) = &mut self.source else {
            return;
        };
        // An error means that it was taken away meanwhile: `Lost` comes, or has come.
        if let Err(fault) = source.revoked(at).await {
            tracing::debug!(target: "postrider", %fault, shard = at.shard, "a shard was gone before it was given back");
        }
    }
}
