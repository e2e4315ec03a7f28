//! Mistakes are explained by the compiler: the text of each is asserted.

#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
