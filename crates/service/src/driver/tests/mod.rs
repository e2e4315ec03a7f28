//! The driver against scripted sources, on virtual time.

#![allow(clippy::unwrap_used)]

mod credit;
mod effects;
mod failing;
mod life;
mod log;
mod suspects;
mod world;
