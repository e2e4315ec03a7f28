//! The engine: what `embedded:DIR` and `memory:` open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider_core::Fut;
use postrider_core::capability::{Capabilities, Capability, Durability, Support};
use postrider_core::code::Code;
use postrider_core::engine::{Admin, Engine, EngineInfo, Publisher};
use postrider_core::failure::FailureStore;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::id::InstanceId;
use postrider_core::name::Destination;
use postrider_core::source::{LogSource, Source};
use postrider_core::subscription::SubscriptionSpec;
use postrider_core::topology::{ProvisionMode, Topology, TopologyDiff};
use postrider_log::disk::{FileDisk, MemDisk};
use postrider_log::{self as log, Kind, Level, Log, Start, StreamConfig, SubscriptionConfig};

use crate::admin::EmbeddedAdmin;
use crate::convert;
use crate::error::{Error, fault};
use crate::failures::EmbeddedFailures;
use crate::names;
use crate::options::{MemoryOptions, Options};
use crate::provision;
use crate::publisher::EmbeddedPublisher;
use crate::reader::EmbeddedReader;
use crate::shared::{Settings, Shared};
use crate::source::EmbeddedSource;
use crate::stepper::Stepper;

/// An embedded engine, open: in a directory or in memory. One per directory; clone the `Arc` that holds it.
///
/// Dropping it closes it as well as can be done: what was accepted is synced and a clean stop is marked; sources and
/// publishers that are still there answer `Closed`. [`Engine::close`] does the same and says how it went.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    info: EngineInfo,
    directory: Option<PathBuf>,
}

