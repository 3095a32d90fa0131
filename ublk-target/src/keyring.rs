//! Keys of type `user` in the kernel's keyring of a user (`keyrings(7)`, `add_key(2)`, `keyctl(2)`).
//!
//! The kernel keeps them in memory of its own that is never swapped, until the machine goes down or somebody takes them
//! out. They hang on the user's keyring (`@u`), so that they outlive every process and session. Whoever asks for them is
//! often in a session that does not reach `@u` (a service of systemd): each call therefore hangs `@u` on its own thread's
//! keyring first, which ends with the thread.
use crate::secrets::Secret;
use std::ffi::{CStr, CString};
use std::io;

/// linux/keyctl.h.
const KEY_SPEC_THREAD_KEYRING: i32 = -1;
const KEY_SPEC_USER_KEYRING: i32 = -4;
const KEYCTL_SETPERM: libc::c_int = 5;
const KEYCTL_LINK: libc::c_int = 8;
const KEYCTL_UNLINK: libc::c_int = 9;
const KEYCTL_SEARCH: libc::c_int = 10;
const KEYCTL_READ: libc::c_int = 11;
/// Everything for its possessor and its user, nothing for anybody else.
const PERMISSIONS: libc::c_ulong = 0x3f3f_0000;
const TYPE_USER: &CStr = c"user";
/// Bytes of a payload that are read at most.
const MAX_PAYLOAD: usize = 4096;

/// Puts a key there, in place of one of the same description.
///
/// # Errors
/// `ENOSYS` or `EPERM` where there are no keyrings or none for us, `EDQUOT` when the user has too many.
pub fn add(description: &str, payload: &Secret) -> io::Result<()> {
    reach()?;
    let name = name(description)?;
    let bytes = payload.expose();
    // SAFETY: two strings that end in zero and a payload of the length given; the kernel copies all three.
    let key = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            TYPE_USER.as_ptr(),
            name.as_ptr(),
            bytes.as_ptr(),
            bytes.len(),
            KEY_SPEC_USER_KEYRING,
        )
    };
    let key = result(key)?;
    // SAFETY: numbers only.
    result(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, PERMISSIONS) }).map(drop)
}

/// The key of this description; `None` if there is none.
///
/// # Errors
/// As `add`; `EMSGSIZE` for a payload of more than 4096 bytes.
pub fn read(description: &str) -> io::Result<Option<Secret>> {
    let Some(key) = find(description)? else { return Ok(None) };
    let mut secret = Secret::zeroed(MAX_PAYLOAD);
    let room = secret.expose_mut();
    // SAFETY: the kernel writes at most `room.len()` bytes to `room`, which is borrowed exclusively.
    let read = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_READ, key, room.as_mut_ptr(), room.len()) };
    match usize::try_from(result(read)?) {
        Ok(len) if len <= MAX_PAYLOAD => {
            secret.truncate(len);
            Ok(Some(secret))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EMSGSIZE)),
    }
}

/// Takes a key out of the user's keyring; the kernel forgets it when nobody else has it. Whether it was there.
///
/// # Errors
/// As `add`.
pub fn remove(description: &str) -> io::Result<bool> {
    let Some(key) = find(description)? else { return Ok(false) };
    // SAFETY: numbers only.
    let outcome = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_UNLINK, key, KEY_SPEC_USER_KEYRING) };
    result(outcome).map(|_| true)
}

fn find(description: &str) -> io::Result<Option<i64>> {
    reach()?;
    let name = name(description)?;
    // SAFETY: two strings that end in zero; no keyring to link what is found to.
    let found = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_SEARCH,
            KEY_SPEC_USER_KEYRING,
            TYPE_USER.as_ptr(),
            name.as_ptr(),
            0,
        )
    };
    match result(found) {
        Ok(key) => Ok(Some(key)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOKEY | libc::EKEYREVOKED | libc::EKEYEXPIRED) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Lets this thread possess what hangs on its user's keyring.
fn reach() -> io::Result<()> {
    // SAFETY: numbers only.
    let outcome = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_THREAD_KEYRING)
    };
    result(outcome).map(drop)
}

fn name(description: &str) -> io::Result<CString> {
    CString::new(description).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn result(returned: libc::c_long) -> io::Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_put_there_found_and_taken_out() {
        let description = format!("plinth:unit-test:{}", std::process::id());
        let payload = Secret::copy_of(&[7; 32]);
        match add(&description, &payload) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                eprintln!("skipped: this kernel gives us no keyrings: {error}");
                return;
            }
            outcome => outcome.expect("adds"),
        }
        // Another thread, as the one that asks later is another process.
        let other = description.clone();
        let found = std::thread::spawn(move || read(&other)).join().expect("no panic");
        assert!(found.expect("reads").expect("is there").same(&[7; 32]));
        assert!(remove(&description).expect("removes"));
        assert!(read(&description).expect("reads").is_none());
        assert!(!remove(&description).expect("nothing to remove"));
    }
}
