//! What this machine is, and whether it can do the work at all.

use std::fs;
use std::path::Path;
use std::process::Command;
use vm_tests::error::{Error, Result};

/// Room for two builds, two kernels and the drives of one machine.
const DISK_BYTES: u64 = 12 << 30;
/// Registered buffers of one process under test, with room to spare.
const LOCKED_BYTES: u64 = 64 << 20;

/// Which family of distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Packages come from apt.
    Debian,
    /// Anything else.
    Other,
}

/// Facts about this machine.
#[derive(Debug)]
pub struct Host {
    os_release: String,
    io_uring_disabled: String,
    limits: String,
    /// Whether this process may do everything.
    pub is_root: bool,
}

impl Host {
    /// Reads them; what cannot be read is empty.
    pub fn read() -> Host {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = text("/proc/self/status");
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:"));
        Host {
            os_release: text("/etc/os-release"),
            io_uring_disabled: text("/proc/sys/kernel/io_uring_disabled"),
            limits: text("/proc/self/limits"),
            is_root: uid.is_some_and(|l| l.split_whitespace().nth(1) == Some("0")),
        }
    }

    /// A field of os-release without its quotes.
    pub fn os(&self, key: &str) -> &str {
        let line = self.os_release.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim().trim_matches('"')
    }

    /// Debian and what calls itself like it.
    pub fn distribution(&self) -> Distribution {
        let family = format!("{} {}", self.os("ID"), self.os("ID_LIKE"));
        if family.split_whitespace().any(|word| word == "debian" || word == "ubuntu") {
            Distribution::Debian
        } else {
            Distribution::Other
        }
    }

    /// One sentence each on free disk, io_uring and locked memory.
    ///
    /// # Errors
    /// The first two make the work impossible when they are wrong.
    pub fn check(&self, out: &Path) -> Result<()> {
        if let Some(free) = free_bytes(out)
            && free < DISK_BYTES
        {
            return Err(Error::failed(format!(
                "only {} GiB are free at {}: make room for {} GiB or set CARGO_TARGET_DIR to another disk",
                free >> 30,
                out.display(),
                DISK_BYTES >> 30
            )));
        }
        match self.io_uring_disabled.trim() {
            "" | "0" => {}
            "1" if self.is_root => {}
            value => {
                return Err(Error::failed(format!(
                    "io_uring is switched off here (kernel.io_uring_disabled = {value}): \
                     type `sudo sysctl kernel.io_uring_disabled=0`"
                )));
            }
        }
        if let Some(locked) = self.locked_bytes()
            && locked < LOCKED_BYTES
            && !self.is_root
        {
            eprintln!(
                "note: only {} MiB of memory may be locked by a process (ulimit -l); tests of the real ring \
                 want {} MiB: raise it in /etc/security/limits.conf if they say so",
                locked >> 20,
                LOCKED_BYTES >> 20
            );
        }
        Ok(())
    }

    /// The soft limit of locked memory in bytes; `None` where there is none.
    fn locked_bytes(&self) -> Option<u64> {
        let line = self.limits.lines().find_map(|l| l.strip_prefix("Max locked memory"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// Free bytes on the disk that holds `folder`.
fn free_bytes(folder: &Path) -> Option<u64> {
    let output = Command::new("df").args(["--output=avail", "-B1"]).arg(folder).output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(os_release: &str, uring: &str, root: bool) -> Host {
        let limits = "Max locked memory         8388608              8388608              bytes     \n";
        Host {
            os_release: os_release.into(),
            io_uring_disabled: uring.into(),
            limits: limits.into(),
            is_root: root,
        }
    }

    #[test]
    fn families() {
        let debian = host("ID=debian\nVERSION_CODENAME=bookworm\n", "", true);
        assert_eq!(debian.distribution(), Distribution::Debian);
        assert_eq!(debian.os("VERSION_CODENAME"), "bookworm");
        let mint = host("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", "", true);
        assert_eq!(mint.distribution(), Distribution::Debian);
        assert_eq!(host("ID=fedora\n", "", true).distribution(), Distribution::Other);
    }

    #[test]
    fn a_switched_off_ring_is_said_in_one_sentence() {
        let folder = Path::new("/");
        let error = host("", "2\n", true).check(folder).expect_err("io_uring is off");
        assert!(error.message.contains("kernel.io_uring_disabled = 2"));
        assert!(host("", "1\n", false).check(folder).is_err());
    }

    #[test]
    fn the_soft_limit_counts() {
        assert_eq!(host("", "0", false).locked_bytes(), Some(8 << 20));
    }
}
