//! The key of encrypted volumes on the bench: the same bytes inside and outside of machines, which share only drives.

use crate::error::{Context, Result};
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Its name.
pub const NAME: &str = "bench";

/// The folder of keys below a state folder.
pub fn folder(state: &Path) -> PathBuf {
    state.join("keys")
}

/// Puts its file where an agent with this state folder, which may not be there yet, looks for it: `key create` takes it over.
///
/// # Errors
/// A folder or the file cannot be made.
pub fn put(state: &Path) -> Result<()> {
    let folder = folder(state);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.doing(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("{NAME}.1"));
    let file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(&[0x5b; 32]));
    written.doing(|| format!("write {}", path.display()))
}
