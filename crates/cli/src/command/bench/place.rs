//! Where it is measured: the directory, its file system, the machine.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

/// A directory for the files of one run, removed with all of them at the end.
#[derive(Debug)]
pub(super) struct Place {
    root: PathBuf,
    fsync: String,
    machine: String,
    made: AtomicU32,
}

impl Place {
    /// A new directory below `dir`.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("{} is not a directory", dir.display()))?;
        let root = dir.join(format!("postrider-bench-{}", std::process::id()));
        std::fs::create_dir(&root).with_context(|| format!("{} cannot be made", root.display()))?;
        Ok(Self {
            fsync: format!("fdatasync on {}", file_system(&root)),
            machine: machine(),
            root,
            made: AtomicU32::new(0),
        })
    }

    /// A path that nothing has yet.
    pub(super) fn path(&self, what: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("{number}-{what}"))
    }

    /// What stands above a table.
    pub(super) fn text(&self) -> String {
        let Self {
            root,
            fsync,
            machine,
            ..
        } = self;
        format!(
            "directory  {}\nfsync      {fsync}\nmachine    {machine}",
            root.parent().unwrap_or(root).display()
        )
    }

    /// What stands in each row.
    pub(super) fn json(&self) -> Map<String, Value> {
        let dir = self.root.parent().unwrap_or(&self.root);
        let pairs = [
            ("dir", json!(dir.display().to_string())),
            ("fsync", json!(self.fsync)),
            ("machine", json!(self.machine)),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            eprintln!("{} is left behind: {error}", self.root.display());
        }
    }
}

/// Whether a sync means anything depends on it.
fn file_system(path: &Path) -> String {
    let Ok(found) = rustix::fs::statfs(path) else {
        return "an unknown file system".to_owned();
    };
    match found.f_type as u64 {
        0xEF53 => "ext4".to_owned(),
        0x0102_1994 => "tmpfs (memory: a sync does nothing)".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x794C_7630 => "overlayfs".to_owned(),
        0x2FC1_2FC1 => "zfs".to_owned(),
        other => format!("a file system of type {other:#x}"),
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let gib = kib.unwrap_or(0) as f64 / f64::from(1 << 20);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} × {model}, {gib:.0} GiB, {} {}",
        std::env::consts::OS,
        release.trim()
    )
}
