//! The first pass over the order file: what it holds, what is rejected and why, and how much stock it needs.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reader::OrderFile;
use crate::error::{CSV_UNREADABLE, Error, Result};
use crate::seed::{self, ARTICLES};

/// What an order file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Rows below the header.
    pub rows: u64,
    /// Distinct valid ids.
    pub accepted: u64,
    /// Rows that do not parse.
    pub rejected: u64,
    /// Later valid rows of an id that came before.
    pub repeated: u64,
    /// The quantity that the accepted orders ask for, per article.
    pub wanted: [u64; ARTICLES],
    /// SHA-256 of the file: the identity of this input.
    pub sha256: String,
}

/// Reads the whole file and writes the rejected rows (line number and reason) to `rejected`, anew and atomically. Keeps 16 bytes per
/// distinct id.
///
/// # Errors
/// As [`OrderFile::open`]; `rejected` cannot be written.
pub fn scan(orders: &Path, seed: u64, rejected: &Path) -> Result<Scan> {
    let mut file = OrderFile::open(orders)?;
    let mut scan = Scan {
        rows: 0,
        accepted: 0,
        rejected: 0,
        repeated: 0,
        wanted: [0; ARTICLES],
        sha256: sha256_of(orders)?,
    };
    let mut seen = HashSet::new();
    let mut rejects = Rejects::create(rejected)?;
    while let Some(row) = file.next_row()? {
        scan.rows += 1;
        match row.order {
            Err(reason) => {
                scan.rejected += 1;
                rejects.push(row.line, &reason)?;
            }
            Ok(order) if seen.insert(short_hash(&order.order_id)) => {
                scan.accepted += 1;
                if let Some(n) = seed::article(seed, &order.order_id) {
                    scan.wanted[n] += u64::from(order.quantity);
                }
            }
            Ok(_) => scan.repeated += 1,
        }
    }
    rejects.finish()?;
    Ok(scan)
}

/// Copies `input` to `to`, atomically; gives the number of bytes. Where there are none, `to` is left as it is.
///
/// # Errors
/// The input cannot be read, or the file cannot be written.
pub fn spool(mut input: impl Read, to: &Path) -> Result<u64> {
    let temporary = to.with_extension("csv.new");
    let failed = |e| Error::io("write", &temporary, e);
    let mut file = File::create(&temporary).map_err(failed)?;
    let mut buffer = [0_u8; 64 * 1024];
    let mut total = 0_u64;
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                return Err(Error::new(CSV_UNREADABLE, "cannot read standard input").because(e));
            }
        };
        file.write_all(buffer.get(..n).unwrap_or_default())
            .map_err(failed)?;
        total += n as u64;
    }
    file.sync_all().map_err(failed)?;
    if total == 0 && to.exists() {
        fs::remove_file(&temporary).map_err(failed)?;
    } else {
        publish(&temporary, to)?;
    }
    Ok(total)
}

/// Renames `temporary` to `to`, durably.
pub(crate) fn publish(temporary: &Path, to: &Path) -> Result<()> {
    let failed = |e| Error::io("write", to, e);
    fs::rename(temporary, to).map_err(failed)?;
    if let Some(parent) = to.parent() {
        File::open(parent)
            .and_then(|d| d.sync_all())
            .map_err(failed)?;
    }
    Ok(())
}

/// An id, short enough to keep one of every row.
pub(crate) fn short_hash(id: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().zip(Sha256::digest(id.as_bytes())) {
        *to = from;
    }
    short
}

fn sha256_of(path: &Path) -> Result<String> {
    let failed =
        |e| Error::new(CSV_UNREADABLE, format!("cannot read {}", path.display())).because(e);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = [0_u8; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => hash.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// `rejected.csv`: written beside its place and renamed at the end.
struct Rejects<'a> {
    path: &'a Path,
    temporary: std::path::PathBuf,
    csv: csv::Writer<BufWriter<File>>,
}

impl<'a> Rejects<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let temporary = path.with_extension("csv.new");
        let file = File::create(&temporary).map_err(|e| Error::io("write", &temporary, e))?;
        let mut rejects = Self {
            path,
            temporary,
            csv: csv::Writer::from_writer(BufWriter::new(file)),
        };
        rejects.record(["line", "reason"])?;
        Ok(rejects)
    }

    fn record(&mut self, fields: [&str; 2]) -> Result<()> {
        self.csv
            .write_record(fields)
            .map_err(|e| Error::io("write", &self.temporary, e.into()))
    }

    fn push(&mut self, line: u64, reason: &str) -> Result<()> {
        self.record([&line.to_string(), reason])
    }

    fn finish(self) -> Result<()> {
        let failed = |e| Error::io("write", &self.temporary, e);
        let file = self
            .csv
            .into_inner()
            .map_err(|e| failed(io::Error::other(e.to_string())))?
            .into_inner()
            .map_err(|e| failed(e.into_error()))?;
        file.sync_all().map_err(failed)?;
        publish(&self.temporary, self.path)
    }
}
