//! Comparing what a service needs with what there is, and making the rest.

use postrider_core::code::Code;
use postrider_core::fault::{Advice, Fault, FaultKind};
use postrider_core::name::DestinationKind;
use postrider_core::source::SeekTo;
use postrider_core::topology::{
    DestinationSpec, ProvisionMode, SubscriptionNeed, Topology, TopologyDiff,
};
use postrider_log::{self as log, Kind, Log, Start, StreamConfig, SubscriptionConfig};

use crate::convert;
use crate::error::fault;
use crate::names;
use crate::shared::Shared;

/// Compares and, where the mode says so, creates and changes. Everything is looked at before anything is made.
pub(crate) fn provision(
    log: &mut Log,
    shared: &Shared,
    topology: &Topology,
    mode: ProvisionMode,
) -> Result<TopologyDiff, Fault> {
    let mut diff = TopologyDiff::default();
    let mut streams = Vec::new();
    for spec in &topology.destinations {
        streams.extend(compare_destination(log, shared, spec, mode, &mut diff)?);
    }
    let mut subscriptions = Vec::new();
    for need in &topology.subscriptions {
        check_owner(log, topology, need)?;
        subscriptions.extend(compare_subscription(log, need, mode, &mut diff)?);
    }
    if !diff.missing.is_empty() || !diff.differs.is_empty() {
        return Err(differs(&diff));
    }
    let said = |error: log::Error| fault(&error);
    for (name, config, text) in streams {
        if log.create_stream(&name, config).map_err(said)?.1 != log::Created::Existing {
            diff.created.push(text);
        }
    }
    for need in subscriptions {
        let name = names::stream(&need.id.on);
        let stream = match log.find_stream(&name) {
            Some(stream) => stream,
            None => {
                log.create_stream(&name, shared.kept(kind_of(need.id.on.kind)))
                    .map_err(said)?
                    .0
            }
        };
        let config = SubscriptionConfig {
            start: start_of(log, stream, need.start)?,
            ordered: need.ordered,
            ..SubscriptionConfig::default()
        };
        log.create_subscription(stream, need.id.service.as_str(), config)
            .map_err(said)?;
        diff.created.push(need.id.to_string());
    }
    Ok(diff)
}

fn kind_of(kind: DestinationKind) -> Kind {
    match kind {
        DestinationKind::Queue => Kind::Queue,
        DestinationKind::Topic | DestinationKind::Inbox => Kind::Topic,
    }
}

/// What a destination asks of its stream, with the engine's settings where it says nothing.
fn wanted_config(shared: &Shared, spec: &DestinationSpec) -> Result<StreamConfig, Fault> {
    let kind = kind_of(spec.destination.kind);
    let mut wanted = match spec.destination.kind {
        DestinationKind::Inbox => shared.config(kind),
        DestinationKind::Topic | DestinationKind::Queue => shared.kept(kind),
    };
    if let Some(durability) = spec.durability {
        let level = convert::level_of(durability).ok_or_else(|| {
            let text = format!(
                "{} asks for durability {durability:?}, which takes more than one machine",
                spec.destination
            );
            Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::PLAN_REFUSED)
        })?;
        // In memory nothing is kept; receipts say so.
        if !shared.is_memory() {
            wanted.level = level;
        }
    }
    if !spec.retain.is_zero() {
        wanted.retention.age = Some(spec.retain);
    }
    Ok(wanted)
}

/// The settings that a stream would change to, and how the two differ, in words.
fn differences(known: StreamConfig, wanted: StreamConfig) -> (StreamConfig, Vec<String>) {
    let mut changed = known;
    let mut differences = Vec::new();
    if known.level != wanted.level {
        differences.push(format!(
            "durability is {:?}, {:?} is needed",
            known.level, wanted.level
        ));
        changed.level = wanted.level;
    }
    if known.retention.age != wanted.retention.age {
        differences.push(format!(
            "retention is {:?}, {:?} is needed",
            known.retention.age, wanted.retention.age
        ));
        changed.retention.age = wanted.retention.age;
    }
    (changed, differences)
}

