//! The cases on `memory:` and on `embedded:`.
#![allow(clippy::unwrap_used)]

mod support;

mod memory {
    crate::support::cases!(Some(postrider_conformance::subjects::Embedded::in_memory()));
}

mod directory {
    crate::support::cases!(Some(
        postrider_conformance::subjects::Embedded::in_directory().unwrap()
    ));
}
