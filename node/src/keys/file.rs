//! Keys in files: `STATE/keys/NAME.VERSION`, 32 random bytes each, in a folder of mode 0700, mode 0600.
//!
//! Whoever can read the state folder can read what these keys protect: they are for drives that leave the machine, not for
//! a machine that is taken over. What others may read is refused, because it has been read.
//!
//! Crash story: a file is written aside, flushed, and renamed to its name (`files::replace`), so that it has all 32 bytes or
//! is not there. What was written aside and not renamed was never used, and is wiped with the key. A file goes by being
//! overwritten, flushed, and removed; one that was overwritten and not removed is zeroes, and is removed by the repetition.
use super::local::Source;
use super::seal::{KEY_BYTES, random_secret};
use super::{Secret, warn_if_unlocked};
use crate::error::{Error, Kind, Result};
use crate::files;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The files of one key.
pub(crate) struct Files<'a> {
    folder: &'a Path,
    name: &'a str,
}

impl<'a> Files<'a> {
    pub fn new(folder: &'a Path, name: &'a str) -> Self {
        Self { folder, name }
    }

    fn path(&self, version: u32) -> PathBuf {
        self.folder.join(format!("{}.{version}", self.name))
    }

    /// The highest version that has a file.
    pub fn highest(&self) -> Result<Option<u32>> {
        let entries = match std::fs::read_dir(self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::io("list", self.folder, &source)),
            Ok(entries) => entries,
        };
        let version = |file: std::fs::DirEntry| {
            let file = file.file_name();
            let (name, version) = file.to_str()?.rsplit_once('.')?;
            version.parse().ok().filter(|_| name == self.name)
        };
        Ok(entries.flatten().filter_map(version).max())
    }

    fn lost(&self, version: u32, why: &str) -> Error {
        let path = self.path(version).display().to_string();
        let message = format!("version {version} of key {} {why} ({path})", self.name);
        Error::new(Kind::Permission, self.name, message).hint("put the file back from a copy")
    }
}

impl Source for Files<'_> {
    fn make(&self, version: u32) -> Result<()> {
        files::private_folder(self.folder, DANGER)?;
        let path = self.path(version);
        if path.exists() {
            return self.load(version).map(drop);
        }
        files::replace(&path, random_secret(KEY_BYTES)?.expose())
    }

    fn load(&self, version: u32) -> Result<Secret> {
        let path = self.path(version);
        let secret = match read_private(&path, KEY_BYTES + 1) {
            Err(error) if error.kind == Kind::NotFound => return Err(self.lost(version, "is not there")),
            outcome => outcome?,
        };
        warn_if_unlocked();
        if secret.len() != KEY_BYTES || secret.same(&[0; KEY_BYTES]) {
            return Err(self.lost(version, "is damaged"));
        }
        Ok(secret)
    }

    fn forget(&self, version: u32) -> Result<()> {
        let path = self.path(version);
        for path in [path.with_extension("new"), path] {
            erase(&path)?;
        }
        Ok(())
    }
}

/// Why others must not read it.
const DANGER: &str = "whoever can read it can read what its keys protect";

/// Reads a file that nobody else may read; at most `limit` bytes of it.
///
/// # Errors
/// `NotFound`; `Permission` when others may read it or it belongs to somebody else.
pub(crate) fn read_private(path: &Path, limit: usize) -> Result<Secret> {
    let fail = |source: &std::io::Error| Error::io("read", path, source);
    let mut file = File::open(path).map_err(|source| fail(&source))?;
    // The file that is read, whatever becomes of the path meanwhile.
    let about = file.metadata().map_err(|source| fail(&source))?;
    files::closed(path, &about, DANGER)?;
    if !about.is_file() {
        let name = path.display().to_string();
        return Err(Error::new(Kind::Permission, name.clone(), format!("{name} is not a file")));
    }
    let mut secret = Secret::zeroed(limit);
    let mut len = 0;
    while len < limit {
        match file.read(&mut secret.expose_mut()[len..]).map_err(|source| fail(&source))? {
            0 => break,
            read => len += read,
        }
    }
    secret.truncate(len);
    Ok(secret)
}

/// Overwrites a file and removes it, durably; no harm if it is not there.
fn erase(path: &Path) -> Result<()> {
    let fail = |source: &std::io::Error| Error::io("erase", path, source);
    let mut file = match File::options().write(true).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(fail(&source)),
        Ok(file) => file,
    };
    let overwritten = file.write_all(&[0; KEY_BYTES]).and_then(|()| file.sync_all());
    overwritten.and_then(|()| std::fs::remove_file(path)).map_err(|source| fail(&source))?;
    files::sync_folder(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_erased_with_what_was_left_of_it() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = folder.path().join("keys");
        let files = Files::new(&keys, "k");
        assert_eq!(files.highest().expect("lists"), None);
        assert_eq!(files.load(1).expect_err("none").kind, Kind::Permission);
        files.make(1).expect("makes");
        let first = files.load(1).expect("loads");
        files.make(1).expect("is there");
        assert!(files.load(1).expect("loads").same(first.expose()), "it stays what it is");
        files.make(12).expect("makes");
        assert!(!files.load(12).expect("loads").same(first.expose()));
        assert_eq!(files.highest().expect("lists"), Some(12));
        assert_eq!(Files::new(&keys, "k.1").highest().expect("lists"), None);
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&keys), mode(&keys.join("k.1"))), (0o700, 0o600));
        std::fs::write(keys.join("k.new"), first.expose()).expect("writes");
        for _ in 0..2 {
            files.forget(1).expect("forgets");
            files.forget(12).expect("forgets");
        }
        assert_eq!(std::fs::read_dir(&keys).expect("lists").count(), 0);
    }

    #[test]
    fn what_others_can_read_or_what_is_cut_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = folder.path().join("keys");
        let files = Files::new(&keys, "k");
        files.make(1).expect("makes");
        let path = keys.join("k.1");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets");
        };
        set(&path, 0o640);
        let refused = files.load(1).expect_err("refused");
        assert_eq!(refused.kind, Kind::Permission);
        assert!(refused.to_string().contains("chmod 0600"), "{refused}");
        assert_eq!(files.make(1).expect_err("refused").kind, Kind::Permission);
        set(&path, 0o600);
        set(&keys, 0o750);
        assert_eq!(files.make(2).expect_err("refused").kind, Kind::Permission);
        set(&keys, 0o700);
        for content in [vec![1; 31], vec![1; 33], vec![0; 32], Vec::new()] {
            std::fs::write(&path, content).expect("writes");
            assert_eq!(files.load(1).expect_err("refused").kind, Kind::Permission);
        }
    }
}
