//! What the handlers of a case saw, in the order in which they saw it, and what may be concluded from it.
//!
//! The anomalies are named after those of Jepsen's Kafka workload, as far as they can be seen from handlers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// What a handler did with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It began.
    Started,
    /// It returned `Ok`.
    Done,
    /// It returned an error.
    Failed,
    /// It was dropped at an `await`.
    Cancelled,
}

/// One line of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// The service whose handler it was.
    pub service: String,
    /// The member whose handler it was.
    pub member: u32,
    /// The message's key.
    pub key: String,
    /// Its number within the key, from 0.
    pub n: u32,
    /// The attempt, as the handler was told.
    pub attempt: u32,
    /// Whether it came back from the failure store.
    pub redriven: bool,
    /// What happened.
    pub what: What,
}

/// What must not be in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// A message was handled before one of its key that comes earlier.
    Skip {
        /// The key.
        key: String,
        /// What was handled last before it.
        after: Option<u32>,
        /// What was handled.
        n: u32,
    },
    /// A message was handled again where nothing allows it.
    Repeat {
        /// The key.
        key: String,
        /// Which.
        n: u32,
    },
    /// Two handlers had messages of one key at once.
    Overlap {
        /// The key.
        key: String,
        /// The one that ran.
        n: u32,
        /// The one that began.
        other: u32,
    },
    /// Messages that were confirmed were never handled.
    Lost {
        /// How many.
        count: usize,
        /// One of them.
        sample: (String, u32),
    },
    /// It did not come to the end that was waited for.
    Late {
        /// What was waited for.
        what: String,
    },
    /// Something else.
    Other {
        /// What.
        what: String,
    },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skip { key, after, n } => {
                write!(f, "skip: of key {key}, {n} was handled after {after:?}")
            }
            Self::Repeat { key, n } => write!(f, "repeat: of key {key}, {n} was handled again"),
            Self::Overlap { key, n, other } => write!(
                f,
                "overlap: of key {key}, {other} began while {n} was being handled"
            ),
            Self::Lost { count, sample } => write!(
                f,
                "lost: {count} confirmed messages were never handled, {} of key {} for one",
                sample.1, sample.0
            ),
            Self::Late { what } => write!(f, "late: {what}"),
            Self::Other { what } => f.write_str(what),
        }
    }
}

impl From<postrider::Error> for Anomaly {
    fn from(error: postrider::Error) -> Self {
        let what = error.to_string();
        Self::Other { what }
    }
}

/// What handlers saw. Clones share it.
#[derive(Clone, Debug)]
pub struct History {
    events: Arc<Mutex<Vec<Event>>>,
    /// How many there are: what waits is woken by it.
    count: watch::Sender<usize>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            events: Arc::default(),
            count: watch::Sender::new(0),
        }
    }
}

impl History {
    /// Adds a line.
    pub fn push(&self, event: Event) {
        let mut events = self.events.lock();
        events.push(event);
        // Under the lock, so that the count never goes back.
        self.count.send_replace(events.len());
    }

    /// A copy of all of it.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.events.lock().clone()
    }

    /// What one service saw.
    #[must_use]
    pub fn of(&self, service: &str) -> Vec<Event> {
        let events = self.events.lock();
        events
            .iter()
            .filter(|e| e.service == service)
            .cloned()
            .collect()
    }

    /// Waits until `enough` holds, for at most `within`. Cancel safe.
    ///
    /// # Errors
    /// [`Anomaly::Late`], with `what` and the last lines.
    pub async fn until(
        &self,
        what: &str,
        within: Duration,
        enough: impl Fn(&[Event]) -> bool,
    ) -> Result<(), Anomaly> {
        let mut count = self.count.subscribe();
        let waiting = async {
            while !enough(&self.events.lock()) {
                if count.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(within, waiting).await.is_ok() {
            return Ok(());
        }
        let events = self.events.lock();
        let last: Vec<String> = events
            .iter()
            .rev()
            .take(5)
            .map(|e| format!("{}/{} {}#{} {:?}", e.service, e.member, e.key, e.n, e.what))
            .collect();
        let what = format!(
            "{what} did not come within {within:?}; {} lines, the last: {}",
            events.len(),
            last.join(", ")
        );
        Err(Anomaly::Late { what })
    }
}

/// How many different messages were handled to an end.
pub(crate) fn handled(events: &[Event]) -> usize {
    let done = events.iter().filter(|e| e.what == What::Done);
    done.map(|e| (&e.service, &e.key, e.n))
        .collect::<BTreeSet<_>>()
        .len()
}

/// How many times a message was handled to an end beyond the first.
pub(crate) fn duplicates(events: &[Event]) -> u64 {
    let done = events.iter().filter(|e| e.what == What::Done).count();
    (done - handled(events)) as u64
}

/// Whether a message may be handled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// Nothing went wrong: each is handled once.
    None,
    /// A suffix of what was handled of a key may come again, from its beginning.
    OfSuffix,
}

