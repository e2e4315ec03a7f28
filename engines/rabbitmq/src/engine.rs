//! The engine: what `amqp://…` connects to.

use std::sync::Arc;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use parking_lot::Mutex;
use postrider_core::Fut;
use postrider_core::capability::{Capabilities, Capability, Durability, Support};
use postrider_core::code::Code;
use postrider_core::engine::{Admin, Engine, EngineInfo, Publisher};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::{Destination, DestinationKind};
use postrider_core::source::Source;
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{ProvisionMode, Topology, TopologyDiff};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::admin::{RabbitAdmin, Sources};
use crate::error::{Error, closed, too_late};
use crate::link::{Link, OPEN_MAX};
use crate::names::Names;
use crate::options::Options;
use crate::probe::{self, Server};
use crate::publisher::{self, unsupported};
use crate::source::{self, PREFETCH};
use crate::topology::{self, Desk};

/// A RabbitMQ engine, connected. It has two connections, one to publish and one to consume, and opens them again when they are gone.
///
/// Dropping it ends its tasks and closes its connections; what was not acknowledged goes back to its queues.
pub struct RabbitEngine {
    info: EngineInfo,
    names: Arc<Names>,
    publishing: Arc<Link>,
    consuming: Arc<Link>,
    bytes_max: usize,
    sources: Arc<Sources>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl std::fmt::Debug for RabbitEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitEngine")
            .field("location", &self.info.location)
            .finish_non_exhaustive()
    }
}

impl RabbitEngine {
    /// Connects to the server of this URL: `amqp://user:password@host:port/vhost` (`amqps` for TLS, with the roots of the system). A vhost is
    /// written percent-encoded (`%2f` is the default one, and so is nothing). The URL's options are in `options`. The version is asked of the server.
    /// Needs a tokio runtime.
    ///
    /// Cancel safety: what was connected is closed.
    ///
    /// # Errors
    /// The URL cannot be read (its text is not repeated: it may hold a password), nobody answers within ten seconds, the server refuses the
    /// credentials, or it is older than RabbitMQ 4.0.
    pub async fn connect(url: &str, options: Options) -> Result<Self, Error> {
        let mut uri = parse(url)?;
        uri.query.heartbeat = Some(options.heartbeat_s);
        let location = location(&uri);
        let reach = |fault: Fault| {
            let text = format!("{location}: {}", fault.message);
            let code = fault.code.unwrap_or(Code::ENGINE_FAILED);
            let reached = Fault::new(fault.kind, fault.advice, text).code(code);
            Error::Connect(reached.because(fault))
        };
        let server = match timeout(OPEN_MAX, probe::server(&uri)).await {
            Ok(server) => server.map_err(reach)?,
            Err(_) => return Err(reach(too_late("connecting", OPEN_MAX))),
        };
        if !server.is_known() {
            let found = format!("{} {}", server.product, server.version);
            return Err(Error::Version { location, found });
        }
        let link =
            |purpose: &str| Arc::new(Link::new(uri.clone(), format!("postrider, {purpose}")));
        let engine = Self {
            info: info(&options, server, location.clone()),
            names: Arc::new(Names::new(&options.prefix, options.shards)),
            publishing: link("publishing"),
            consuming: link("consuming"),
            bytes_max: options.message_bytes_max,
            sources: Arc::default(),
            stop: watch::Sender::new(false),
            tasks: Mutex::new(Vec::new()),
        };
        // Credentials and vhost are checked here, not with the first message.
        engine.consuming.channel().await.map_err(reach)?;
        Ok(engine)
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    fn keep(&self, tasks: impl IntoIterator<Item = JoinHandle<()>>) {
        let mut all = self.tasks.lock();
        all.retain(|task| !task.is_finished());
        all.extend(tasks);
    }

    async fn open_source(&self, spec: &SubscriptionSpec) -> Result<Source, Fault> {
        if self.is_stopped() {
            return Err(closed());
        }
        if spec.id.on.kind == DestinationKind::Inbox {
            return Err(no_inbox());
        }
        let mut desk = Desk::new(&self.consuming);
        for queue in self.names.queues(&spec.id, spec.ordered)? {
            if !desk.queue_exists(queue.clone()).await? {
                let text = format!(
                    "there is no queue {queue} for {}: provision the subscription first, {}",
                    spec.id,
                    if spec.ordered { "ordered" } else { "unordered" }
                );
                let fault = Fault::new(FaultKind::NotFound, Advice::FixConfig, text);
                return Err(fault.code(Code::TOPOLOGY_DIFFERS));
            }
        }
        let stop = self.stop.subscribe();
        let (source, tasks) = source::start(&self.consuming, &self.names, spec, &stop)?;
        self.keep(tasks);
        self.sources.opened(&spec.id, source.held());
        Ok(Source::Lease(Box::new(source)))
    }

    /// Publishers send what they accepted, sources give back what they hold; then the connections go.
    async fn shut(&self, grace: Duration) -> Result<(), Fault> {
        self.stop.send_replace(true);
        let until = Instant::now() + grace;
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let mut late = 0;
        for mut task in tasks {
            let ended = tokio::time::timeout_at(until, &mut task).await;
            if ended.is_err() {
                task.abort();
                late += 1;
            }
        }
        for link in [&self.publishing, &self.consuming] {
            link.close(Duration::from_secs(1)).await;
        }
        if late == 0 {
            return Ok(());
        }
        let fault = too_late("confirming what was accepted", grace);
        Err(fault.unknown_effect())
    }
}

impl Engine for RabbitEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        Box::pin(topology::provision(
            &self.consuming,
            &self.names,
            topology,
            mode,
        ))
    }

    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        Box::pin(async {
            if self.is_stopped() {
                return Err(closed());
            }
            let (publisher, task) = publisher::start(
                Arc::clone(&self.publishing),
                Arc::clone(&self.names),
                self.bytes_max,
                self.stop.subscribe(),
            );
            self.keep([task]);
            Ok(publisher as Arc<dyn Publisher>)
        })
    }

    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        Box::pin(self.open_source(spec))
    }

    fn inbox(&self, _: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        Box::pin(async { Err(no_inbox()) })
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        None
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        let admin = RabbitAdmin::new(&self.consuming, &self.names, &self.sources);
        Some(Arc::new(admin))
    }

    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(self.shut(grace))
    }
}

