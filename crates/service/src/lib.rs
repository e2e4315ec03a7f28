//! The framework of Postrider: bus, handlers, extractors, effects, layers, relay, admin API.