/// Per key: what was handled has no gap, and goes back only to repeat a suffix; one member never has two messages of a key in handlers at once, and
/// where nothing goes wrong no two members have. (A member that lost its key may not know it yet: its handler is cancelled, and commits nothing.)
pub(crate) fn in_order(events: &[Event], repeats: Repeats) -> Result<(), Anomaly> {
    let mut last: BTreeMap<&str, u32> = BTreeMap::new();
    let mut running: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    for event in events {
        let key = event.key.as_str();
        let place = match repeats {
            Repeats::None => (key, 0),
            Repeats::OfSuffix => (key, event.member),
        };
        match event.what {
            What::Started => {
                if let Some(n) = running.insert(place, event.n) {
                    return Err(Anomaly::Overlap {
                        key: key.into(),
                        n,
                        other: event.n,
                    });
                }
            }
            What::Done | What::Failed | What::Cancelled => {
                running.remove(&place);
            }
        }
        if event.what != What::Done {
            continue;
        }
        let before = last.insert(key, event.n);
        let next = before.map_or(0, |n| n + 1);
        if event.n > next {
            return Err(Anomaly::Skip {
                key: key.into(),
                after: before,
                n: event.n,
            });
        }
        if event.n < next && repeats == Repeats::None {
            return Err(Anomaly::Repeat {
                key: key.into(),
                n: event.n,
            });
        }
    }
    Ok(())
}

/// Every message of `published` (keys, and how many of each) was handled.
pub(crate) fn nothing_lost(events: &[Event], published: &[(String, u32)]) -> Result<(), Anomaly> {
    let done: BTreeSet<(&str, u32)> = events
        .iter()
        .filter(|e| e.what == What::Done)
        .map(|e| (e.key.as_str(), e.n))
        .collect();
    let all = published
        .iter()
        .flat_map(|(key, count)| (0..*count).map(move |n| (key, n)));
    let lost: Vec<(String, u32)> = all
        .filter(|(key, n)| !done.contains(&(key.as_str(), *n)))
        .map(|(key, n)| (key.clone(), n))
        .collect();
    match lost.first() {
        None => Ok(()),
        Some(sample) => Err(Anomaly::Lost {
            count: lost.len(),
            sample: sample.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(story: &[(&str, u32, What)]) -> Vec<Event> {
        let line = |(key, n, what): &(&str, u32, What)| Event {
            at: Instant::now(),
            service: "s".into(),
            member: 1,
            key: (*key).into(),
            n: *n,
            attempt: 1,
            redriven: false,
            what: *what,
        };
        story.iter().map(line).collect()
    }

    fn done(numbers: &[u32]) -> Vec<Event> {
        let story: Vec<_> = numbers
            .iter()
            .flat_map(|n| [("k", *n, What::Started), ("k", *n, What::Done)])
            .collect();
        told(&story)
    }

    #[test]
    fn a_gap_is_a_skip_also_after_a_repeat() {
        assert_eq!(in_order(&done(&[0, 1, 2]), Repeats::None), Ok(()));
        let skip = in_order(&done(&[0, 2]), Repeats::OfSuffix);
        assert!(matches!(skip, Err(Anomaly::Skip { n: 2, .. })), "{skip:?}");
        let skip = in_order(&done(&[1]), Repeats::OfSuffix);
        assert!(matches!(skip, Err(Anomaly::Skip { n: 1, .. })), "{skip:?}");
        let skip = in_order(&done(&[0, 1, 2, 0, 2]), Repeats::OfSuffix);
        assert!(matches!(skip, Err(Anomaly::Skip { n: 2, .. })), "{skip:?}");
    }

    #[test]
    fn a_suffix_may_come_again_only_where_something_went_wrong() {
        let again = done(&[0, 1, 2, 1, 2, 3]);
        assert_eq!(in_order(&again, Repeats::OfSuffix), Ok(()));
        let repeat = in_order(&again, Repeats::None);
        assert!(
            matches!(repeat, Err(Anomaly::Repeat { n: 1, .. })),
            "{repeat:?}"
        );
        assert_eq!(duplicates(&again), 2);
    }

    #[test]
    fn two_of_a_key_at_once_are_an_overlap() {
        let story = told(&[("k", 0, What::Started), ("k", 1, What::Started)]);
        let overlap = in_order(&story, Repeats::OfSuffix);
        assert!(
            matches!(overlap, Err(Anomaly::Overlap { n: 0, other: 1, .. })),
            "{overlap:?}"
        );
        let story = told(&[
            ("k", 0, What::Started),
            ("l", 0, What::Started),
            ("k", 0, What::Failed),
            ("k", 0, What::Started),
        ]);
        assert_eq!(in_order(&story, Repeats::None), Ok(()));
    }

    #[test]
    fn what_was_never_handled_is_lost() {
        let published = [("k".to_owned(), 3)];
        assert_eq!(nothing_lost(&done(&[0, 1, 2]), &published), Ok(()));
        let lost = nothing_lost(&done(&[0, 1]), &published);
        assert!(
            matches!(lost, Err(Anomaly::Lost { count: 1, .. })),
            "{lost:?}"
        );
    }
}
