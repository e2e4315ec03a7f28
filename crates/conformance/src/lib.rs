//! One suite for every engine: the promises of the delivery contract as cases, run against the real server.
