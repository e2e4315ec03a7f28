//! The fuzz targets of `fuzz/` on any Rust: the corpus, then seeded mutations of it, about a minute in all.
//!
//! A panic, a hang, an abort or memory over the limit fails; its input is written into the corpus, so that every later run replays it.

use anyhow::Result;

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// How long all targets run, together
    #[arg(long, default_value_t = Self::ci().seconds)]
    seconds: u64,
    /// Seed of the mutations
    #[arg(long, default_value_t = Self::ci().seed)]
    seed: u64,
    /// Write what the encoders make into the corpus, and run nothing
    #[arg(long)]
    make_corpus: bool,
}

impl Options {
    /// What CI runs.
    pub(crate) fn ci() -> Self {
        Self {
            seconds: 60,
            seed: 1,
            make_corpus: false,
        }
    }
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<Tally> {
    prove(workspace, options, &mut |_| {})
}

/// Runs them, and hands over each line that they print. Nothing is built for it that the tests did not build.
pub(crate) fn prove(
    workspace: &Workspace,
    options: &Options,
    on_line: &mut dyn FnMut(&str),
) -> Result<Tally> {
    let mut cmd = Cmd::cargo("test --workspace --all-features --test fuzz -- --nocapture")
        .env("POSTRIDER_FUZZ_SECONDS", options.seconds)
        .env("POSTRIDER_FUZZ_SEED", options.seed);
    if options.make_corpus {
        cmd = cmd.env("POSTRIDER_FUZZ_CORPUS", "write");
    }
    println!("$ {cmd}");
    let mut tally = Tally::default();
    let outcome = cmd.dir(&workspace.root).run(|line| {
        println!("{line}");
        on_line(line);
        tally += Tally::of_line(line).unwrap_or_default();
    })?;
    if outcome.code != Some(0) {
        tally.failed = tally.failed.max(1);
    }
    Ok(tally)
}
