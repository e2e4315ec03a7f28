//! What came in becomes held, and is told to the kernel.

use bytes::Bytes;
use postrider_core::carriage;
use postrider_core::clock::Timestamp;
use postrider_core::failure::Redriven;
use postrider_core::id::MessageId;
use postrider_core::planted::{self, Plant};
use postrider_core::source::{Leased, LogEvent, Position, Record, ShardEpoch};
use postrider_kernel::{Incoming, Input, Origin};

use super::error::DriverError;
use super::held::{Doing, From, Held, Redrive};
use super::run::Driver;
use crate::failures::error_chain;

/// What the driver finds out about a message before the kernel sees it.
struct Look {
    id: MessageId,
    retry: u16,
    unreadable: bool,
    skip: bool,
}

impl Driver {
    pub(super) fn take_leased(&mut self, leased: Vec<Leased>) {
        self.source_works();
        let mut incoming = Vec::with_capacity(leased.len());
        for leased in leased {
            let deliveries = leased.deliveries;
            let origin = Origin::Lease {
                until: leased.until,
            };
            let token = From::Lease(Some(leased.token));
            let mut one = self.take_record(leased.record, token, origin);
            one.deliveries = deliveries;
            one.key_parked |= leased.key_parked;
            incoming.push(one);
        }
        if !incoming.is_empty() {
            self.inputs.push_back(Input::Messages(incoming));
        }
    }

    pub(super) fn take_log_event(&mut self, event: LogEvent) {
        self.source_works();
        match event {
            LogEvent::Assigned { at, resume } => {
                self.inputs.push_back(Input::Assigned { at, resume })
            }
            LogEvent::Records { at, records } => self.take_records(at, records),
            LogEvent::Revoking { at, deadline } => {
                self.inputs.push_back(Input::Revoking { at, deadline });
            }
            LogEvent::Lost { at } => {
                self.commits.remove(&at);
                self.committing.remove(&at);
                self.inputs.push_back(Input::Lost { at });
            }
            LogEvent::DataLoss { at, asked, first } => self.fail(DriverError::DataLoss {
                subscription: self.spec.id.clone(),
                shard: at.shard,
                asked: asked.0,
                first: first.0,
            }),
            LogEvent::Committed(results) => self.shards_committed(results),
            LogEvent::Idle => {}
        }
    }

    fn take_records(&mut self, at: ShardEpoch, records: Vec<Record>) {
        let mut incoming = Vec::with_capacity(records.len());
        for record in records {
            let position = Position(record.position);
            incoming.push(self.take_record(record, From::Log(at), Origin::Log { at, position }));
        }
        if !incoming.is_empty() {
            self.inputs.push_back(Input::Messages(incoming));
        }
    }

    fn take_record(&mut self, record: Record, from: From, origin: Origin) -> Incoming {
        let key = record.key().cloned();
        let size = record.raw.size() as u64;
        self.credit.messages = self.credit.messages.saturating_sub(1);
        self.credit.bytes = self.credit.bytes.saturating_sub(size);
        let now = self.runtime.clock.wall();
        let mut held = Held {
            from,
            content: None,
            raw: record.raw,
            key: key.clone(),
            position: record.position,
            first_seen: now,
            handler: None,
            errors: Vec::new(),
            delivery: None,
            doing: Doing::Nothing,
            run: 0,
            cancelled: false,
            calls: 0,
            forgotten: false,
        };
        match record.content {
            Ok(content) => held.content = Some(content),
            Err(malformed) => held.errors = error_chain(&malformed),
        }
        let look = self.look(&mut held, now);
        let mut one = self.incoming(held, look, origin);
        one.key_parked = one.key.as_ref().is_some_and(|key| self.is_parked(key));
        one
    }

    /// ORDER: another member may have parked the key since this one was opened. It had settled what it held of the key before this member was
    /// given more of it, so that the answer is of now.
    fn is_parked(&self, key: &Bytes) -> bool {
        let asks =
            self.policy.ordered && !self.failures_in_engine && !planted::is(Plant::ParkedNotAsked);
        let failures = self.failures.as_ref().filter(|_| asks);
        failures.is_some_and(|failures| failures.is_parked(&self.spec.id, key))
    }

    /// Records that a person sent back to the handler.
    pub(super) fn take_redriven(&mut self, redriven: Vec<Redriven>) {
        let mut incoming = Vec::with_capacity(redriven.len());
        let now = self.runtime.clock.wall();
        for Redriven { record, token } in redriven {
            self.metrics.redriven.add(1);
            let draft = &record.draft;
            let (raw, key, facts) = (draft.raw.clone(), draft.key.clone(), &draft.facts);
            let content = carriage::read(&raw);
            let parked = record.parked;
            let mut held = Held {
                content: None,
                raw,
                key,
                position: facts.position,
                first_seen: facts.first_seen,
                handler: None,
                errors: Vec::new(),
                delivery: None,
                doing: Doing::Nothing,
                run: 0,
                cancelled: false,
                calls: 0,
                forgotten: false,
                from: From::Redrive(Box::new(Redrive {
                    token: Some(token),
                    record,
                })),
            };
            match content {
                Ok(content) => held.content = Some(content),
                Err(malformed) => held.errors = error_chain(&malformed),
            }
            let look = self.look(&mut held, now);
            let mut one = self.incoming(held, look, Origin::Redrive);
            one.key_parked = parked;
            incoming.push(one);
        }
        if !incoming.is_empty() {
            self.inputs.push_back(Input::Messages(incoming));
        }
    }

    fn incoming(&mut self, held: Held, look: Look, origin: Origin) -> Incoming {
        Incoming {
            origin,
            id: look.id,
            key: held.key.clone(),
            size: held.raw.size() as u64,
            retry: look.retry,
            deliveries: None,
            key_parked: false,
            unreadable: look.unreadable,
            skip: look.skip,
            seen_at: held.first_seen,
            slot: self.slab.insert(held),
        }
    }

    /// Finds the handler. A type without one is acknowledged, and so is a message whose deadline has passed; but what a person sent back is
    /// never dropped silently: it fails again, with the reason.
    fn look(&self, held: &mut Held, now: Timestamp) -> Look {
        let redriven = held.is_redriven();
        let Some((envelope, _)) = &held.content else {
            let stand_in = format!("{}/{}", self.spec.id, held.position);
            return Look {
                id: MessageId::parse_or_hash(&stand_in),
                retry: 0,
                unreadable: true,
                skip: false,
            };
        };
        let mut look = Look {
            id: envelope.id,
            retry: 0,
            unreadable: false,
            skip: false,
        };
        match self.router.find(&envelope.message_type) {
            Some(route) => {
                look.retry = route.retry;
                held.handler = Some(route.handler.clone());
                let expired = envelope.expires_at.is_some_and(|at| at <= now);
                if expired && !redriven {
                    self.metrics.expired.add(1);
                    look.skip = true;
                }
            }
            None if redriven => {
                let text = format!(
                    "nobody here handles the type `{}` any more",
                    envelope.message_type
                );
                held.errors = vec![text];
                look.unreadable = true;
            }
            None => {
                self.metrics.unhandled_types.add(1);
                look.skip = true;
            }
        }
        look
    }
}
