//! Runs the targets on any Rust: the corpus first, then seeded mutations of it.
//!
//! Each input is written to a folder before it runs, so that whatever ends the process (a panic, an abort, memory over the limit, a hang) leaves
//! its input behind; the test that starts this program takes it into the corpus, to be replayed by every later run.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postrider_core::clock::SplitMix64;
use postrider_fuzz::mutate::mutate;
use postrider_fuzz::{Target, targets};

/// One input may take this long.
const HANG: Duration = Duration::from_secs(20);
/// Address space of the process: an allocation out of proportion ends it.
const MEMORY_BYTES_MAX: u64 = 4 << 30;

static PANICKED: AtomicBool = AtomicBool::new(false);
/// Counts inputs, so that the watchdog sees whether one goes on.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["corpus"] => make_corpus(root),
        ["replay", name, file] => replay(name, Path::new(file)),
        ["run", seconds, seed, inputs] => {
            run_all(root, Path::new(inputs), seconds.parse()?, seed.parse()?)
        }
        _ => bail!("usage: fuzz-targets corpus | replay TARGET FILE | run SECONDS SEED FOLDER"),
    }
}

/// Writes what the real encoders make into the corpus.
fn make_corpus(root: &Path) -> Result<()> {
    for target in targets() {
        let dir = root.join("corpus").join(target.name);
        fs::create_dir_all(&dir)?;
        let seeds = (target.seeds)();
        for (name, bytes) in &seeds {
            fs::write(dir.join(name), bytes)?;
        }
        println!("{}: {} inputs", target.name, seeds.len());
    }
    Ok(())
}

fn replay(name: &str, file: &Path) -> Result<()> {
    let all = targets();
    let target = all
        .iter()
        .find(|t| t.name == name)
        .with_context(|| format!("no target {name}"))?;
    (target.run)(&fs::read(file)?);
    println!("{name} takes {}", file.display());
    Ok(())
}

fn run_all(root: &Path, inputs: &Path, seconds: u64, seed: u64) -> Result<()> {
    guard()?;
    let all = targets();
    let share = Duration::from_secs(seconds) / all.len() as u32;
    for target in &all {
        Run::new(root, inputs, target)?.go(share, seed)?;
    }
    Ok(())
}

/// A limit for memory, an eye on panics of any thread, and one on hangs.
fn guard() -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(MEMORY_BYTES_MAX),
        maximum: Some(MEMORY_BYTES_MAX),
    };
    setrlimit(Resource::As, limit).context("cannot limit memory")?;
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::SeqCst);
        usual(info);
    }));
    std::thread::spawn(|| {
        let mut seen = u64::MAX;
        loop {
            std::thread::park_timeout(HANG);
            let begun = BEGUN.load(Ordering::SeqCst);
            if begun == seen {
                eprintln!("error: one input takes more than {HANG:?}");
                std::process::exit(70);
            }
            seen = begun;
        }
    });
    Ok(())
}

struct Run<'a> {
    target: &'a Target,
    corpus: Vec<Vec<u8>>,
    /// Holds the input that runs.
    current: File,
    path: PathBuf,
    inputs: u64,
}

impl<'a> Run<'a> {
    fn new(root: &Path, inputs: &Path, target: &'a Target) -> Result<Self> {
        let folder = root.join("corpus").join(target.name);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .with_context(|| {
                format!(
                    "no corpus in {}: `cargo xtask fuzz --make-corpus`",
                    folder.display()
                )
            })?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
        let path = inputs.join(target.name);
        ensure!(!corpus.is_empty(), "the corpus of {} is empty", target.name);
        Ok(Self {
            target,
            corpus,
            current: File::create(&path)?,
            path,
            inputs: 0,
        })
    }

    fn go(&mut self, share: Duration, seed: u64) -> Result<()> {
        let began = Instant::now();
        let mut rng = SplitMix64::new(seed);
        for input in self.corpus.clone() {
            self.one(&input)?;
        }
        while began.elapsed() < share {
            let pick = |rng: &mut SplitMix64| rng.below(self.corpus.len() as u64) as usize;
            let (input, other) = (pick(&mut rng), pick(&mut rng));
            let input = mutate(&mut rng, &self.corpus[input], &self.corpus[other]);
            self.one(&input)?;
        }
        fs::remove_file(&self.path)?;
        let proof = serde_json::json!({
            "name": format!("fuzz_{}", self.target.name),
            "what": self.target.what,
            "inputs": self.inputs,
            "corpus": self.corpus.len(),
            "seed": seed,
            "seconds": began.elapsed().as_secs(),
            "found": 0,
        });
        println!("proof: {proof}");
        Ok(())
    }

    fn one(&mut self, input: &[u8]) -> Result<()> {
        // One file, kept open: to create it anew costs more than most targets do.
        self.current.write_all_at(input, 0)?;
        self.current.set_len(input.len() as u64)?;
        BEGUN.fetch_add(1, Ordering::SeqCst);
        self.inputs += 1;
        let ended = catch_unwind(AssertUnwindSafe(|| (self.target.run)(input)));
        if ended.is_ok() && !PANICKED.load(Ordering::SeqCst) {
            return Ok(());
        }
        bail!("{} panicked", self.target.name);
    }
}
