//! The policy file: from its text to sections and values, and what is wrong with it.

pub mod diagnostic;
pub mod digest;
pub(crate) mod file;
pub mod network;
pub mod network_list;
pub mod newer;
pub(crate) mod parse;
pub mod problem;
pub mod schema;
pub mod toml_1_0;
pub(crate) mod until;
pub(crate) mod value;
