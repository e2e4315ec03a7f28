use super::*;

const ROOT: &str = r#"
[workspace.package]
repository = "https://example.org/postrider"

[workspace.dependencies]
# ours
postrider = { path = "crates/postrider" }
serde = { version = "1.0", features = ["derive"] }
bytes = "1.12"
tokio = { version = "1.54", default-features = false }

[profile.dev]
"#;

#[test]
fn inherited_dependencies_are_written_as_outside_of_the_workspace() {
    let own = "postrider = { workspace = true, features = [\"sqlite\"] }\n\
               serde = { workspace = true, features = [\"rc\"] }\n\
               bytes.workspace = true\n\
               tokio = { workspace = true, features = [\"rt\", \"macros\"] }\n";
    let expected = "postrider = { git = \"https://example.org/postrider\", features = [\"sqlite\"] }\n\
                    serde = { version = \"1.0\", features = [\"derive\", \"rc\"] }\n\
                    bytes = \"1.12\"\n\
                    tokio = { version = \"1.54\", default-features = false, features = [\"rt\", \"macros\"] }\n";
    assert_eq!(manifest::outside(own, ROOT).unwrap(), expected);
}

#[test]
fn a_block_that_differs_by_one_byte_is_found() {
    let readme = "# Hi\n```rust hello\nfn main() {}\n```\n\n```rust\nother\n```\n";
    let found = blocks(readme, "rust hello");
    assert_eq!(found, ["fn main() {}\n"]);
    assert!(same(MAIN, "rust hello", &found, &["fn main() {}\n".to_owned()]).is_ok());
    let error = same(MAIN, "rust hello", &found, &["fn main() { }\n".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("first in line 1"), "{error}");
    assert!(same(MAIN, "rust hello", &[], &["fn main() {}\n".to_owned()]).is_err());
}

#[test]
fn only_what_stands_between_the_marks_is_shown() {
    let main = "use x;\n// README: begin\nfn a() {}\n// README: end\nfn main() {}\n";
    assert_eq!(shown(main).unwrap(), "fn a() {}\n");
    assert_eq!(shown("fn main() {}\n").unwrap(), "fn main() {}\n");
    assert!(shown("// README: end\n// README: begin\n").is_err());
}
