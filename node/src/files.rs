//! Small files of the state folder: replaced whole or appended to, durably.
use crate::error::{Error, Kind, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file so that a cut at any instant leaves the old content or the new: a temporary file is written
/// and flushed, renamed over the old one, and the folder is flushed.
///
/// # Errors
/// The file system's.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source: &std::io::Error| Error::io("write", path, source);
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(|source| fail(&source))?;
    file.write_all(bytes).map_err(|source| fail(&source))?;
    file.sync_all().map_err(|source| fail(&source))?;
    std::fs::rename(&temporary, path).map_err(|source| fail(&source))?;
    sync_folder(path)
}

/// Appends a line and flushes it. A cut may leave a part of the line; readers ignore a line that does not end.
///
/// # Errors
/// The file system's.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let fail = |source: &std::io::Error| Error::io("append to", path, source);
    let existed = path.exists();
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path).map_err(|source| fail(&source))?;
    let start = if ends_in_half_line(&file).map_err(|source| fail(&source))? { "\n" } else { "" };
    file.write_all(format!("{start}{line}\n").as_bytes()).map_err(|source| fail(&source))?;
    file.sync_all().map_err(|source| fail(&source))?;
    if existed { Ok(()) } else { sync_folder(path) }
}

/// Whether a cut left the last line without its end: the next one must not be glued to it.
fn ends_in_half_line(file: &File) -> std::io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last[0] != b'\n')
}

/// Makes the entries of the folder of `path` durable.
///
/// # Errors
/// The file system's.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| Error::io("flush", folder, &source))
}

/// The whole lines of a file; none if it does not exist.
///
/// # Errors
/// The file system's.
pub fn whole_lines(path: &Path) -> Result<Vec<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let end = text.rfind('\n').map_or(0, |at| at + 1);
            Ok(text[..end].lines().map(str::to_owned).collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::io("read", path, &source)),
    }
}

/// A folder that only we can enter; made if it is not there. `danger` says what happens otherwise.
///
/// # Errors
/// `Permission` when it is open to others or somebody else's; the file system's.
pub fn private_folder(path: &Path, danger: &str) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::io("make", path, &source))?;
    let about = std::fs::metadata(path).map_err(|source| Error::io("examine", path, &source))?;
    closed(path, &about, danger)
}

/// Refuses what belongs to somebody else or is open to others.
///
/// # Errors
/// `Permission`.
pub fn closed(path: &Path, about: &std::fs::Metadata, danger: &str) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let name = path.display().to_string();
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("{name} is open to others (mode {mode:04o}); {danger}");
        let wanted = if about.is_dir() { "0700" } else { "0600" };
        return Err(
            Error::new(Kind::Permission, name.clone(), message).hint(format!("chmod {wanted} {name}"))
        );
    }
    if about.uid() != nix::unistd::geteuid().as_raw() {
        let message = format!("{name} belongs to another user (uid {})", about.uid());
        return Err(Error::new(Kind::Permission, name, message).hint("give the agent one of its own"));
    }
    Ok(())
}

/// 128 random bits, from the kernel.
///
/// # Errors
/// The kernel's random source cannot be read.
pub fn random_id() -> Result<base::Uuid> {
    let mut id = [0u8; 16];
    read_random(&mut id)?;
    // The version and variant of a random UUID.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(base::Uuid(id))
}

/// 128 random bits in hexadecimal.
///
/// # Errors
/// The kernel's random source cannot be read.
pub fn random_salt() -> Result<String> {
    let mut salt = [0u8; 16];
    read_random(&mut salt)?;
    Ok(salt.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_random(into: &mut [u8]) -> Result<()> {
    use std::io::Read;
    let path = Path::new("/dev/urandom");
    File::open(path)
        .and_then(|mut file| file.read_exact(into))
        .map_err(|source| Error::io("read", path, &source))
}

/// Parses the usual form of a UUID.
pub fn parse_uuid(text: &str) -> Option<base::Uuid> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    if digits.len() != 32 || text.len() != 36 {
        return None;
    }
    let mut id = [0u8; 16];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(base::Uuid(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_line_does_not_count() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("marks");
        assert_eq!(whole_lines(&path).expect("reads"), Vec::<String>::new());
        append_line(&path, "one").expect("appends");
        let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
        file.write_all(b"tw").expect("writes");
        assert_eq!(whole_lines(&path).expect("reads"), ["one"]);
        append_line(&path, "three").expect("appends");
        assert_eq!(whole_lines(&path).expect("reads"), ["one", "tw", "three"]);
        replace(&path, b"new\n").expect("replaces");
        assert_eq!(whole_lines(&path).expect("reads"), ["new"]);
    }

    #[test]
    fn ids_are_different_and_parse_back() {
        let (a, b) = (random_id().expect("random"), random_id().expect("random"));
        assert_ne!(a, b);
        assert_eq!(parse_uuid(&a.to_string()), Some(a));
        assert_eq!(parse_uuid("no"), None);
    }
}
