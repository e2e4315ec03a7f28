//! Links of the pages to files of the project: each must lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::rules::{Finding, Rule};

/// Links in a page that lead to no file. `exists` takes a path from the root.
pub(super) fn dead(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            if !exists(&from_root(path, target)) {
                findings.push(Finding {
                    path: path.to_owned(),
                    line: index + 1,
                    rule: Rule::DeadLink,
                    what: format!("`{target}` is not there"),
                    item: "-".to_owned(),
                    size: None,
                });
            }
        }
    }
    findings
}

/// The relative targets of the `[text](target)` links of one line, without their `#part`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?.split('#').next()?;
        let outside = target.contains("://") || target.starts_with("mailto:");
        (!target.is_empty() && !outside).then_some(target)
    })
}

fn from_root(page: &str, target: &str) -> PathBuf {
    let mut path = Path::new(page)
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}