const NO_INBOX: &str = "replies are not carried on RabbitMQ yet: ask over another engine";

fn no_inbox() -> Fault {
    unsupported(Capability::RequestReply, NO_INBOX)
}

/// # Errors
/// It is no URL of AMQP, or has a query: options are given apart.
fn parse(url: &str) -> Result<AMQPUri, Error> {
    if url.contains('?') {
        let reason = "its options are given apart".to_owned();
        return Err(Error::Url { reason });
    }
    let mut uri: AMQPUri = url.parse().map_err(|_| Error::Url {
        reason: "it is written amqp://user:password@host:port/vhost, with special characters percent-encoded"
            .to_owned(),
    })?;
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Ok(uri)
}

/// Where the server is, without credentials.
fn location(uri: &AMQPUri) -> String {
    let scheme = match uri.scheme {
        AMQPScheme::AMQP => "amqp",
        AMQPScheme::AMQPS => "amqps",
    };
    let vhost = match uri.vhost.as_str() {
        "/" => "%2f",
        other => other,
    };
    let (host, port) = (&uri.authority.host, uri.authority.port);
    format!("{scheme}://{host}:{port}/{vhost}")
}

fn info(options: &Options, server: Server, location: String) -> EngineInfo {
    use Capability as C;
    let emulated = |how, cost| Support::Emulated { how, cost };
    let absent = |why| Support::Absent { why };
    let mut capabilities = Capabilities::none(options.message_bytes_max)
        .with(C::ConfirmedPublish, Support::Native)
        .with(C::FanOut, Support::Native)
        .with(C::CompetingConsumers, Support::Native)
        .with(
            C::KeyOrder,
            emulated(
                "a fixed number of queues per subscription, one active consumer each; a key has its queue",
                "as many quorum queues as shards; a member that comes waits until the one before it has settled what it holds of a queue",
            ),
        )
        .with(
            C::Expiry,
            emulated(
                "the subscriber drops what is too old",
                "it takes room in its queue until then",
            ),
        )
        .with(
            C::LeaseExtension,
            absent("a delivery is held as long as its channel lives, at most the server's consumer timeout"),
        )
        .with(C::DelayedDelivery, absent("RabbitMQ keeps no message back until a later time"))
        .with(C::CancelDelayed, absent("RabbitMQ keeps no message back"))
        .with(C::DelayedRetry, absent("a message that is given back comes again at once"))
        .with(C::Replay, absent("a queue keeps nothing that was settled"))
        .with(C::PublishDedupe, absent("queues do not compare messages"))
        .with(C::AtomicSettle, absent("publish and acknowledge are two steps"))
        .with(C::AtomicDeadLetter, absent("record and acknowledge are two steps"))
        .with(C::FailureStore, absent("name a failure store beside it"))
        .with(C::RequestReply, absent(NO_INBOX))
        .with(C::ExpectedVersion, absent("queues have no versions"))
        .with(
            C::Lag,
            emulated(
                "what is ready on the server, and what this process holds",
                "what other processes hold is not counted: ask the management API",
            ),
        );
    capabilities.hold_max = Some(options.hold_max);
    capabilities.key_held_max = Some(u32::from(PREFETCH));
    EngineInfo {
        scheme: "amqp",
        product: server.product,
        version: server.version,
        location,
        // A quorum queue confirms when a majority has synced it; how many machines that is, a client is not told.
        durability: Durability::Flushed,
        capabilities,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_and_its_credentials_are_never_shown() {
        let uri = parse("amqp://guest:s%40cret@127.0.0.1:23120/%2f").unwrap();
        assert_eq!(uri.authority.userinfo.password, "s@cret");
        assert_eq!(location(&uri), "amqp://127.0.0.1:23120/%2f");
        assert_eq!(
            location(&parse("amqps://u:p@rabbit.example/orders").unwrap()),
            "amqps://rabbit.example:5671/orders"
        );
        for bad in ["amqp://u:secret@h/%2f?x=1", "http://u:secret@h", "amqp:"] {
            if let Err(error) = parse(bad) {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
    }

    #[test]
    fn what_it_declares_fits_what_it_does() {
        let server = Server {
            product: "RabbitMQ".into(),
            version: "4.0.5".into(),
        };
        let info = info(&Options::default(), server, "amqp://h:5672/%2f".into());
        assert_eq!(info.version, "4.0.5");
        assert!(!info.capabilities.is_native(Capability::DelayedRetry));
        assert!(matches!(
            info.capabilities.of(Capability::RequestReply),
            Support::Absent { .. }
        ));
        assert_eq!(info.capabilities.hold_max, Some(Duration::from_secs(1800)));
        assert_eq!(info.capabilities.key_held_max, Some(256));
    }
}
