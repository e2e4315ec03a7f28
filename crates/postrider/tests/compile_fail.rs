//! Mistakes are explained by the compiler: the text of each is asserted.

// The texts are those of the default features: without `admin` the compiler knows one trait `Handler` less and writes ours shorter.
#[cfg(all(feature = "admin", feature = "embedded"))]
#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
