//! Effects once on SQLite: state, inbox and outbox in one commit.
