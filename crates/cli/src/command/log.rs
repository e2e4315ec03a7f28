//! `postrider log`: the files of an engine directory. Verify, dump, back up, restore.

mod dump;
mod work;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use postrider::Code;
use postrider_log::{BackupReport, tools};
use serde_json::{Value, json};

use crate::client::Place;
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Output, Shown, cell, items, number, sheet, table};
use crate::report::note;
use crate::stopped::is_engine_directory;
use work::{blocking, refused};

#[derive(Subcommand)]
#[command(before_help = "Examples:
  postrider log verify --dir ./data                 reads every byte, and says what is damaged
  postrider log dump --dir ./data | head            what was written, entry by entry
  postrider log backup ./backup --dir ./data        a copy, also while it runs
  postrider log restore ./backup ./data2            a directory of its own from it", after_help = EXIT_CODES)]
pub(crate) enum Verb {
    /// Read every byte of a directory that is not running; exit code 9 where something is damaged.
    Verify(Verify),
    /// What was written, entry by entry, of a directory that is not running.
    Dump(dump::Dump),
    /// Copy a directory, running or not, into an empty one. The copy is read back.
    Backup(Backup),
    /// Make a directory from a backup. Both are verified; the backup stays as it is.
    Restore(Restore),
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider log verify --dir ./data
  postrider log verify --dir ./backup -o json | jq .damage", after_help = EXIT_CODES)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider log backup ./backup                          of ./data
  postrider log backup /mnt/backup/monday --dir /var/lib/shop", after_help = EXIT_CODES)]
pub(crate) struct Backup {
    /// Where the copy goes: a directory that is empty or not there
    target: PathBuf,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(clap::Args)]
#[command(before_help = "Examples:
  postrider log restore ./backup ./data2
  postrider log restore /mnt/backup/monday /var/lib/shop -o json", after_help = EXIT_CODES)]
pub(crate) struct Restore {
    /// The backup
    backup: PathBuf,
    /// The directory to make: one that is empty or not there
    target: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(verb: Verb) -> Result {
    match verb {
        Verb::Verify(arguments) => verify(arguments).await,
        Verb::Dump(arguments) => dump::run(arguments).await,
        Verb::Backup(arguments) => backup(arguments).await,
        Verb::Restore(arguments) => restore(arguments).await,
    }
}

/// Only an engine's directory is looked at: in another one nothing is made, not even a lock.
fn known(dir: &Path) -> Result<()> {
    if is_engine_directory(dir) {
        return Ok(());
    }
    let what = format!("{} is no engine directory", dir.display());
    Err(Failure::new(Exit::NotFound, Code::DIR_NOT_OURS, what).into())
}

async fn verify(arguments: Verify) -> Result {
    let dir = arguments.place.directory()?;
    known(&dir)?;
    let path = dir.clone();
    let report = blocking("verifying", None, move |_| tools::verify(path)).await?;
    let report = report.map_err(|error| refused(&dir, &error))?;
    let segment = |s: &tools::SegmentReport| {
        json!({
            "segment": s.id.0, "file": s.file, "bytes": s.bytes, "used": s.used,
            "after": s.after.0, "last": s.last.0, "frames": s.frames,
        })
    };
    let damage = |d: &tools::Damage| {
        json!({
            "file": d.file, "at": d.at, "first": d.first.0, "last": d.last.0, "what": d.what,
        })
    };
    let json = json!({
        "directory": dir.display().to_string(),
        "sound": report.is_sound(),
        "clean": report.clean,
        "refused": report.refused,
        "last": report.last.0,
        "checkpoint": report.checkpoint.0,
        "torn": report.cut.is_some(),
        "frames": report.frames,
        "entries": report.entries,
        "bytes": report.bytes,
        "live": report.live,
        "segments": report.segments.iter().map(segment).collect::<Vec<_>>(),
        "damage": report.damage.iter().map(damage).collect::<Vec<_>>(),
    });
    let text = || verify_text(&json);
    let name = |report: &Value| cell(report, "/directory");
    arguments.output.write(&Shown::one(&json, name, &text))?;
    if report.is_sound() {
        return Ok(Exit::Ok);
    }
    let what = match (&report.refused, report.damage.len()) {
        (Some(why), _) => why.clone(),
        (None, places) => crate::text::count(places, "damaged place"),
    };
    Err(Failure::new(Exit::CheckFailed, Code::LOG_CORRUPT, what).into())
}

fn verify_text(report: &Value) -> String {
    let rows = [
        ("directory", "/directory"),
        ("sound", "/sound"),
        ("closed in order", "/clean"),
        ("torn end, never confirmed", "/torn"),
        ("last frame", "/last"),
        ("checkpoint at", "/checkpoint"),
        ("frames", "/frames"),
        ("entries", "/entries"),
        ("bytes read", "/bytes"),
        ("still needed", "/live"),
    ];
    let rows = rows.map(|(name, path)| [name.to_owned(), cell(report, path)]);
    let mut out = sheet(rows.to_vec());
    let list = |name: &str| items(report.get(name).unwrap_or(&Value::Null)).to_vec();
    let row = |s: &Value| ["/file", "/bytes", "/used", "/last", "/frames"].map(|p| cell(s, p));
    let segments = list("segments");
    let heads = ["SEGMENT", "BYTES", "USED", "LAST", "FRAMES"];
    out.push_str(&format!(
        "\n{}",
        table(heads, segments.iter().map(row).collect())
    ));
    let damage = list("damage");
    if !damage.is_empty() {
        let row = |d: &Value| ["/file", "/at", "/first", "/last", "/what"].map(|p| cell(d, p));
        let heads = ["DAMAGED", "AT", "FROM", "TO", "WHAT"];
        out.push_str(&format!(
            "\n{}",
            table(heads, damage.iter().map(row).collect())
        ));
    }
    out
}

async fn backup(arguments: Backup) -> Result {
    let client = arguments.place.client()?;
    let target = std::path::absolute(&arguments.target).map_err(|error| {
        let what = format!("{} is no path", arguments.target.display());
        Failure::usage(what).why(error.to_string())
    })?;
    let holds_something = std::fs::read_dir(&target).is_ok_and(|mut all| all.next().is_some());
    if holds_something {
        let what = format!("{} is not empty; nothing was done", target.display());
        return Err(Failure::new(Exit::Conflict, Code::CLI_CONFLICT, what)
            .why("a backup is a directory of its own")
            .remedy("name a directory that is new or empty")
            .into());
    }
    let copied = match client.is_answered().await {
        true => {
            let body = json!({ "target": target.display().to_string() });
            work::while_asked("backing up", client.post_forever("/v1/backup", &body)).await?
        }
        false => {
            let dir = client.dir().to_owned();
            known(&dir)?;
            let (from, to) = (dir.clone(), target.clone());
            let total = work::bytes_of(&dir);
            let copy = move |note: &mut dyn FnMut(u64)| {
                let report = tools::backup(from, &to, note)?;
                let read_back = tools::verify(to)?;
                Ok((report, read_back))
            };
            let copied = blocking("backing up", total, copy).await?;
            let (report, read_back) = copied.map_err(|error| refused(&dir, &error))?;
            if !read_back.is_sound() {
                let what = format!("{} cannot be read back", target.display());
                return Err(Failure::new(Exit::Failed, Code::LOG_CORRUPT, what).into());
            }
            report_json(&report, Some(read_back.live))
        }
    };
    written(arguments.output, "backed up to", &target, copied)
}

async fn restore(arguments: Restore) -> Result {
    let Restore {
        backup,
        target,
        output,
    } = arguments;
    known(&backup)?;
    let (from, to) = (backup.clone(), target.clone());
    let total = work::bytes_of(&backup);
    let copy = move |note: &mut dyn FnMut(u64)| tools::restore(from, to, note);
    let report = blocking("restoring", total, copy).await?;
    let report = report.map_err(|error| refused(&backup, &error))?;
    written(output, "restored to", &target, report_json(&report, None))
}

fn report_json(report: &BackupReport, live: Option<u64>) -> Value {
    json!({
        "last": report.last.0, "segments": report.segments, "bytes": report.bytes, "live": live,
    })
}

fn written(output: Output, done: &str, target: &Path, mut report: Value) -> Result {
    if let Some(fields) = report.as_object_mut() {
        fields.insert("target".into(), json!(target.display().to_string()));
    }
    let row = ["/target", "/bytes", "/segments", "/live", "/last"].map(|path| cell(&report, path));
    let heads = [
        "DIRECTORY",
        "BYTES",
        "SEGMENTS",
        "STILL NEEDED",
        "LAST FRAME",
    ];
    let text = || table(heads, vec![row.clone()]);
    let name = |report: &Value| cell(report, "/target");
    output.write(&Shown::one(&report, name, &text))?;
    let bytes = number(&report, "/bytes").unwrap_or(0);
    note(&format!(
        "{done} {} ({bytes} bytes), and read back",
        target.display()
    ));
    Ok(Exit::Ok)
}
