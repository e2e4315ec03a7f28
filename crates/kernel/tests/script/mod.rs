//! Reads a script, drives a kernel with it, and writes down what it gives.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::clock::{Mono, Timestamp};
use postrider_core::failure::Cause;
use postrider_core::fault::Dependency;
use postrider_core::id::MessageId;
use postrider_core::policy::{Policy, Retry, RetryBudget, WhenExhausted};
use postrider_core::source::{Position, ResumeState, ShardEpoch};
use postrider_core::text::Text;
use postrider_kernel::{Config, Incoming, Input, Kernel, Origin, Outcome, Output, Slot, Verdict};

/// Runs a script and gives it with the outputs that came.
pub(crate) fn run(name: &str, text: &str) -> String {
    let mut written = String::new();
    let mut runner: Option<Runner> = None;
    for (index, line) in text.lines().enumerate() {
        let Some(input) = line.strip_prefix("> ") else {
            // Comments and empty lines are kept, old outputs are replaced.
            if line.starts_with('#') || line.trim().is_empty() {
                writeln!(written, "{line}").unwrap();
            }
            continue;
        };
        writeln!(written, "{line}").unwrap();
        let words: Vec<&str> = input.split_whitespace().collect();
        let at = format!("{name}:{}", index + 1);
        match (words[0], &mut runner) {
            ("lease" | "log", slot) => *slot = Some(Runner::new(&words)),
            (_, Some(runner)) => written.push_str(&runner.step(&words, &at)),
            _ => panic!("{at}: a script begins with `> lease` or `> log`"),
        }
    }
    written
}

struct Runner {
    kernel: Kernel,
    now: Duration,
    lease: Option<Duration>,
    is_log: bool,
    next_slot: u32,
    /// The newest slot of a name, and the name of a slot.
    slots: BTreeMap<String, Slot>,
    names: BTreeMap<Slot, String>,
    ids: BTreeMap<MessageId, String>,
    /// The script answers what the kernel asks; else everything may go, and nothing is told of it.
    watched: bool,
}

fn duration(text: &str) -> Duration {
    let split = text
        .find(|c: char| c.is_alphabetic())
        .unwrap_or_else(|| panic!("a unit in {text}"));
    let n: u64 = text[..split].parse().unwrap();
    match &text[split..] {
        "ms" => Duration::from_millis(n),
        "s" => Duration::from_secs(n),
        "m" => Duration::from_secs(n * 60),
        "h" => Duration::from_secs(n * 3600),
        unit => panic!("unknown unit {unit}"),
    }
}

fn show(d: Duration) -> String {
    if d.subsec_millis() == 0 {
        format!("{}s", d.as_secs())
    } else {
        format!("{}ms", d.as_millis())
    }
}

fn value<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words
        .iter()
        .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
}

fn number<T: std::str::FromStr>(words: &[&str], name: &str, default: T) -> T {
    value(words, name).map_or(default, |v| {
        v.parse()
            .unwrap_or_else(|_| panic!("a number in {name}={v}"))
    })
}

