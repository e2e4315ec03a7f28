//! The provider's file: one JSON line per request that it answered, synced before the answer leaves.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::wire::{Answer, Entry, Op, Request};
use crate::error::{Error, OWN_FILE, Result};

/// Money that the provider moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Charged, in cents.
    pub charged: u64,
    /// Refunded, in cents.
    pub refunded: u64,
    /// Requests whose key was known.
    pub replays: u64,
    /// Charges executed beyond the first of an order. The keys should make it impossible: that is why it is counted.
    pub double_charged: u64,
}

/// The provider's file and what it says, by idempotency key.
pub struct Book {
    file: File,
    path: PathBuf,
    moved: Moved,
}

/// What was executed so far.
#[derive(Default)]
struct Moved {
    /// Cents by idempotency key.
    executed: HashMap<String, u64>,
    /// Orders with a charge.
    charged: HashSet<String>,
    totals: Totals,
}

impl Book {
    /// Opens the file, creating it where there is none. A last line that is torn (no line break, or not a whole entry) was never answered:
    /// it is cut off.
    ///
    /// # Errors
    /// `PR-1706`: an entry before the last is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("open", path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut moved = Moved::default();
        let whole = read_entries(path, |entry| moved.add(&entry))?;
        if whole < length {
            file.set_len(whole).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            moved,
        })
    }

    /// What was moved so far.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.moved.totals
    }

    /// Executes requests: appends their lines, syncs once, and only then gives the answers. After an error the book answers nothing
    /// more: what the file holds is not known before it is opened again.
    ///
    /// # Errors
    /// The file could not be written or synced.
    pub(super) fn execute(&mut self, requests: &[Request], at: &str) -> Result<Vec<Answer>> {
        let mut lines = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let known = self.moved.executed.get(&request.key).copied();
            let charge = format!("charge:{}", request.order);
            let answer = match (known, request.op) {
                (Some(cents), _) if cents == request.cents => Answer::Replayed,
                (Some(_), _) => Answer::Refused,
                (None, Op::Refund) if self.moved.executed.get(&charge) != Some(&request.cents) => {
                    Answer::Refused
                }
                (None, _) => Answer::Done,
            };
            answers.push(answer);
            if answer == Answer::Refused {
                continue;
            }
            let entry = Entry {
                op: request.op,
                key: request.key.clone(),
                order: request.order.clone(),
                cents: request.cents,
                replayed: answer == Answer::Replayed,
                at: at.to_owned(),
            };
            self.moved.add(&entry);
            serde_json::to_writer(&mut lines, &entry).map_err(|e| self.failed(e.into()))?;
            lines.push(b'\n');
        }
        // DURABILITY: the answers exist only behind this sync.
        self.file.write_all(&lines).map_err(|e| self.failed(e))?;
        self.file.sync_data().map_err(|e| self.failed(e))?;
        Ok(answers)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write", &self.path, error)
    }
}

impl Moved {
    fn add(&mut self, entry: &Entry) {
        if entry.replayed {
            self.totals.replays += 1;
            return;
        }
        self.executed.insert(entry.key.clone(), entry.cents);
        let sum = match entry.op {
            Op::Charge => {
                let first = self.charged.insert(entry.order.clone());
                self.totals.double_charged += u64::from(!first);
                &mut self.totals.charged
            }
            Op::Refund => &mut self.totals.refunded,
        };
        *sum = sum.saturating_add(entry.cents);
    }
}

/// Gives each whole entry of the file to `each`, in order, and the length of the part that they fill. A torn last line is not an entry.
///
/// # Errors
/// `PR-1706`: a line before the last is not an entry.
pub(crate) fn read_entries(path: &Path, mut each: impl FnMut(Entry)) -> Result<u64> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut reader = BufReader::with_capacity(256 * 1024, file);
    let mut line = Vec::new();
    let (mut whole, mut number, mut bad) = (0_u64, 0_u64, None);
    loop {
        line.clear();
        let n = reader
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::io("read", path, e))?;
        if n == 0 {
            return Ok(whole);
        }
        if let Some(bad) = bad {
            let what = format!("line {bad} of {} is damaged", path.display());
            return Err(Error::new(OWN_FILE, what)
                .why("it is not an entry, and lines follow it: this is no torn last write"));
        }
        number += 1;
        match serde_json::from_slice::<Entry>(&line) {
            Ok(entry) if line.ends_with(b"\n") => {
                whole += n as u64;
                each(entry);
            }
            _ => bad = Some(number),
        }
    }
}
