//! What this program does because of how aya does something else. Each file says what it
//! works around, since when, and what ends it; `cargo xtask tidy` asks for another look
//! when the version of aya changes.

pub(super) mod blanked_names;
pub(super) mod file_limit;
pub(super) mod forged_btf;
pub(super) mod generation_tables;
