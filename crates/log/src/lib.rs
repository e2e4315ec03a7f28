//! The storage engine of Postrider: one log, many views.