/// `ordered=no concurrency=N window=N bytes=N lane=N hold=1h lease=30s|none times=N immediate=N base=1s max=1s when=park|continue|stop
/// floor=N ratio=F store=no native=yes together=yes delayed-retry=no done-bytes=N seed=N watch=yes`
fn setup(words: &[&str]) -> Config {
    let mut policy = Policy {
        ordered: value(words, "ordered") != Some("no"),
        ..Policy::default()
    };
    // Base and longest wait are the same unless told: no jitter in a story.
    let base = value(words, "base").map_or(Duration::from_secs(1), duration);
    policy.retries = vec![Retry {
        immediate: number(words, "immediate", 0),
        base,
        max: value(words, "max").map_or(base, duration),
        times: number(words, "times", 3),
    }];
    policy.when_exhausted = match value(words, "when") {
        None if policy.ordered => WhenExhausted::ParkKey,
        None => WhenExhausted::DeadLetterAndContinue,
        Some("park") => WhenExhausted::ParkKey,
        Some("continue") => WhenExhausted::DeadLetterAndContinue,
        Some("stop") => WhenExhausted::Stop,
        Some(other) => panic!("unknown end of retries {other}"),
    };
    policy.budget = RetryBudget {
        ratio: number(words, "ratio", 0.2),
        floor_per_s: number(words, "floor", 10),
    };
    let limits = &mut policy.limits;
    limits.concurrency = number(words, "concurrency", 8);
    limits.window_messages_max = number(words, "window", 100);
    limits.window_bytes_max = number(words, "bytes", 100_000);
    limits.lane_messages_max = number(words, "lane", 50);
    limits.lane_bytes_max = number(words, "lane-bytes", 50_000);
    limits.hold_max = value(words, "hold").map_or(Duration::from_secs(24 * 3600), duration);
    let lease = match value(words, "lease") {
        Some("none") => None,
        Some(lease) => Some(duration(lease)),
        None => Some(Duration::from_secs(30)),
    };
    let mut config = if words[0] == "lease" {
        Config::lease(policy, lease)
    } else {
        Config::log(policy, number(words, "done-bytes", 4096))
    };
    config.failure_store = value(words, "store") != Some("no");
    config.native_dead_letter = value(words, "native") == Some("yes");
    config.loses_together = value(words, "together") == Some("yes");
    config.delayed_retry = value(words, "delayed-retry") != Some("no");
    config
}

fn id_of(name: &str) -> MessageId {
    MessageId::parse_or_hash(name)
}

fn key_of(name: &str) -> Option<Bytes> {
    let key = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (key != "-").then(|| Bytes::copy_from_slice(key.as_bytes()))
}

fn cause_of(text: &str) -> Cause {
    match text {
        "permanent" => Cause::Permanent,
        "conflict" => Cause::InboxConflict,
        "unreadable" => Cause::Unreadable,
        other => panic!("unknown cause {other}"),
    }
}

impl Runner {
    fn new(words: &[&str]) -> Self {
        let config = setup(words);
        Self {
            lease: config.lease,
            kernel: Kernel::new(config, number(words, "seed", 1)),
            now: Duration::ZERO,
            is_log: words[0] == "log",
            next_slot: 0,
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            ids: BTreeMap::new(),
            watched: value(words, "watch") == Some("yes"),
        }
    }

    fn step(&mut self, words: &[&str], at: &str) -> String {
        if words[0] == "describe" {
            let description = self.kernel.describe();
            let bound = description.bounds.iter().find(|b| b.name == words[1]);
            let bound = bound.unwrap_or_else(|| panic!("{at}: no bound {}", words[1]));
            return format!("{} {}/{}\n", bound.name, bound.fill, bound.max);
        }
        let missing = [
            "finish",
            "settled",
            "settle-lost",
            "not-parked",
            "lost",
            "extended",
        ]
        .contains(&words[0]);
        let names = if words[0] == "finish" {
            &words[1..2]
        } else {
            &words[1..]
        };
        if let Some(name) = names
            .iter()
            .find(|n| missing && !self.slots.contains_key(**n))
        {
            return format!("!! no message {name}\n");
        }
        let input = self.input(words, at);
        self.kernel.handle(Mono(self.now), input);
        let mut text = String::new();
        while let Some(output) = self.kernel.poll_output() {
            if !self.watched && self.answers_itself(&output) {
                continue;
            }
            let line = self.write(&output);
            // The story tells what matters: credit and timers have scripts of their own.
            writeln!(text, "{line}").unwrap();
            if let Output::Forget(slot) = output {
                let name = self.names.remove(&slot).unwrap();
                if self.slots.get(&name) == Some(&slot) {
                    self.slots.remove(&name);
                }
            }
        }
        text
    }

    fn answers_itself(&mut self, output: &Output) -> bool {
        let answer = match output {
            Output::Ask { slot, id } => Input::Answer {
                slot: *slot,
                id: *id,
                verdict: Verdict::Go,
            },
            Output::Gone { .. } => Input::GoneNoted(1),
            _ => return false,
        };
        self.kernel.handle(Mono(self.now), answer);
        true
    }

    fn named(&self, words: &[&str], at: &str) -> Vec<Slot> {
        let find = |w: &&str| {
            *self
                .slots
                .get(*w)
                .unwrap_or_else(|| panic!("{at}: no message {w}"))
        };
        words.iter().map(find).collect()
    }