impl Embedded {
    /// Opens the engine in this directory, making it if it is not there, and starts the thread `postrider-log`, which does all
    /// writing. When this returns, everything that was ever confirmed there is back.
    ///
    /// Blocks while it reads what was written since the last checkpoint: under 0.3 s by default.
    ///
    /// # Errors
    /// The directory is in use (the error names the process), is not ours, is a file, cannot be written, is newer or damaged:
    /// then nothing in it was changed. [`Error::code`] gives the code that `postrider explain` takes.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let directory = directory.as_ref().to_path_buf();
        let settings = settings(&options)?;
        let disk = options
            .disk
            .unwrap_or_else(|| Arc::new(FileDisk::new(directory.clone())));
        let log_options = log::Options {
            checkpoint_every: options.checkpoint_every,
            ..log::Options::default()
        };
        let log_options = fit(log_options, options.message_bytes_max);
        let log_options = bound(
            log_options,
            options.disk_bytes_max,
            options.message_bytes_max,
        )?;
        let (log, report) = Log::open(disk, log_options, log_now(&*options.clock))?;
        tracing::info!(directory = %directory.display(), ?report, "opened the embedded engine");
        let shared = Shared::start(log, options.clock, settings)?;
        // Absolute: who asks sits in another directory. Where that is not known, as it was given.
        let location = std::path::absolute(&directory).unwrap_or_else(|_| directory.clone());
        let location = location.display().to_string();
        let info = info(
            "embedded",
            location,
            options.durability,
            options.message_bytes_max,
        );
        Self::ready(shared, info, Some(directory))
    }

    /// An engine on the disk of the options that writes only when its [`Stepper`] is stepped, in the order and with the code of the threads of
    /// [`Embedded::open`]: for simulation, on a disk whose power can be cut and in virtual time. `limits` are those of its log, so that a
    /// small one fills segments and makes checkpoints; its intervals are set from the options.
    ///
    /// Nothing is confirmed, and no timer fires, while nobody steps. Dropping it closes it as far as its disk lets it.
    ///
    /// # Errors
    /// As [`Embedded::open`]; `Options` where they name no disk.
    pub fn stepped(options: Options, limits: log::Options) -> Result<(Self, Stepper), Error> {
        let settings = settings(&options)?;
        let Some(disk) = options.disk else {
            let reason = "an engine that is stepped needs a disk to be stepped on".to_owned();
            return Err(Error::Options { reason });
        };
        let log_options = log::Options {
            checkpoint_every: options.checkpoint_every,
            ..limits
        };
        let log_options = fit(log_options, options.message_bytes_max);
        let (log, _) = Log::open(disk, log_options, log_now(&*options.clock))?;
        let shared = Shared::stepped(log, options.clock, settings);
        let stepper = Stepper::new(Arc::clone(&shared));
        let (size, durability) = (options.message_bytes_max, options.durability);
        let info = info("embedded", "a simulated disk".to_owned(), durability, size);
        Ok((Self::ready(shared, info, None)?, stepper))
    }

    /// An engine in memory: gone with the process, without a thread. Every commit is done when the call that made it returns, and
    /// timers follow the time of the tokio runtime that polls its sources, paused or not.
    ///
    /// # Errors
    /// The options contradict themselves.
    pub fn memory(options: MemoryOptions) -> Result<Self, Error> {
        check_size(options.message_bytes_max)?;
        let settings = Settings {
            message_bytes_max: options.message_bytes_max,
            dedupe_window: options.dedupe_window,
            level: Level::Fsync,
            retention: retention(options.retain, options.retain_bytes),
        };
        // Nothing is kept, so a sync costs nothing and a checkpoint is worth nothing but the memory that it frees.
        let never = Duration::from_secs(u64::from(u32::MAX));
        let mut log_options = log::Options {
            lazy_sync_after: Duration::ZERO,
            checkpoint_every: never,
            ..log::Options::default()
        };
        // What fits into the memory that the disk keeps for reuse.
        log_options.wal.segment_bytes = MEMORY_SEGMENT_BYTES;
        let log_options = fit(log_options, options.message_bytes_max);
        let (log, _) = Log::open(
            Arc::new(MemDisk::new()),
            log_options,
            log_now(&*options.clock),
        )?;
        let shared = Shared::inline(log, options.clock, settings);
        let info = info(
            "memory",
            "memory".to_owned(),
            Durability::Memory,
            options.message_bytes_max,
        );
        Self::ready(shared, info, None)
    }

    fn ready(
        shared: Arc<Shared>,
        info: EngineInfo,
        directory: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let engine = Self {
            shared,
            info,
            directory,
        };
        engine.sweep_inboxes()?;
        engine.set_retention()?;
        Ok(engine)
    }

    /// What the options say of retention holds for the topics and queues that are there.
    fn set_retention(&self) -> Result<(), Error> {
        let Some(retention) = self.shared.settings.retention else {
            return Ok(());
        };
        let set = self.shared.stage(|log, _| -> Result<(), log::Error> {
            for stream in names::streams(log)? {
                let is_kept = stream.config.kind != Kind::Events && names::is_kept(&stream.name);
                if is_kept && stream.config.retention != retention {
                    let config = log::StreamConfig {
                        retention,
                        ..stream.config
                    };
                    log.create_stream(&stream.name, config)?;
                }
            }
            Ok(())
        });
        // An engine that ended while it opened says so with the next call.
        set.unwrap_or(Ok(())).map_err(Error::Log)
    }

    /// Inboxes belong to processes, and those of earlier ones are gone.
    fn sweep_inboxes(&self) -> Result<(), Error> {
        let swept = self.shared.stage(|log, _| -> Result<(), log::Error> {
            for stream in names::streams(log)? {
                if stream.name.starts_with(names::INBOX) {
                    log.delete_stream(stream.id)?;
                }
            }
            Ok(())
        });
        // An engine that ended while it opened says so with the next call.
        swept.unwrap_or(Ok(())).map_err(Error::Log)
    }

    /// A topic or queue as a log: one shard, read by position, with a watermark kept under the name `group`. For projections and
    /// stream readers. A second reader of a group takes it over, and fences the first.
    ///
    /// A topic keeps what its subscriptions have not settled and what its retention says, so a reader of a topic sees that much
    /// and is told of a gap (`DataLoss`).
    ///
    /// # Errors
    /// `NotFound`: there is no such topic or queue.
    pub fn log_source(
        &self,
        destination: &Destination,
        group: &str,
        member: InstanceId,
    ) -> Result<Box<dyn LogSource>, Fault> {
        Ok(Box::new(EmbeddedReader::open(
            Arc::clone(&self.shared),
            destination,
            group,
            member,
        )?))
    }

    fn open_source(&self, spec: &SubscriptionSpec) -> Result<EmbeddedSource, Fault> {
        let sub = self
            .shared
            .stage(|log, _| match names::find(log, &spec.id) {
                None => Err(not_provisioned(spec)),
                Some(sub) => {
                    let known = log.subscription_info(sub).map_err(|error| fault(&error))?;
                    match known.config.ordered == spec.ordered {
                        true => Ok(sub),
                        false => Err(other_order(spec)),
                    }
                }
            });
        let sub = sub.map_err(|ended| ended.fault())??;
        if sub.0 >= convert::SUBSCRIPTIONS_MAX {
            let text = format!(
                "{} is subscription number {sub} of this log, which is beyond what a lease can name",
                spec.id
            );
            return Err(Fault::new(FaultKind::Full, Advice::FixConfig, text));
        }
        Ok(EmbeddedSource::new(
            Arc::clone(&self.shared),
            sub,
            spec.member,
            spec.lease,
            None,
        ))
    }

    fn open_inbox(&self, instance: InstanceId) -> Result<(Destination, EmbeddedSource), Fault> {
        let destination = Destination::inbox(instance.to_string())
            .expect("an instance is written in hexadecimal, which is a name");
        let made = self.shared.stage(|log, _| {
            let name = names::stream(&destination);
            if let Some(before) = log.find_stream(&name) {
                log.delete_stream(before)?;
            }
            let config = StreamConfig {
                level: Level::Memory,
                ..self.shared.config(Kind::Topic)
            };
            let stream = log.create_stream(&name, config)?.0;
            let config = SubscriptionConfig {
                start: Start::Earliest,
                ordered: false,
                ..SubscriptionConfig::default()
            };
            let sub = log.create_subscription(stream, "inbox", config)?.0;
            Ok((stream, sub))
        });
        let (stream, sub) = made
            .map_err(|ended| ended.fault())?
            .map_err(|error: log::Error| fault(&error))?;
        let lease = SubscriptionSpec::LEASE_DEFAULT;
        let source =
            EmbeddedSource::new(Arc::clone(&self.shared), sub, instance, lease, Some(stream));
        Ok((destination, source))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shared.close_blocking();
    }
}

