//! The run's directory: whose it is, and what is prepared in it before the services start.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{DIR_IS_A_FILE, DIR_LOCKED, DIR_NOT_OURS, Error, OTHER_INPUT, OWN_FILE, Result};
use crate::input::{self, OrderFile, Scan};
use crate::options::{Options, OrderSource};
use crate::protocol::Orders;
use crate::seed::ARTICLES;

/// How long a start waits for the process that held the directory before.
const HOLDER_GOES_WITHIN: Duration = Duration::from_secs(2);
/// Stock of each article for made-up orders: more than anybody orders.
const MADE_UP_STOCK: u64 = 1 << 40;
/// The format of `demo.json`.
const FORMAT: u32 = 1;

/// What stands in `demo.json`: what a later run on the same directory must agree with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunFile {
    format: u32,
    seed: u64,
    engine: Option<String>,
    input: Input,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Input {
    MadeUp,
    File(Box<Scan>),
}

/// A directory that this process holds.
#[derive(Debug)]
pub struct Directory {
    /// Where it is, absolute.
    pub path: PathBuf,
    /// Whether it was made for this run, in the system's temporary directory.
    pub is_temporary: bool,
    /// Held until the process ends.
    _lock: File,
}

/// Everything that is known before the services start.
#[derive(Debug)]
pub struct Prepared {
    /// The run's directory.
    pub dir: Directory,
    /// What the file holds; `None`: made up.
    pub scan: Option<Scan>,
    /// Where the services read the orders.
    pub orders: Orders,
    /// Stock at the start, per article.
    pub stock: [u64; ARTICLES],
}

impl Prepared {
    /// Takes the directory, reads the input once, and checks that both belong together.
    ///
    /// # Errors
    /// `PR-100x`: the directory; `PR-1701`, `PR-1702`: the input; `PR-1705`: the directory belongs to a run with other settings.
    pub async fn new(options: &Options) -> Result<Self> {
        if let OrderSource::File(path) = &options.orders {
            // Before anything is made: a file that cannot be read leaves no trace.
            OrderFile::open(path)?;
        }
        let dir = Directory::take(options.data.as_deref()).await?;
        let path = dir.path.clone();
        let (options, seed) = (options.clone(), options.seed);
        let prepare = move || -> Result<_> {
            let rejected = path.join("rejected.csv");
            let scan = match source_file(&options.orders, &path)? {
                None => None,
                Some(file) => Some((input::scan(&file, seed, &rejected)?, file)),
            };
            let run = RunFile {
                format: FORMAT,
                seed,
                engine: options.engine.clone(),
                input: scan
                    .as_ref()
                    .map_or(Input::MadeUp, |(s, _)| Input::File(Box::new(s.clone()))),
            };
            agree(&path.join("demo.json"), &run)?;
            Ok((scan, options))
        };
        let (scan, options) = tokio::task::spawn_blocking(prepare)
            .await
            .map_err(|e| Error::new(OWN_FILE, "the input could not be read").because(e))??;
        let stock = scan
            .as_ref()
            .map_or([MADE_UP_STOCK; ARTICLES], |(scan, _)| {
                // A little more than is asked for, so that all are served and little is left in the end.
                scan.wanted.map(|wanted| wanted + 10 + wanted / 20)
            });
        let orders = scan.as_ref().map_or_else(
            || Orders::MadeUp(made_up_total(&options)),
            |(_, file)| Orders::File(file.clone()),
        );
        Ok(Self {
            dir,
            scan: scan.map(|(scan, _)| scan),
            orders,
            stock,
        })
    }
}

/// The URL with names of this run's own on a server that others use too: what they begin with is made once and kept in the directory. A URL that says
/// it itself, and an engine that has its own directory, stay as they are.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn engine_url(dir: &Path, url: &str) -> Result<String> {
    let own = url.starts_with("embedded:") || url.contains("?prefix=") || url.contains("&prefix=");
    if own {
        return Ok(url.to_owned());
    }
    let path = dir.join("engine-prefix");
    let prefix = match fs::read_to_string(&path) {
        Ok(prefix) => prefix,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let now = now.unwrap_or_default().as_micros();
            let prefix = format!("shop-{now:x}-{:x}.", std::process::id());
            fs::write(&path, &prefix).map_err(|e| Error::io("write", &path, e))?;
            prefix
        }
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let joint = if url.contains('?') { '&' } else { '?' };
    // The services are one process under one name: killed and started again, they have their partitions back at once.
    let is_named = !url.starts_with("kafka:") || url.contains("member=");
    let member = if is_named { "" } else { "&member=shop" };
    Ok(format!("{url}{joint}prefix={}{member}", prefix.trim()))
}

/// In `--ci` made-up orders are a fixed number, so that a resumed run ends with the same sheet.
fn made_up_total(options: &Options) -> Option<u64> {
    let rate = u64::from(options.rate.unwrap_or(Options::RATE_DEFAULT));
    options.ci.then(|| rate * Options::MADE_UP_CI.as_secs())
}

fn source_file(orders: &OrderSource, dir: &Path) -> Result<Option<PathBuf>> {
    match orders {
        OrderSource::MadeUp => Ok(None),
        OrderSource::File(path) => path
            .canonicalize()
            .map(Some)
            .map_err(|e| Error::io("find", path, e)),
        OrderSource::Stdin => {
            let spooled = dir.join("orders.csv");
            input::spool(io::stdin().lock(), &spooled)?;
            Ok(Some(spooled))
        }
    }
}

