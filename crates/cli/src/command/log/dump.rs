//! `postrider log dump`: entry by entry.

use std::io::Write as _;
use std::ops::ControlFlow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::Code;
use postrider_log::tools::{self, DumpEntry, DumpValue};
use postrider_log::{Lsn, Record};
use serde_json::{Map, Value, json};

use super::work::refused;
use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Failure, Result, Stop};
use crate::output::{Form, Output};
use crate::text::plain;

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider log dump --dir ./data | head
  postrider log dump --dir ./data --from 4711 -n 20        twenty entries from that frame on
  postrider log dump --dir ./data --kind failure -o jsonl", after_help = EXIT_CODES)]
pub(crate) struct Dump {
    /// From this frame on
    #[arg(long, value_name = "LSN", default_value_t = 0)]
    from: u64,
    /// End after this many entries
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Only entries of this kind, as docs/formats/log-entries.md names them: data, settle, failure, …
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Dump) -> Result {
    let dir = arguments.place.directory()?;
    super::known(&dir)?;
    let from = dir.clone();
    let task = tokio::task::spawn_blocking(move || {
        let mut writer = Writer::new(&arguments);
        let dumped = tools::dump(from, Lsn(arguments.from), &mut |entry| writer.take(&entry));
        (dumped, writer.end())
    });
    let done = tokio::select! {
        done = task => done,
        // What was not written yet is not.
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    };
    let (dumped, written) = done.map_err(|error| {
        let failure = Failure::new(
            Exit::Failed,
            Code::CLI_FAILED,
            "the dump ended before its time",
        );
        Stop::from(failure.why(error.to_string()))
    })?;
    dumped.map_err(|error| refused(&dir, &error))?;
    written.map(|()| Exit::Ok)
}

/// Writes as they come.
struct Writer {
    form: Form,
    kind: Option<String>,
    left: u64,
    began: bool,
    out: std::io::BufWriter<std::io::Stdout>,
    failed: Option<std::io::Error>,
}

impl Writer {
    fn new(arguments: &Dump) -> Self {
        Self {
            form: arguments.output.form,
            kind: arguments.kind.clone(),
            left: arguments.count.unwrap_or(u64::MAX),
            began: false,
            out: std::io::BufWriter::new(std::io::stdout()),
            failed: None,
        }
    }

    fn take(&mut self, entry: &DumpEntry) -> ControlFlow<()> {
        if self.kind.as_deref().is_some_and(|kind| kind != entry.kind) {
            return ControlFlow::Continue(());
        }
        if self.left == 0 {
            return ControlFlow::Break(());
        }
        self.left -= 1;
        let text = match self.form {
            Form::Table => table(entry),
            Form::Jsonl => format!("{}\n", json_of(entry)),
            Form::Json if self.began => format!(",\n{}", json_of(entry)),
            Form::Json => format!("[\n{}", json_of(entry)),
            Form::Name => format!("{}\n", entry.lsn.0),
        };
        self.began = true;
        match self.out.write_all(text.as_bytes()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn end(mut self) -> Result<()> {
        if self.form == Form::Json {
            let end = if self.began { "\n]\n" } else { "[]\n" };
            let written = self.out.write_all(end.as_bytes());
            self.failed = self.failed.or_else(|| written.err());
        }
        let flushed = self.out.flush();
        let failed = self.failed.or_else(|| flushed.err());
        match failed {
            None => Ok(()),
            Some(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Stop::PipeClosed),
            Some(error) => {
                let what = "the output cannot be written";
                let failure = Failure::new(Exit::Failed, Code::CLI_FAILED, what);
                Err(failure.why(error.to_string()).into())
            }
        }
    }
}

fn table(entry: &DumpEntry) -> String {
    let mut out = format!("{}\n", plain(&entry.to_string()));
    for record in &entry.records {
        let key = record
            .key
            .as_ref()
            .map(|key| key.escape_ascii().to_string());
        let line = format!(
            "    {} key={} bytes={}",
            record.offset,
            key.unwrap_or_else(|| "-".to_owned()),
            record.value.as_ref().map_or(0, hyper::body::Bytes::len)
        );
        out.push_str(&format!("{line}\n"));
    }
    out
}

fn json_of(entry: &DumpEntry) -> Value {
    let fields = entry.fields.iter().map(|(name, value)| {
        let value = match value {
            DumpValue::Number(number) => json!(number),
            DumpValue::Flag(flag) => json!(flag),
            DumpValue::Text(text) => json!(text),
            DumpValue::Bytes(bytes) => json!({ "base64": STANDARD.encode(bytes) }),
            DumpValue::Ranges(ranges) => json!(ranges),
        };
        ((*name).to_owned(), value)
    });
    json!({
        "lsn": entry.lsn.0,
        "segment": entry.location.segment.0,
        "at": entry.location.at,
        "kind": entry.kind,
        "fields": fields.collect::<Map<_, _>>(),
        "records": entry.records.iter().map(record).collect::<Vec<_>>(),
    })
}

fn record(record: &Record) -> Value {
    let encoded =
        |bytes: &Option<hyper::body::Bytes>| bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
    json!({
        "offset": record.offset,
        "appended_at_ms": record.appended_at_ms,
        "key_base64": encoded(&record.key),
        "value_base64": encoded(&record.value),
    })
}
