//! Test kit for services on Postrider: an app on memory: under virtual time.
