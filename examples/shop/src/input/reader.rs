//! Reads the order file row by row: BOM, CRLF, quotes, columns in any order, further columns ignored.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use csv::ByteRecord;

use super::row::{Fields, Order};
use crate::error::{CSV_COLUMN, CSV_UNREADABLE, Error, Result};

const COLUMNS: [&str; 5] = ["order_id", "customer_id", "placed_at", "quantity", "amount"];

/// One row of the file.
#[derive(Debug)]
pub struct Row {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// The order, or why the row is rejected.
    pub order: std::result::Result<Order, Cow<'static, str>>,
}

/// An order file, read row by row.
pub struct OrderFile<R> {
    csv: csv::Reader<Plain<R>>,
    columns: [usize; 5],
    record: ByteRecord,
    name: String,
}

impl OrderFile<File> {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// `PR-1702`: it cannot be read or is not text. `PR-1701`: a column is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let unreadable = |e| Error::new(CSV_UNREADABLE, format!("cannot read {name}")).because(e);
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(Error::new(CSV_UNREADABLE, format!("{name} is a directory")));
        }
        Self::new(file, name)
    }
}

impl<R: Read> OrderFile<R> {
    /// Reads the header of `input`, which messages call `name`.
    ///
    /// # Errors
    /// As [`OrderFile::open`].
    pub fn new(input: R, name: String) -> Result<Self> {
        let mut csv = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(Plain::new(input));
        let mut header = ByteRecord::new();
        let found = csv
            .read_byte_record(&mut header)
            .map_err(|e| unreadable(&name, e))?;
        if !found {
            return Err(Error::new(
                CSV_COLUMN,
                format!("{name} is empty: it has no header"),
            ));
        }
        if header
            .iter()
            .any(|h| h.contains(&0) || std::str::from_utf8(h).is_err())
        {
            return Err(
                Error::new(CSV_UNREADABLE, format!("{name} is not a text file"))
                    .why("its first line is not UTF-8"),
            );
        }
        let mut columns = [0; 5];
        for (column, wanted) in columns.iter_mut().zip(COLUMNS) {
            *column = header
                .iter()
                .position(|h| h.trim_ascii() == wanted.as_bytes())
                .ok_or_else(|| missing(&name, wanted, &header))?;
        }
        Ok(Self {
            csv,
            columns,
            record: ByteRecord::new(),
            name,
        })
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// `PR-1702`: the operating system refused a read.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        let found = self
            .csv
            .read_byte_record(&mut self.record)
            .map_err(|e| unreadable(&self.name, e))?;
        if !found {
            return Ok(None);
        }
        // The reader's own start of a record lies before the blank lines that it skips; its end is exact.
        let breaks = self
            .record
            .as_slice()
            .iter()
            .filter(|b| **b == b'\n')
            .count() as u64;
        let line = self.csv.position().line().saturating_sub(1 + breaks);
        Ok(Some(Row {
            line,
            order: self.parse(),
        }))
    }

    fn parse(&self) -> std::result::Result<Order, Cow<'static, str>> {
        let field = |n: usize| {
            self.record.get(self.columns[n]).ok_or_else(|| {
                Cow::from(format!(
                    "the row has {} fields, so {} is missing",
                    self.record.len(),
                    COLUMNS[n]
                ))
            })
        };
        Fields {
            order_id: field(0)?,
            customer_id: field(1)?,
            placed_at: field(2)?,
            quantity: field(3)?,
            amount: field(4)?,
        }
        .parse()
    }
}

fn unreadable(name: &str, error: csv::Error) -> Error {
    Error::new(CSV_UNREADABLE, format!("cannot read {name}")).because(error)
}

fn missing(name: &str, column: &str, header: &ByteRecord) -> Error {
    let has: Vec<_> = header
        .iter()
        .take(12)
        .map(String::from_utf8_lossy)
        .collect();
    Error::new(CSV_COLUMN, format!("{name} lacks the column {column}"))
        .why(format!("its header is {}", has.join(",")))
}

/// The input without BOM, with LF for CRLF and a line break at its end, so that lines can be counted.
struct Plain<R> {
    inner: BufReader<R>,
    started: bool,
    pending_cr: bool,
    last: u8,
    ended: bool,
    chunk: Vec<u8>,
    given: usize,
}

impl<R: Read> Plain<R> {
    fn new(inner: R) -> Self {
        Self {
            inner: BufReader::new(inner),
            started: false,
            pending_cr: false,
            last: b'\n',
            ended: false,
            chunk: Vec::new(),
            given: 0,
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.chunk.clear();
        self.given = 0;
        let mut raw = [0_u8; 16 * 1024];
        // The first read must hold the BOM as a whole.
        let mut filled = 0;
        loop {
            let n = match self.inner.read(&mut raw[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            filled += n;
            if n == 0 || self.started || filled >= 3 {
                break;
            }
        }
        let mut bytes = raw.get(..filled).unwrap_or_default();
        if !self.started {
            self.started = true;
            bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        }
        for byte in bytes {
            if self.pending_cr && *byte != b'\n' {
                self.chunk.push(b'\r');
            }
            self.pending_cr = *byte == b'\r';
            if !self.pending_cr {
                self.chunk.push(*byte);
            }
        }
        if filled == 0 {
            self.ended = true;
            if self.last != b'\n' || self.pending_cr {
                self.chunk.push(b'\n');
            }
        }
        self.last = self.chunk.last().copied().unwrap_or(self.last);
        Ok(())
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            self.refill()?;
        }
        let rest = self.chunk.get(self.given..).unwrap_or_default();
        let n = rest.len().min(out.len());
        for (to, from) in out.iter_mut().zip(rest) {
            *to = *from;
        }
        self.given += n;
        Ok(n)
    }
}
