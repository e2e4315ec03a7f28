//! The live screen at a terminal.

mod frame;
mod terminal;

pub use frame::{View, frame};
pub use terminal::{Key, Screen};