    fn input(&mut self, words: &[&str], at: &str) -> Input {
        let rest = &words[1..];
        let shard = || ShardEpoch {
            shard: rest[0].parse().unwrap(),
            epoch: rest[1].parse().unwrap(),
        };
        match words[0] {
            "opened" => Input::Opened {
                parked: value(rest, "parked")
                    .into_iter()
                    .flat_map(|keys| keys.split(','))
                    .map(|key| Bytes::copy_from_slice(key.as_bytes()))
                    .collect(),
            },
            "records" | "redriven" => self.messages(words),
            "finish" => {
                let slot = self.named(&rest[..1], at)[0];
                Input::Finished {
                    slot,
                    outcome: outcome(&rest[1..], at),
                }
            }
            "advance" => {
                self.now += duration(rest[0]);
                Input::Timer
            }
            "settled" => Input::Settled(self.named(rest, at)),
            "settle-lost" => Input::SettleLost(self.named(rest, at)),
            "not-parked" => Input::NotParked(self.named(rest, at)),
            "lost" => Input::LeaseLost(self.named(rest, at)),
            "extended" => Input::Extended {
                slots: self.named(rest, at),
                until: Mono(self.now + self.lease.unwrap()),
            },
            "key-free" => Input::KeyFree(Bytes::copy_from_slice(rest[0].as_bytes())),
            "answer" => Input::Answer {
                slot: self.named(&rest[..1], at)[0],
                id: id_of(rest[0]),
                verdict: match rest[1] {
                    "go" => Verdict::Go,
                    "hold" => Verdict::Hold(duration(rest[2])),
                    "condemned" => Verdict::Condemned,
                    other => panic!("{at}: unknown answer {other}"),
                },
            },
            "gone-noted" => Input::GoneNoted(rest[0].parse().unwrap()),
            "available" => Input::Available(Dependency(Text::from(rest[0].to_owned()))),
            "assigned" => Input::Assigned {
                at: shard(),
                resume: ResumeState {
                    watermark: Position(rest[2].parse().unwrap()),
                    done_above: rest[3..]
                        .iter()
                        .map(|r| r.split_once('+').unwrap())
                        .map(|(first, n)| (Position(first.parse().unwrap()), n.parse().unwrap()))
                        .collect(),
                },
            },
            "revoking" => Input::Revoking {
                at: shard(),
                deadline: Mono(self.now + duration(rest[2])),
            },
            "shard-lost" => Input::Lost { at: shard() },
            "committed" => Input::Committed {
                at: shard(),
                stored: rest.get(2) != Some(&"fenced"),
            },
            "pause" => Input::Pause,
            "resume" => Input::Resume,
            "drain" => Input::Drain {
                deadline: Mono(self.now + duration(rest[0])),
            },
            other => panic!("{at}: unknown input {other}"),
        }
    }

    fn messages(&mut self, words: &[&str]) -> Input {
        let has = |flag: &str| words.contains(&flag);
        let flags = ["parked", "unreadable", "skip"];
        let names = words[1..]
            .iter()
            .filter(|w| !w.contains('=') && !flags.contains(w));
        let mut incoming = Vec::new();
        for word in names {
            let (name, position) = word
                .split_once('@')
                .map_or((*word, None), |(n, p)| (n, Some(p)));
            let slot = Slot(self.next_slot);
            self.next_slot += 1;
            if let Some(old) = self.slots.insert(name.to_owned(), slot) {
                // The one before is still here: it is called with a stroke from now on.
                self.slots.insert(format!("{name}'"), old);
                self.names.insert(old, format!("{name}'"));
            }
            self.names.insert(slot, name.to_owned());
            self.ids.insert(id_of(name), name.to_owned());
            let origin = if words[0] == "redriven" {
                Origin::Redrive
            } else if self.is_log {
                let at = ShardEpoch {
                    shard: number(words, "shard", 0),
                    epoch: number(words, "epoch", 1),
                };
                Origin::Log {
                    at,
                    position: Position(position.unwrap().parse().unwrap()),
                }
            } else {
                Origin::Lease {
                    until: self.lease.map(|lease| Mono(self.now + lease)),
                }
            };
            incoming.push(Incoming {
                slot,
                origin,
                id: id_of(name),
                key: key_of(name),
                size: number(words, "size", 10),
                retry: number(words, "retry", 0),
                deliveries: match value(words, "deliveries") {
                    None if self.is_log => None,
                    Some("none") => None,
                    _ => Some(number(words, "deliveries", 0)),
                },
                key_parked: has("parked"),
                unreadable: has("unreadable"),
                skip: has("skip"),
                seen_at: Timestamp(0),
            });
        }
        Input::Messages(incoming)
    }

