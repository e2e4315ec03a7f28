//! The examples run: each ends by itself with exit code 0, within a limit, in an empty folder.

use std::time::Duration;

use anyhow::Result;

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// The examples that run by themselves. `shop` is a library; the process tests run it.
const EXAMPLES: [&str; 1] = ["hello"];

/// An example that takes longer has not ended by itself.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    let manifest = workspace
        .root
        .join("Cargo.toml")
        .to_string_lossy()
        .into_owned();
    for example in EXAMPLES {
        let build = Cmd::cargo(&format!("build -p {example}")).dir(&workspace.root);
        println!("$ {build}");
        build.show(|_| {})?;
        let run = Cmd::cargo("run --quiet --manifest-path")
            .args([manifest.as_str(), "-p", example])
            .dir(workspace.scratch(&format!("examples/{example}"))?)
            .env("CARGO_TARGET_DIR", workspace.target.display())
            .limit(LIMIT);
        println!("$ {run}");
        run.show(|_| {})?;
    }
    Ok(Tally::default())
}
