//! A policy in the words of another tool.

pub mod nft;
