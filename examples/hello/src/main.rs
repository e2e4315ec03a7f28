//! The fifteen-line service, and something that sends to it.
fn main() {}