    fn name(&self, slot: Slot) -> String {
        self.names.get(&slot).unwrap().clone()
    }

    fn list(&self, slots: &[Slot]) -> String {
        slots
            .iter()
            .map(|s| self.name(*s))
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn write(&self, output: &Output) -> String {
        let key = |k: &Bytes| String::from_utf8_lossy(k).into_owned();
        match output {
            Output::Dispatch { slot, attempt } => {
                format!("dispatch {} attempt {attempt}", self.name(*slot))
            }
            Output::Cancel(slot) => format!("cancel {}", self.name(*slot)),
            Output::Ack(slots) => format!("ack {}", self.list(slots)),
            Output::Release(slots) => format!("release {}", self.list(slots)),
            Output::RetryLater {
                slot,
                delay,
                attempts,
            } => {
                format!(
                    "retry-later {} in {} attempts {attempts}",
                    self.name(*slot),
                    show(*delay)
                )
            }
            Output::Fail {
                slot,
                cause,
                attempts,
                park,
            } => {
                let park = if *park { ", park its key" } else { "" };
                format!(
                    "fail {} {cause:?} attempts {attempts}{park}",
                    self.name(*slot)
                )
            }
            Output::Park { key: k, slots } => {
                format!("park behind {}: {}", key(k), self.list(slots))
            }
            Output::FinishRedrive {
                slot,
                failed,
                attempts,
                released,
            } => {
                let how = match (failed, released) {
                    (Some(cause), _) => format!("failed {cause:?} attempts {attempts}"),
                    (None, true) => "released".to_owned(),
                    (None, false) => format!("done attempts {attempts}"),
                };
                format!("finish-redrive {} {how}", self.name(*slot))
            }
            Output::Extend(slots) => format!("extend {}", self.list(slots)),
            Output::Commit { at, commit } => {
                let mut text = format!(
                    "commit {}/{} below {}",
                    at.shard, at.epoch, commit.watermark.0
                );
                for (first, count) in &commit.done_above {
                    write!(text, " {}+{count}", first.0).unwrap();
                }
                text
            }
            Output::Ask { slot, .. } => format!("ask {}", self.name(*slot)),
            Output::Gone { id, ended } => {
                let name = self.ids.get(id).map_or("?", String::as_str);
                let how = if *ended { "ended" } else { "put back" };
                format!("gone {name} {how}")
            }
            Output::Revoked { at } => format!("revoked {}/{}", at.shard, at.epoch),
            Output::Credit { source, redrive } => {
                format!(
                    "credit {} messages {} bytes {redrive} redriven",
                    source.messages, source.bytes
                )
            }
            Output::SetTimer(at) => {
                format!("timer {}", at.map_or("none".to_owned(), |at| show(at.0)))
            }
            Output::Paused(dependency) => format!("paused by {dependency}"),
            Output::Forget(slot) => format!("forget {}", self.name(*slot)),
            Output::Stopped { slot, cause } => format!("stopped by {} {cause:?}", self.name(*slot)),
            Output::Drained => "drained".to_owned(),
        }
    }
}

fn outcome(words: &[&str], at: &str) -> Outcome {
    match words[0] {
        "done" => Outcome::Done,
        "settled" => Outcome::DoneAndSettled,
        "transient" => Outcome::Transient,
        "retry-after" => Outcome::RetryAfter(duration(words[1])),
        "permanent" | "conflict" | "unreadable" => Outcome::Permanent(cause_of(words[0])),
        "unavailable" => Outcome::Unavailable(Dependency(Text::from(words[1].to_owned()))),
        "panicked" => Outcome::Panicked,
        "cancelled" => Outcome::Cancelled,
        "stop" => Outcome::Stop,
        other => panic!("{at}: unknown outcome {other}"),
    }
}
