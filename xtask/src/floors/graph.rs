//! The part of `cargo metadata` that the floors are about, small enough to plant violations in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result};
use cargo_metadata::DependencyKind;

use crate::workspace::Workspace;

/// A crate of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its folder from the root, like `engines/embedded`.
    pub(crate) path: String,
    /// Crates of ours in `[dependencies]` and `[build-dependencies]`, optional ones too.
    pub(crate) normal: BTreeSet<String>,
    /// Crates of ours in `[dev-dependencies]`.
    pub(crate) dev: BTreeSet<String>,
}

impl Member {
    /// The first part of its path: `crates`, `engines`, …
    pub(crate) fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }
}

/// The workspace's crates, and what every package links.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    pub(crate) members: Vec<Member>,
    /// Package → packages in its resolved normal and build dependencies. By name: two versions of a
    /// package are one here, which can only find more.
    pub(crate) links: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(crate) fn read(workspace: &Workspace) -> Result<Self> {
        let metadata = &workspace.metadata;
        let packages = metadata.workspace_packages();
        let ours: BTreeSet<String> = packages.iter().map(|p| p.name.to_string()).collect();
        let mut graph = Self::default();
        for package in packages {
            let folder = package
                .manifest_path
                .parent()
                .context("a manifest is in a folder")?;
            let path = folder
                .strip_prefix(&metadata.workspace_root)
                .unwrap_or(folder);
            let imports = |dev: bool| {
                let of_kind = package
                    .dependencies
                    .iter()
                    .filter(move |d| (d.kind == DependencyKind::Development) == dev);
                of_kind
                    .map(|d| d.name.clone())
                    .filter(|name| ours.contains(name))
                    .collect()
            };
            graph.members.push(Member {
                name: package.name.to_string(),
                path: path.to_string(),
                normal: imports(false),
                dev: imports(true),
            });
        }
        let resolve = metadata
            .resolve
            .as_ref()
            .context("cargo metadata resolved nothing")?;
        for node in &resolve.nodes {
            let links = graph
                .links
                .entry(metadata[&node.id].name.to_string())
                .or_default();
            let linked = node.deps.iter().filter(|dep| {
                dep.dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development)
            });
            links.extend(linked.map(|dep| metadata[&dep.pkg].name.to_string()));
        }
        Ok(graph)
    }

    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// For each of `targets` that `from` links, the shortest way there.
    pub(crate) fn ways(&self, from: &str, targets: &[&str]) -> Vec<Vec<String>> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut open = VecDeque::from([vec![from.to_owned()]]);
        let mut found = Vec::new();
        while let Some(way) = open.pop_front() {
            let here = way.last().expect("a way starts with its first package");
            for next in self.links.get(here).into_iter().flatten() {
                if !seen.insert(next.clone()) {
                    continue;
                }
                let mut longer = way.clone();
                longer.push(next.clone());
                if targets.contains(&next.as_str()) {
                    found.push(longer);
                } else {
                    open.push_back(longer);
                }
            }
        }
        found
    }
}
