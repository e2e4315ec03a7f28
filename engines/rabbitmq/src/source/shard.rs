//! The task of one shard: a channel, a consumer on it, and another one when it is gone.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use postrider_core::fault::Fault;
use tokio::sync::watch;
use tokio::time::timeout;

use super::PREFETCH;
use super::state::{Look, Shared};
use crate::error::fault;
use crate::link::{Link, backoff};

/// How long messages may wait here for a driver that asks for none, before they go back to whoever has room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the close of a channel may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

pub(super) struct ShardTask {
    pub(super) link: Arc<Link>,
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) queue: ShortString,
    /// Of an ordered subscription: which member is active.
    pub(super) priority: Option<i32>,
}

/// Why a channel is not consumed any more.
enum End {
    /// It is gone, with what the driver said.
    Gone(Option<lapin::Error>),
    /// It is given up by this task.
    Given(Look),
}

impl ShardTask {
    /// Ends when the source or the engine is closed; then the source answers so.
    pub(super) async fn run(self, stop: watch::Receiver<bool>) {
        self.consume_until_stopped(stop).await;
        self.shared.close();
    }

    async fn consume_until_stopped(&self, mut stop: watch::Receiver<bool>) {
        let mut tries = 0;
        loop {
            if self.wait_while_idle(&mut stop).await {
                return;
            }
            let channel = tokio::select! {
                channel = self.link.channel() => channel,
                () = self.told_to_stop(&mut stop) => return,
            };
            let opened = match channel {
                Ok(channel) => self.subscribe(channel).await,
                Err(fault) => Err(fault),
            };
            let end = match opened {
                Ok((channel, mut consumer)) => {
                    tries = 0;
                    self.shared.opened(self.index, channel.clone());
                    let end = self.consume(&mut consumer, &mut stop).await;
                    self.shared.ended(self.index);
                    // ORDER: acknowledgements that were sent before are before it on the wire. It gives back the rest, all at once: a consumer that
                    // is dropped is cancelled, and one that is cancelled before its channel is closed leaves its queue to another member, who
                    // then gets what comes after what is still unacknowledged here.
                    let closing = channel.close(200, "given back".into());
                    // A channel that is gone is closed.
                    let _ = timeout(CLOSE_MAX, closing).await;
                    drop(consumer);
                    end
                }
                Err(fault) => {
                    if tries == 0 {
                        tracing::warn!(target: "postrider", queue = %self.queue, %fault, "not consumed; it is tried again");
                    }
                    self.shared.failed(fault);
                    End::Gone(None)
                }
            };
            match end {
                End::Given(Look::Closed) => return,
                End::Given(_) => {}
                End::Gone(error) => {
                    if let Some(error) = error {
                        tracing::debug!(target: "postrider", queue = %self.queue, %error, "a channel ended");
                    }
                    tries += 1;
                    tokio::select! {
                        () = tokio::time::sleep(backoff(tries)) => {}
                        () = self.told_to_stop(&mut stop) => return,
                    }
                }
            }
        }
    }

    /// `true`: it is told to stop.
    async fn wait_while_idle(&self, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            let woken = self.shared.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if *stop.borrow() || self.shared.is_closed() {
                return true;
            }
            if !self.shared.is_idle(self.index) {
                return false;
            }
            tokio::select! {
                () = woken => {}
                _ = stop.changed() => return true,
            }
        }
    }

    async fn told_to_stop(&self, stop: &mut watch::Receiver<bool>) {
        loop {
            let woken = self.shared.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if *stop.borrow() || self.shared.is_closed() {
                return;
            }
            tokio::select! {
                () = woken => {}
                // An error: the engine is gone.
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Consumes the queue on this channel.
    ///
    /// CANCEL: must not be dropped before its end. A consumer that the server makes after nobody waits for it any more is active for ever: it
    /// gets what nobody handles, until the connection ends.
    async fn subscribe(&self, channel: Channel) -> Result<(Channel, Consumer), Fault> {
        match self.consumer(&channel).await {
            Ok(consumer) => Ok((channel, consumer)),
            Err(error) => {
                let closing = channel.close(200, "not consumed".into());
                // A channel that is gone is closed.
                let _ = timeout(CLOSE_MAX, closing).await;
                Err(fault(&format!("consuming {}", self.queue), &error))
            }
        }
    }

    async fn consumer(&self, channel: &Channel) -> Result<Consumer, lapin::Error> {
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await?;
        let mut arguments = FieldTable::default();
        if let Some(priority) = self.priority {
            arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
        }
        let (queue, options) = (self.queue.clone(), BasicConsumeOptions::default());
        channel
            .basic_consume(queue, "".into(), options, arguments)
            .await
    }

    async fn consume(&self, consumer: &mut Consumer, stop: &mut watch::Receiver<bool>) -> End {
        loop {
            let woken = self.shared.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            match self.shared.look(self.index, PATIENCE) {
                Look::Stay => {}
                look => return End::Given(look),
            }
            if *stop.borrow() {
                return End::Given(Look::Closed);
            }
            tokio::select! {
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => self.shared.delivered(self.index, delivery),
                    Some(Err(error)) => return End::Gone(Some(error)),
                    None => return End::Gone(None),
                },
                () = woken => {}
                () = tokio::time::sleep(PATIENCE) => {}
                changed = stop.changed() => if changed.is_err() {
                    return End::Given(Look::Closed);
                },
            }
        }
    }
}
