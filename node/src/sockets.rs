//! Unix sockets at paths of any length.
//!
//! The kernel's address of a socket holds 107 bytes of path (unix(7), `sun_path`). The agent makes its own socket
//! and those of its targets in folders that the operator chose, so a deep folder must not stop a volume from
//! being served: a longer path is reached through its folder, opened here, as `/proc/self/fd/N/NAME`. That the
//! address is another spelling is seen by nobody: the file is where the path says.
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// Bytes of a path that the kernel's address holds, the closing zero not counted.
pub const MAX_ADDRESS: usize = 107;

/// A spelling of a socket's path that the kernel takes, for as long as this lives.
pub struct Address {
    spelling: PathBuf,
    /// What the spelling goes through.
    _folder: Option<File>,
}

impl Address {
    /// An address of the socket at `path`, which need not exist; its folder must.
    ///
    /// # Errors
    /// The folder cannot be opened, or the name alone is too long for an address.
    pub fn of(path: &Path) -> Result<Self> {
        if path.as_os_str().len() <= MAX_ADDRESS {
            return Ok(Self { spelling: path.to_owned(), _folder: None });
        }
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
        let spelling = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        if spelling.as_os_str().len() > MAX_ADDRESS {
            return Err(Error::new(ErrorKind::InvalidInput, "the name is too long for a socket"));
        }
        Ok(Self { spelling, _folder: Some(folder) })
    }

    /// The spelling, for binding or connecting.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.spelling
    }
}

/// Listens at `path`, for its owner alone (mode 0600). The caller holds a lock that says that whoever listened there
/// before is gone; what it left is replaced.
///
/// A socket is made with the modes that the process's mask leaves, and whoever finds it may connect at once. So it
/// is bound beside its place, restricted, then moved there: nobody ever finds one that is open to others.
///
/// # Errors
/// As `Address::of`, and the kernel's.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let mut draft = path.as_os_str().to_owned();
    draft.push("~");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(Address::of(&draft)?.path())?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&draft, path)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_in_a_deep_folder_is_bound_and_reached() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("d".repeat(100)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).expect("makes it");
        let path = deep.join("socket");
        let listener = listen(&path).expect("binds");
        assert!(path.exists(), "the file is where the path says");
        let mut near = UnixStream::connect(Address::of(&path).expect("an address").path()).expect("connects");
        let (mut far, _) = listener.accept().expect("accepts");
        near.write_all(b"x").expect("writes");
        let mut byte = [0];
        far.read_exact(&mut byte).expect("reads");
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn nobody_finds_a_socket_that_is_open_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok(found) = std::fs::metadata(&path) {
                        assert_eq!(found.permissions().mode() & 0o777, 0o600);
                        seen += 1;
                    }
                }
                seen
            });
            for _ in 0..2000 {
                drop(listen(&path).expect("binds where one was left"));
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(watch.join().expect("no other modes") > 0);
        });
    }

    #[test]
    fn a_short_path_stays_as_it_is_and_a_long_name_is_refused() {
        let short = Path::new("/run/plinth/plinth.sock");
        assert_eq!(Address::of(short).expect("an address").path(), short);
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Address::of(&folder.path().join("n".repeat(120))).is_err());
        assert!(Address::of(&folder.path().join("absent").join("n".repeat(100))).is_err());
    }
}
