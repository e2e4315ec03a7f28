//! Dependency lines, as text: a dependency is one line in this repository's manifests.

use anyhow::{Context, Result};

/// The lines of `[name]` up to the next section, without blank lines and comments.
pub(crate) fn section(manifest: &str, name: &str) -> String {
    let header = format!("[{name}]");
    let lines = manifest
        .lines()
        .skip_while(|line| line.trim() != header)
        .skip(1);
    let own = lines.take_while(|line| !line.trim_start().starts_with('['));
    own.filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|line| format!("{}\n", line.trim()))
        .collect()
}

/// The same dependencies as somebody outside of the workspace writes them.
pub(crate) fn outside(own: &str, root: &str) -> Result<String> {
    let inherited = section(root, "workspace.dependencies");
    let repository = value(&section(root, "workspace.package"), "repository")
        .context("the root Cargo.toml names no repository")?;
    own.lines()
        .map(|line| outside_line(line, &inherited, &repository))
        .collect()
}

fn outside_line(line: &str, inherited: &str, repository: &str) -> Result<String> {
    let (name, own) = line.split_once('=').context("a dependency is `name = …`")?;
    let (name, own) = (name.trim(), own.trim());
    let (name, own) = match name.strip_suffix(".workspace") {
        Some(name) => (name, Vec::new()),
        None if own.contains("workspace = true") => (name, fields(own)),
        None => return Ok(format!("{line}\n")),
    };
    let base = value(inherited, name)
        .with_context(|| format!("{name} is not in [workspace.dependencies]"))?;
    let mut merged: Vec<(String, String)> = Vec::new();
    for (key, value) in fields(&base).into_iter().chain(own) {
        match key.as_str() {
            "workspace" => {}
            "path" => merged.push(("git".to_owned(), repository.to_owned())),
            _ => match merged.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => *known = join_lists(known, &value),
                None => merged.push((key, value)),
            },
        }
    }
    Ok(format!("{name} = {}\n", written(&merged)))
}

/// The right side of `name = …` among these lines.
fn value(lines: &str, name: &str) -> Option<String> {
    let pair = |line: &'_ str| -> Option<(String, String)> {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    lines
        .lines()
        .filter_map(pair)
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// `{ a = 1, b = [2, 3] }` as pairs; a plain string is a version.
fn fields(table: &str) -> Vec<(String, String)> {
    let Some(inner) = table
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return vec![("version".to_owned(), table.to_owned())];
    };
    let mut depth = 0;
    let parts = inner.split(|c: char| {
        depth += i32::from(c == '[') - i32::from(c == ']');
        c == ',' && depth == 0
    });
    parts
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Features add up: `["a"]` and `["b"]` are `["a", "b"]`.
fn join_lists(one: &str, other: &str) -> String {
    let items = |list: &str| list.trim_matches(['[', ']']).trim().to_owned();
    format!("[{}, {}]", items(one), items(other))
}

fn written(fields: &[(String, String)]) -> String {
    match fields {
        [(key, value)] if key == "version" => value.clone(),
        _ => {
            let pairs: Vec<String> = fields.iter().map(|(k, v)| format!("{k} = {v}")).collect();
            format!("{{ {} }}", pairs.join(", "))
        }
    }
}
