//! Where the workspace is and what `cargo metadata` says about it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

/// The workspace that this task runs in.
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Where cargo builds (`target`, or what `CARGO_TARGET_DIR` says).
    pub(crate) target: PathBuf,
    /// The whole answer of `cargo metadata`, dependencies resolved.
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Reads the workspace around this package.
    ///
    /// The folder comes from the environment that `cargo run` gives, not from compile time: two
    /// checkouts may share one target folder.
    pub(crate) fn load() -> Result<Self> {
        let mut command = MetadataCommand::new();
        if let Some(package) = std::env::var_os("CARGO_MANIFEST_DIR") {
            command.manifest_path(Path::new(&package).join("Cargo.toml"));
        }
        let metadata = command.exec().context("cargo metadata failed")?;
        Ok(Self {
            root: metadata.workspace_root.clone().into_std_path_buf(),
            target: metadata.target_directory.clone().into_std_path_buf(),
            metadata,
        })
    }

    /// An empty folder of that name under the target folder; what an earlier run left is removed.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target.join("xtask").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}
