//! Where things lie: the workspace, and the cache outside of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The workspace root: the directory above this crate's.
pub(crate) fn workspace() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// A directory below the cache, created when it is missing.
///
/// The cache is `$PORT_MONITOR_CACHE`, or `port-monitor` in the user's cache
/// directory: outside the work tree, so that it outlives a clean clone.
pub(crate) fn cache_dir(name: &str) -> Result<PathBuf> {
    let dir = cache_root()?.join(name);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// Puts the directory `ready` in the place of `dir`, which may exist.
pub(crate) fn replace(ready: &Path, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    fs::rename(ready, dir).with_context(|| format!("fill {}", dir.display()))
}

fn cache_root() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("PORT_MONITOR_CACHE") {
        return Ok(dir.into());
    }
    let user_cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .context("find the cache directory: set PORT_MONITOR_CACHE")?;
    Ok(user_cache.join("port-monitor"))
}