/// The stream to create or change, if any.
fn compare_destination(
    log: &Log,
    shared: &Shared,
    spec: &DestinationSpec,
    mode: ProvisionMode,
    diff: &mut TopologyDiff,
) -> Result<Option<(String, StreamConfig, String)>, Fault> {
    let name = names::stream(&spec.destination);
    let text = spec.destination.to_string();
    let mut wanted = wanted_config(shared, spec)?;
    let Some(stream) = log.find_stream(&name) else {
        if mode == ProvisionMode::Check {
            diff.missing.push(text);
            return Ok(None);
        }
        return Ok(Some((name, wanted, text)));
    };
    let known = log
        .stream_info(stream)
        .map_err(|error| fault(&error))?
        .config;
    let level = |config: StreamConfig| convert::durability_of(config.level);
    // Who asks for nothing gets at least what the engine says of itself: the plan counts on it.
    let is_raised = spec.durability.is_none() && level(known) < level(wanted);
    if spec.durability.is_none() && !is_raised {
        wanted.level = known.level;
    }
    if spec.retain.is_zero() {
        wanted.retention = known.retention;
    }
    let (changed, differences) = differences(known, wanted);
    let loses = level(wanted) < level(known) || known.retention.age > wanted.retention.age;
    if differences.is_empty() {
        return Ok(None);
    }
    let may_change = match mode {
        ProvisionMode::Check => false,
        ProvisionMode::Create => is_raised && differences.len() == 1,
        ProvisionMode::Migrate => true,
    };
    if may_change && !loses {
        return Ok(Some((
            name,
            changed,
            format!("{text} ({})", differences.join("; ")),
        )));
    }
    diff.differs
        .push(format!("{text}: {}", differences.join("; ")));
    Ok(None)
}

/// A queue has one owner, in the log and in what is asked for.
fn check_owner(log: &Log, topology: &Topology, need: &SubscriptionNeed) -> Result<(), Fault> {
    if need.id.on.kind != DestinationKind::Queue {
        return Ok(());
    }
    let asked = topology.subscriptions.iter().map(|other| &other.id);
    let mut others: Vec<String> = asked
        .filter(|other| other.on == need.id.on && other.service != need.id.service)
        .map(|other| other.service.to_string())
        .collect();
    if let Some(stream) = log.find_stream(&names::stream(&need.id.on)) {
        let info = log.stream_info(stream).map_err(|error| fault(&error))?;
        for sub in info.subscriptions {
            let owner = log
                .subscription_info(sub)
                .map_err(|error| fault(&error))?
                .name;
            others.extend(Some(owner).filter(|owner| owner != need.id.service.as_str()));
        }
    }
    let Some(other) = others.first() else {
        return Ok(());
    };
    let text = format!(
        "{} belongs to {other}, and {} wants it too: a queue has one owner, use a topic",
        need.id.on, need.id.service
    );
    Err(Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::QUEUE_TWO_OWNERS))
}

/// The subscription to create or change, if any.
fn compare_subscription<'a>(
    log: &Log,
    need: &'a SubscriptionNeed,
    mode: ProvisionMode,
    diff: &mut TopologyDiff,
) -> Result<Option<&'a SubscriptionNeed>, Fault> {
    let Some(sub) = names::find(log, &need.id) else {
        if mode == ProvisionMode::Check {
            diff.missing.push(need.id.to_string());
            return Ok(None);
        }
        return Ok(Some(need));
    };
    let known = log
        .subscription_info(sub)
        .map_err(|error| fault(&error))?
        .config;
    if known.ordered == need.ordered {
        return Ok(None);
    }
    // Who holds which key was decided by the one rule: it cannot be changed under them.
    let word = |ordered| if ordered { "ordered" } else { "unordered" };
    diff.differs.push(format!(
        "{}: it is {}, {} is needed",
        need.id,
        word(known.ordered),
        word(need.ordered)
    ));
    Ok(None)
}

fn start_of(log: &Log, stream: log::StreamId, start: SeekTo) -> Result<Start, Fault> {
    Ok(match start {
        SeekTo::Earliest => Start::Earliest,
        SeekTo::Latest => Start::Latest,
        SeekTo::Position(position) => Start::At(position.0),
        SeekTo::Time(at) => Start::At(
            log.offset_at(stream, at.millis())
                .map_err(|error| fault(&error))?,
        ),
    })
}

fn differs(diff: &TopologyDiff) -> Fault {
    let mut text = String::from("what exists differs from what the service needs");
    if !diff.missing.is_empty() {
        text.push_str(&format!("; missing: {}", diff.missing.join(", ")));
    }
    if !diff.differs.is_empty() {
        text.push_str(&format!("; {}", diff.differs.join("; ")));
    }
    text.push_str(": provision with create or migrate, or mend it by hand");
    Fault::new(FaultKind::Config, Advice::FixConfig, text).code(Code::TOPOLOGY_DIFFERS)
}