impl Engine for Embedded {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn provision<'a>(
        &'a self,
        topology: &'a Topology,
        mode: ProvisionMode,
    ) -> Fut<'a, Result<TopologyDiff, Fault>> {
        Box::pin(async move {
            let memory = self.shared.is_memory();
            let done = self.shared.stage(|log, _| -> Result<_, Fault> {
                let diff = provision::provision(log, &self.shared, topology, mode)?;
                // In memory nothing is kept, whatever was asked for.
                let durable = if memory { Level::Memory } else { Level::Fsync };
                Ok((diff, log.last(), durable))
            });
            let (diff, last, level) = done.map_err(|ended| ended.fault())??;
            self.shared
                .safe(last, level)
                .await
                .map_err(|ended| ended.fault().unknown_effect())?;
            Ok(diff)
        })
    }

    fn publisher(&self) -> Fut<'_, Result<Arc<dyn Publisher>, Fault>> {
        let publisher =
            match self.shared.ended() {
                Some(ended) => Err(ended.fault()),
                None => Ok(Arc::new(EmbeddedPublisher::new(Arc::clone(&self.shared)))
                    as Arc<dyn Publisher>),
            };
        Box::pin(std::future::ready(publisher))
    }

    fn open<'a>(&'a self, spec: &'a SubscriptionSpec) -> Fut<'a, Result<Source, Fault>> {
        let source = self
            .open_source(spec)
            .map(|source| Source::Lease(Box::new(source)));
        Box::pin(std::future::ready(source))
    }

    fn inbox(&self, instance: InstanceId) -> Fut<'_, Result<(Destination, Source), Fault>> {
        let inbox = self.open_inbox(instance);
        let inbox =
            inbox.map(|(destination, source)| (destination, Source::Lease(Box::new(source))));
        Box::pin(std::future::ready(inbox))
    }

    fn failures(&self) -> Option<Arc<dyn FailureStore>> {
        Some(Arc::new(EmbeddedFailures::new(Arc::clone(&self.shared))))
    }

    fn admin(&self) -> Option<Arc<dyn Admin>> {
        Some(Arc::new(EmbeddedAdmin::new(
            Arc::clone(&self.shared),
            self.directory.clone(),
        )))
    }

    fn directory(&self) -> Option<&Path> {
        self.directory.as_deref()
    }

    fn close(&self, grace: Duration) -> Fut<'_, Result<(), Fault>> {
        Box::pin(self.shared.close(grace))
    }
}

/// What the options say of the engine itself.
fn settings(options: &Options) -> Result<Settings, Error> {
    let level = convert::level_of(options.durability).ok_or_else(|| Error::Options {
        reason: format!(
            "durability {:?} takes more than one machine, and this engine is on one",
            options.durability
        ),
    })?;
    check_size(options.message_bytes_max)?;
    Ok(Settings {
        message_bytes_max: options.message_bytes_max,
        dedupe_window: options.dedupe_window,
        level,
        retention: retention(options.retain, options.retain_bytes),
    })
}

