//! The secret of an encrypted group, as its target hears it: through standard input, to its end.
//!
//! Not in the spec, the arguments or the environment: files outlive the process, and the other two everybody may read who
//! may look at it. It goes from the pipe into locked memory. The engine's own keys are made of it, and it is wiped.
use crate::error::{Error, Kind, Result};
use crate::keys::{GroupSecret, MAX_GROUP_SECRET_BYTES, Secret};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

/// Reads the secret of this group from standard input.
///
/// # Errors
/// `Permission`: what came is not one.
pub fn from_stdin(group: &str) -> Result<GroupSecret> {
    read(input()?, group)
}

/// Standard input, read as it is asked for: the library's own handle reads ahead into a buffer that lives as long as the
/// process.
///
/// # Errors
/// The process has too many open files.
pub(super) fn input() -> Result<File> {
    let unbuffered = std::io::stdin().as_fd().try_clone_to_owned();
    let unbuffered = unbuffered.map_err(|source| Error::io("read", Path::new("standard input"), &source))?;
    Ok(File::from(unbuffered))
}

fn read(mut from: impl Read, group: &str) -> Result<GroupSecret> {
    let refuse = |why: &str| {
        let message = format!("the target of group {group} was not told its secret: {why}");
        Error::new(Kind::Permission, group, message).hint("attach the volume again; see the agent's log")
    };
    // One byte more than there may be, to see that there is no more.
    let mut secret = Secret::zeroed(MAX_GROUP_SECRET_BYTES + 1);
    let mut len = 0;
    while len < secret.len() {
        match from.read(&mut secret.expose_mut()[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refuse(&error.to_string())),
        }
    }
    if len == 0 {
        return Err(refuse("nothing came through standard input"));
    }
    secret.truncate(len);
    GroupSecret::decode(secret).map_err(|bad| refuse(&bad.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, as a pipe may.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let len = into.len().min(7).min(self.0.len());
            into[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn it_is_read_to_its_end_and_is_whole() {
        let secret = GroupSecret::random().expect("random");
        let bytes = secret.secret().expose();
        let read_from = |bytes: &[u8]| read(Drops(bytes), "g");
        assert!(read_from(bytes).is_ok_and(|told| told.secret().same(bytes)));
        for bad in [&[][..], &bytes[..bytes.len() - 1], &[bytes, &[0]].concat(), &vec![1; 5000]] {
            let error = read_from(bad).expect_err("bad");
            assert_eq!(error.kind, Kind::Permission);
            assert!(error.message.contains("group g was not told its secret"), "{error}");
        }
    }
}
