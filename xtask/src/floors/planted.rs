//! Bugs are planted in tests alone: nothing that a program is built of turns the feature `planted` on.

use cargo_metadata::{DependencyKind, Package};

use crate::workspace::Workspace;

const FEATURE: &str = "planted";

/// What would bring planted bugs into a program.
pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let packages = workspace.metadata.workspace_packages();
    packages.into_iter().flat_map(check_one).collect()
}

fn check_one(package: &Package) -> Vec<String> {
    let normal = package
        .dependencies
        .iter()
        .filter(|d| d.kind != DependencyKind::Development);
    let by_dependency = normal
        .filter(|d| d.features.iter().any(|feature| feature == FEATURE))
        .map(|d| format!("its dependency {}", d.name));
    let by_feature = package
        .features
        .iter()
        .filter(|(name, implied)| *name != FEATURE && implied.iter().any(|one| turns_on(one)))
        .map(|(name, _)| format!("its feature `{name}`"));
    let wrong = by_dependency.chain(by_feature).map(|what| {
        format!(
            "{}/Cargo.toml: {what} turns `{FEATURE}` on\n  why: bugs are planted in tests alone, never in a program\n  do: take it out; tests have it by --all-features",
            package.name
        )
    });
    wrong.collect()
}

/// Of what a feature implies.
fn turns_on(implied: &str) -> bool {
    implied == FEATURE
        || implied
            .rsplit_once('/')
            .is_some_and(|(_, of)| of == FEATURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_plants_is_known_by_its_name_in_any_crate() {
        assert!(turns_on("planted") && turns_on("postrider-core/planted"));
        assert!(turns_on("postrider-log?/planted"));
        assert!(!turns_on("dep:planted-trees") && !turns_on("sqlite"));
    }
}