/// What is kept beyond need; `None`: nothing was said.
fn retention(age: Option<Duration>, bytes: Option<u64>) -> Option<log::Retention> {
    let said = age.is_some() || bytes.is_some();
    said.then(|| log::Retention {
        age: age.filter(|age| !age.is_zero()),
        // Nothing is kept for no time.
        bytes: bytes.filter(|_| age.is_none_or(|age| !age.is_zero())),
    })
}

fn log_now(clock: &dyn postrider_core::clock::Clock) -> log::Now {
    log::Now {
        wall_ms: clock.wall().millis(),
        mono: clock.mono().0,
    }
}

/// Segments of an engine in memory.
const MEMORY_SEGMENT_BYTES: [u64; 3] = [1 << 20, 8 << 20, 8 << 20];

fn check_size(message_bytes_max: usize) -> Result<(), Error> {
    const MOST: usize = 256 << 20;
    if (1..=MOST).contains(&message_bytes_max) {
        return Ok(());
    }
    Err(Error::Options {
        reason: format!("message_bytes_max is {message_bytes_max}, use 1 to {MOST}"),
    })
}

/// The limits of a log that takes messages of this size.
fn fit(mut options: log::Options, message_bytes_max: usize) -> log::Options {
    // A frame takes the largest message and everything of a usual commit beside it.
    let needed = (message_bytes_max as u64).saturating_mul(2);
    options.wal.frame_bytes_max = options.wal.frame_bytes_max.max(needed);
    // Of small headers, what is around them is larger than they are.
    options.limits.record_bytes_max = message_bytes_max.saturating_add(RECORD_EXTRA);
    // A reason is kept with who and when, as JSON.
    options.limits.reason_bytes_max = REASON_BYTES_MAX;
    options
}

/// Keeps the log within so many bytes, in segments of an eighth of that at most.
fn bound(
    mut options: log::Options,
    disk_bytes_max: Option<u64>,
    message_bytes_max: usize,
) -> Result<log::Options, Error> {
    let Some(max) = disk_bytes_max else {
        return Ok(options);
    };
    let least = (8 * message_bytes_max as u64).max(DISK_BYTES_LEAST);
    if max < least {
        return Err(Error::Options {
            reason: format!(
                "disk_bytes_max is {max}: use at least {least}, or less than {message_bytes_max} for message_bytes_max"
            ),
        });
    }
    let largest = (max / 8) & !0xfff;
    let sizes = &mut options.wal.segment_bytes;
    sizes
        .iter_mut()
        .for_each(|size| *size = (*size).min(largest));
    options.wal.disk_bytes_max = Some(max);
    Ok(options)
}

/// The least that a log can be kept within, in bytes.
const DISK_BYTES_LEAST: u64 = 1 << 20;
/// Bytes of a stored message beyond those that count as its size.
const RECORD_EXTRA: usize = 1 << 20;
/// The longest group or reason, in bytes.
const REASON_BYTES_MAX: usize = 64 << 10;

fn info(
    scheme: &'static str,
    location: String,
    durability: Durability,
    message_bytes_max: usize,
) -> EngineInfo {
    use Capability as C;
    let native = [
        C::ConfirmedPublish,
        C::KeyOrder,
        C::CompetingConsumers,
        C::FanOut,
        C::LeaseExtension,
        C::DelayedDelivery,
        C::CancelDelayed,
        C::Expiry,
        C::Replay,
        C::PublishDedupe,
        C::DelayedRetry,
        C::AtomicSettle,
        C::AtomicDeadLetter,
        C::FailureStore,
        C::RequestReply,
        C::Lag,
        C::Backup,
    ];
    let none = Capabilities::none(message_bytes_max);
    EngineInfo {
        scheme,
        product: "Postrider embedded".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        location,
        durability,
        capabilities: native
            .into_iter()
            .fold(none, |all, one| all.with(one, Support::Native)),
    }
}

fn not_provisioned(spec: &SubscriptionSpec) -> Fault {
    let text = format!("there is no subscription {}: provision it first", spec.id);
    Fault::new(FaultKind::NotFound, Advice::FixConfig, text).code(Code::TOPOLOGY_DIFFERS)
}

fn other_order(spec: &SubscriptionSpec) -> Fault {
    let (is, asked) = if spec.ordered {
        ("unordered", "ordered")
    } else {
        ("ordered", "unordered")
    };
    let text = format!(
        "{} exists and is {is}, and {asked} was asked for: provision it with migrate, or ask for what it is",
        spec.id
    );
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::TOPOLOGY_DIFFERS)
}
