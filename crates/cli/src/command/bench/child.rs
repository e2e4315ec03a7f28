//! What runs in a process of its own: to be killed, or so that its memory can be told from everybody else's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{delayed, idle, recovery, stuck};

/// Does the task that was named on the command line, and answers with one line of JSON.
pub(super) fn serve(task: &[String]) -> Result<()> {
    let words: Vec<&str> = task.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().context("a number was expected");
    let answer = match words[..] {
        ["subscribe", dir, count] => idle::subscribe(Path::new(dir), number(count)?)?,
        ["open", dir] => idle::open(Path::new(dir))?,
        ["delayed", dir, count, spread_ms] => {
            delayed::ours(Path::new(dir), number(count)?, number(spread_ms)?)?
        }
        ["timers", count, spread_ms] => delayed::theirs(number(count)?, number(spread_ms)?)?,
        ["flow", dir, bytes] => stuck::flow(Path::new(dir), number(bytes)?)?,
        ["acked", dir, count] => stuck::acked(Path::new(dir), number(count)?)?,
        ["fill", dir, bytes] => recovery::fill(Path::new(dir), number(bytes)?)?,
        _ => bail!("there is no task {task:?}"),
    };
    say(&answer)
}

/// Writes a line to the parent.
pub(super) fn say(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

fn spawn(task: &[&str]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // A child must not outlive a parent that was interrupted: its input ends with the parent.
    command.args(["bench", "--child"]).args(task);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("a process could not be started")
}

/// Runs a task in a process of its own. Gives what it answered.
pub(super) fn run(task: &[&str]) -> Result<Value> {
    let mut child = spawn(task)?;
    let mut text = String::new();
    if let Some(mut out) = child.stdout.take() {
        out.read_to_string(&mut text)?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "{task:?} ended with {status}");
    serde_json::from_str(&text).context("a process gave no answer")
}

/// Runs a task until it says its first line, and kills it without a warning.
pub(super) fn kill_after_a_word(task: &[&str]) -> Result<()> {
    let mut child = spawn(task)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    child.kill()?;
    child.wait()?;
    ensure!(!line.is_empty(), "{task:?} ended before it was killed");
    Ok(())
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the directory's name is not UTF-8")
}

/// A number of an answer.
pub(super) fn number(answer: &Value, name: &str) -> Result<f64> {
    let number = answer.get(name).and_then(Value::as_f64);
    number.with_context(|| format!("a process did not say its {name}"))
}

/// Memory of this process that is in use, in bytes.
pub(super) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) << 10
}

/// Processor time of this process so far, all its threads together, in seconds.
pub(super) fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in parentheses, may hold anything; fields 14 and 15 are user and system time in ticks of 10 ms.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}

/// Bytes that a directory takes on its disk.
pub(super) fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    // What is removed meanwhile takes nothing.
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => on_disk(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
