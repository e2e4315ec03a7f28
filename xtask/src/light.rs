//! The framework stays light: with default features (`embedded:` and `memory:`) and without any it
//! builds, and nothing in it is compiled from C.

use anyhow::{Result, bail};

use crate::sh::Cmd;
use crate::tally::Tally;
use crate::workspace::Workspace;

/// Packages named `*-sys` that are Rust alone: declarations of system calls, no foreign code.
const RUST_ONLY_SYS: [&str; 4] = ["linux-raw-sys", "windows-sys", "js-sys", "web-sys"];

/// Packages that start a foreign compiler from a build script.
const FOREIGN_BUILDERS: [&str; 4] = ["cc", "cmake", "bindgen", "pkg-config"];

pub(crate) fn run(workspace: &Workspace) -> Result<Tally> {
    for features in ["--no-default-features", ""] {
        let check = Cmd::cargo(&format!("check -p postrider {features}")).dir(&workspace.root);
        println!("$ {check}");
        check.show(|_| {})?;
    }
    let tree = Cmd::cargo("tree -p postrider -e normal,build --prefix none --format {p}")
        .dir(&workspace.root);
    println!("$ {tree}");
    let foreign = foreign_packages(&tree.capture()?);
    if !foreign.is_empty() {
        bail!(
            "the default features of postrider need a C compiler: {}\n  \
             why: the framework with `embedded:` and `memory:` builds with Rust alone\n  \
             do: put what brings it behind a feature that is not a default (`cargo tree -p postrider -i {}`)",
            foreign.join(", "),
            foreign[0],
        );
    }
    println!("no C compiler in the default features of postrider");
    Ok(Tally::default())
}

/// The packages of a `cargo tree` listing (one `name vVERSION` per line) that bring foreign code.
fn foreign_packages(tree: &str) -> Vec<String> {
    let names = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<String> = names
        .filter(|name| {
            let sys = name.ends_with("-sys") && !RUST_ONLY_SYS.contains(name);
            sys || FOREIGN_BUILDERS.contains(name)
        })
        .map(str::to_owned)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_code_is_found_and_rust_only_bindings_are_not() {
        let tree = "postrider v0.1.0 (/x)\nlinux-raw-sys v0.12.1\ncc v1.11.1\n\
                    libsqlite3-sys v0.37.0\ncc v1.11.1 (*)\ncfg-if v1.0.5\n";
        assert_eq!(foreign_packages(tree), ["cc", "libsqlite3-sys"]);
    }
}
