//! Vocabulary and contracts of Postrider: message, envelope, engine, source, settle, fault, plan, store.
