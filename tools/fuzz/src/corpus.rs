//! The corpora: inputs that took different ways, one folder for each target, small enough to be kept with the code.
//!
//! A file is an input without the zeroes at its end (targets over blocks fill them up again). Files whose name
//! begins with `crash-` once broke something.
use std::io;
use std::path::{Path, PathBuf};

/// Inputs of a target at most, crashes apart.
pub const MAX_FILES: usize = 40;
/// Bytes of an input that is kept at most.
pub const MAX_KEPT_BYTES: usize = 8192;

/// The folder of all corpora in this source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus")
}

/// A target's inputs, by name so that their order does not depend on the file system.
///
/// # Errors
/// The folder's; one that does not exist is empty.
pub fn load(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = match std::fs::read_dir(root().join(target)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut inputs = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        inputs.push((name, std::fs::read(path)?));
    }
    inputs.sort();
    Ok(inputs)
}

/// Keeps an input under its hash; the file's path.
///
/// # Errors
/// The file's.
pub fn keep(target: &str, prefix: &str, input: &[u8]) -> io::Result<PathBuf> {
    let folder = root().join(target);
    std::fs::create_dir_all(&folder)?;
    let end = input.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let mut hash = crate::signature::Signature::default();
    input[..end].chunks(7).for_each(|part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        word[7] = part.len() as u8;
        hash.note(u64::from_le_bytes(word));
    });
    let path = folder.join(format!("{prefix}{:016x}", hash.get()));
    std::fs::write(&path, &input[..end])?;
    Ok(path)
}
