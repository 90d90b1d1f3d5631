//! The export: rows of the history, to a database that has those of many hosts.

pub mod schema;