fn agree(path: &Path, run: &RunFile) -> Result<()> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let temporary = path.with_extension("json.new");
            let failed = |e| Error::io("write", &temporary, e);
            let mut json = serde_json::to_vec_pretty(run).map_err(|e| failed(e.into()))?;
            json.push(b'\n');
            fs::write(&temporary, json).map_err(failed)?;
            File::open(&temporary)
                .and_then(|f| f.sync_all())
                .map_err(failed)?;
            return input::publish(&temporary, path);
        }
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let before: RunFile = serde_json::from_slice(&text).map_err(|e| {
        Error::new(OWN_FILE, format!("{} cannot be read", path.display())).because(e)
    })?;
    let differs = if before.seed != run.seed {
        format!("--seed was {} and is {}", before.seed, run.seed)
    } else if before.input != run.input {
        "the orders are others".to_owned()
    } else if before != *run {
        "--engine is another".to_owned()
    } else {
        return Ok(());
    };
    let what = format!(
        "{} belongs to a run with other settings",
        path.parent().unwrap_or(path).display()
    );
    Err(Error::new(OTHER_INPUT, what).why(differs))
}

impl Directory {
    /// Makes or takes the directory, and holds it. Waits up to 2 s for a process that held it before.
    ///
    /// # Errors
    /// `PR-1001` to `PR-1004`. What is not ours stays untouched.
    pub async fn take(asked: Option<&Path>) -> Result<Self> {
        let path = match asked {
            Some(path) => path.to_owned(),
            None => temporary(),
        };
        if path.exists() && !path.is_dir() {
            let what = format!("{} is a file, not a directory", path.display());
            return Err(Error::new(DIR_IS_A_FILE, what));
        }
        check_ours(&path)?;
        fs::create_dir_all(&path).map_err(|e| Error::io("create", &path, e))?;
        let path = path
            .canonicalize()
            .map_err(|e| Error::io("find", &path, e))?;
        let lock = path.join("demo.lock");
        let file = File::create(&lock).map_err(|e| Error::io("write", &lock, e))?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if begin.elapsed() < HOLDER_GOES_WITHIN => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let what = format!("another demo runs in {}", path.display());
                    return Err(Error::new(DIR_LOCKED, what)
                        .why("it holds demo.lock, and did not go within 2 s")
                        .remedy("end it, or name another --data directory"));
                }
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", &lock, e)),
            }
        }
        Ok(Self {
            path,
            is_temporary: asked.is_none(),
            _lock: file,
        })
    }
}

fn temporary() -> PathBuf {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    std::env::temp_dir().join(format!(
        "postrider-demo-{}-{}",
        now.as_secs(),
        std::process::id()
    ))
}

/// What a run that was killed while it prepared may have left.
const LEFT_BY_A_START: [&str; 6] = [
    "demo.lock",
    "orders.csv",
    "orders.csv.new",
    "rejected.csv",
    "rejected.csv.new",
    "demo.json.new",
];

fn check_ours(path: &Path) -> Result<()> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry.map_err(|e| Error::io("read", path, e))?.file_name();
        if name == "demo.json" {
            return Ok(());
        }
        if !LEFT_BY_A_START.iter().any(|ours| name == *ours) {
            foreign = Some(name);
        }
    }
    let Some(foreign) = foreign else {
        return Ok(());
    };
    let what = format!("{} is not a directory of the demo", path.display());
    Err(Error::new(DIR_NOT_OURS, what).why(format!(
        "it holds {} and no demo.json; nothing in it was touched",
        foreign.to_string_lossy()
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(data: &Path, orders: &Path) -> Options {
        Options {
            data: Some(data.to_owned()),
            orders: OrderSource::File(orders.to_owned()),
            ..Options::default()
        }
    }

    async fn refused(options: &Options) -> Error {
        Prepared::new(options).await.err().unwrap()
    }

    #[tokio::test]
    async fn the_same_command_is_taken_again_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (data, orders) = (dir.path().join("d"), dir.path().join("o.csv"));
        let text = "order_id,customer_id,placed_at,quantity,amount\na,c,2026-01-01,1,5\n";
        fs::write(&orders, text).unwrap();
        let same = options(&data, &orders);
        let first = Prepared::new(&same).await.unwrap();
        assert_eq!(first.scan.as_ref().unwrap().accepted, 1);
        drop(first);
        drop(Prepared::new(&same).await.unwrap());
        let other_seed = Options {
            seed: 99,
            ..same.clone()
        };
        assert_eq!(refused(&other_seed).await.code, OTHER_INPUT);
        fs::write(&orders, format!("{text}b,c,2026-01-01,1,5\n")).unwrap();
        assert_eq!(refused(&same).await.code, OTHER_INPUT);
        let made_up = Options {
            orders: OrderSource::MadeUp,
            ..same
        };
        assert_eq!(refused(&made_up).await.code, OTHER_INPUT);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_ours_stays_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let made_up = Options {
            data: Some(dir.path().to_owned()),
            ..Options::default()
        };
        assert_eq!(refused(&made_up).await.code, DIR_NOT_OURS);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let file = Options {
            data: Some(dir.path().join("thesis.tex")),
            ..Options::default()
        };
        assert_eq!(refused(&file).await.code, DIR_IS_A_FILE);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_makes_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("d");
        assert_eq!(
            refused(&options(&data, &dir.path().join("none")))
                .await
                .code,
            1702
        );
        assert!(!data.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_has_one_demo_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let held = Directory::take(Some(dir.path())).await.unwrap();
        // The wait is by the system's clock; virtual time only makes the pauses free.
        assert_eq!(
            Directory::take(Some(dir.path())).await.err().unwrap().code,
            DIR_LOCKED
        );
        drop(held);
        Directory::take(Some(dir.path())).await.unwrap();
    }
}
