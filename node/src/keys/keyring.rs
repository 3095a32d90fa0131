//! Keys in the kernel's keyring of the agent's user (root, as a rule): type `user`, description `plinth:NAME:VERSION`.
//!
//! They lie on no drive. The agent finds them again when it restarts; after a boot they are gone, unless something puts
//! them back before the first attach (`keyctl padd user plinth:NAME:VERSION @u`, fed by whatever keeps a copy).
//!
//! Crash story: the kernel adds and removes a key whole. A version that was added and is not yet in its record is found
//! there by the repetition, and stays.
use super::Secret;
use super::local::Source;
use super::seal::{KEY_BYTES, random_secret};
use crate::error::{Error, Kind, Result};
use nix::errno::Errno;
use ublk_target::keyring;

/// The kernel's keys of one name.
pub(crate) struct Keyring<'a> {
    name: &'a str,
}

impl<'a> Keyring<'a> {
    pub fn new(name: &'a str) -> Self {
        Self { name }
    }

    fn description(&self, version: u32) -> String {
        format!("plinth:{}:{version}", self.name)
    }

    fn failed(&self, what: &str, version: u32, source: &std::io::Error) -> Error {
        let kind = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSYS | Errno::EPERM | Errno::EOPNOTSUPP) => Kind::NotSupported,
            Some(Errno::EACCES) => Kind::Permission,
            Some(Errno::EDQUOT | Errno::ENOMEM) => Kind::NoSpace,
            _ => Kind::Failed,
        };
        let message =
            format!("cannot {what} {} in the kernel's keyring: {source}", self.description(version));
        Error::new(kind, self.name, message)
    }
}

impl Source for Keyring<'_> {
    fn make(&self, version: u32) -> Result<()> {
        let description = self.description(version);
        match keyring::read(&description) {
            Ok(Some(_)) => return self.load(version).map(drop),
            Ok(None) => {}
            Err(source) => return Err(self.failed("look for", version, &source)),
        }
        let added = keyring::add(&description, &random_secret(KEY_BYTES)?);
        added.map_err(|source| self.failed("put", version, &source))
    }

    fn load(&self, version: u32) -> Result<Secret> {
        let description = self.description(version);
        let found = keyring::read(&description).map_err(|source| self.failed("read", version, &source))?;
        let refused = |why: &str| {
            let message = format!("version {version} of key {} {why}", self.name);
            let hint =
                format!("put it back: keyctl padd user {description} @u (32 bytes on its standard input)");
            Error::new(Kind::Permission, self.name, message).hint(hint)
        };
        match found {
            None => Err(refused(
                "is not in the kernel's keyring, which forgets everything when the machine goes down",
            )),
            Some(secret) if secret.len() == KEY_BYTES => Ok(secret),
            Some(_) => Err(refused("in the kernel's keyring does not have 32 bytes")),
        }
    }

    fn forget(&self, version: u32) -> Result<()> {
        let removed = keyring::remove(&self.description(version));
        removed.map(drop).map_err(|source| self.failed("remove", version, &source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_found_and_told_to_be_gone() {
        let name = format!("unit-{}", std::process::id());
        let keyring = Keyring::new(&name);
        match keyring.make(1) {
            Err(error) if error.kind == Kind::NotSupported => {
                eprintln!("skipped: this kernel gives us no keyrings: {error}");
                return;
            }
            outcome => outcome.expect("makes"),
        }
        let first = keyring.load(1).expect("loads");
        keyring.make(1).expect("is there");
        assert!(keyring.load(1).expect("loads").same(first.expose()));
        for _ in 0..2 {
            keyring.forget(1).expect("forgets");
        }
        let gone = keyring.load(1).expect_err("gone");
        assert_eq!(gone.kind, Kind::Permission);
        assert!(gone.to_string().contains("goes down") && gone.to_string().contains("keyctl padd"), "{gone}");
    }

    #[test]
    fn what_is_no_key_of_ours_is_refused() {
        let name = format!("short-{}", std::process::id());
        let held = Keyring::new(&name);
        if keyring::add(&held.description(1), &Secret::copy_of(b"short")).is_err() {
            eprintln!("skipped: this kernel gives us no keyrings");
            return;
        }
        assert_eq!(held.load(1).expect_err("refused").kind, Kind::Permission);
        assert_eq!(held.make(1).expect_err("refused").kind, Kind::Permission);
        held.forget(1).expect("forgets");
    }
}
