//! The task that reads a bus's inbox and hands answers to the requests that wait for them.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::fault::{Advice, Fault};
use postrider_core::settle::{Settle, SettleOp};
use postrider_core::source::{
    Commit, Credit, LeaseSource, LogEvent, LogSource, Position, Record, Source,
};
use tokio_util::sync::CancellationToken;

use super::Inbox;

/// How much the inbox takes at once.
const ROOM: Credit = Credit {
    messages: 256,
    bytes: 16 << 20,
};

/// How long it waits after a fault that names no wait of its own.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) fn spawn(source: Source, inbox: Arc<Inbox>, stop: CancellationToken) {
    let reading = Reading(inbox.clone());
    tokio::spawn(async move {
        let _reading = reading;
        let read = async {
            match source {
                Source::Lease(source) => lease(source, &inbox).await,
                Source::Log(source) => log(source, &inbox).await,
            }
        };
        let fault = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            fault = read => Some(fault),
        };
        if let Some(fault) = fault {
            tracing::warn!(%fault, "the inbox ended: what waits for an answer fails, the next request opens it again");
            inbox.end(&fault.to_string());
        }
    });
}

/// The task of an inbox: however it ends, whoever waits learns it at once.
struct Reading(Arc<Inbox>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.end("its task is gone");
    }
}

/// Reads until the source is finished, and says why.
async fn lease(mut source: Box<dyn LeaseSource>, inbox: &Inbox) -> Fault {
    let settler = source.settler();
    loop {
        let leased = match source.next(ROOM).await {
            Ok(leased) => leased,
            Err(fault) => match wait(fault).await {
                None => continue,
                Some(fault) => return fault,
            },
        };
        let mut ops = Vec::with_capacity(leased.len());
        for one in leased {
            give(one.record, inbox);
            ops.push(SettleOp {
                token: one.token,
                settle: Settle::Ack,
            });
        }
        // An acknowledgement that is lost brings an answer twice; the second counts as late.
        settler.settle(ops).await;
    }
}

async fn log(mut source: Box<dyn LogSource>, inbox: &Inbox) -> Fault {
    loop {
        let event = match source.next(ROOM).await {
            Ok(event) => event,
            Err(fault) => match wait(fault).await {
                None => continue,
                Some(fault) => return fault,
            },
        };
        let done = match event {
            LogEvent::Records { at, records } => {
                let last = records.last().map(|r| r.position);
                records.into_iter().for_each(|r| give(r, inbox));
                let watermark = last.map(|p| Position(p.saturating_add(1)));
                watermark.map(|watermark| (at, watermark))
            }
            LogEvent::Revoking { at, .. } => {
                // Nothing is held: there is nothing to finish.
                let _ = source.revoked(at).await;
                None
            }
            LogEvent::Committed(results) => {
                for fault in results.into_iter().filter_map(|(_, stored)| stored.err()) {
                    tracing::debug!(%fault, "the inbox's position was not stored");
                }
                None
            }
            _ => None,
        };
        if let Some((at, watermark)) = done {
            let commit = Commit {
                watermark,
                done_above: Vec::new(),
            };
            source.commit(vec![(at, commit)]);
        }
    }
}

fn give(record: Record, inbox: &Inbox) {
    match record.content {
        Ok((envelope, payload)) => inbox.deliver(envelope, payload),
        Err(malformed) => tracing::warn!(%malformed, "an answer cannot be read"),
    }
}

/// Waits as the fault says; gives it back where waiting cannot help.
async fn wait(fault: Fault) -> Option<Fault> {
    let pause = match fault.advice {
        Advice::Retry { after } => after.max(PAUSE),
        Advice::Reconnect | Advice::Rebalance => PAUSE,
        _ => return Some(fault),
    };
    tokio::time::sleep(pause).await;
    None
}
