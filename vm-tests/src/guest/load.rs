//! Load on a device: fio, and whole-device checksums.

use super::Guest;
use super::product::send_signal;
use crate::error::{Context, Error, Result};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How fio exits that was interrupted. Whether it had an error says its report.
const INTERRUPTED: i32 = 128;
/// What the report of a job says that had none.
const NO_ERROR: &[u8] = b"err= 0:";
/// Where it runs, and leaves its logs.
pub(super) const FOLDER: &str = "/tmp";

/// A fio job. Everything that a scenario does not set has the value that makes a good general load.
#[derive(Clone, Debug)]
pub struct Fio {
    words: Vec<String>,
}

impl Fio {
    /// A job called `name` on `device`, with direct I/O at depth 16 and no repeated pattern of addresses.
    #[must_use]
    pub fn on(device: &Path, name: &str) -> Fio {
        let mut fio =
            Fio { words: vec![format!("--name={name}"), format!("--filename={}", device.display())] };
        // --randrepeat=0: the default map rewrites in the same order in each pass, which no guest does.
        for word in ["--ioengine=libaio", "--direct=1", "--iodepth=16", "--randrepeat=0", "--group_reporting"]
        {
            fio.words.push(word.to_owned());
        }
        fio
    }

    /// A job called `name` with nothing set, for other engines.
    #[must_use]
    pub fn bare(name: &str) -> Fio {
        Fio { words: vec![format!("--name={name}"), "--randrepeat=0".to_owned()] }
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, word: impl Into<String>) -> Fio {
        self.words.push(word.into());
        self
    }

    /// Adds verification: every block written carries a checksum of itself and its place.
    #[must_use]
    pub fn verified(self) -> Fio {
        self.with("--verify=crc32c").with("--verify_fatal=1").with("--do_verify=1")
    }

    /// Keeps the longest completions in a log called `name` ([`Latencies::read`]), at a time of the day so that what
    /// happened meanwhile can be told apart.
    #[must_use]
    pub fn logged(self, name: &str) -> Fio {
        self.with(format!("--write_lat_log={name}"))
            .with("--log_avg_msec=50")
            .with("--log_max_value=1")
            .with("--log_unix_epoch=1")
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// fio cannot be started.
    pub fn start(&self) -> Result<FioRun> {
        let child = Command::new("fio")
            .args(&self.words)
            .args(["--output-format=normal", "--eta=never"])
            .current_dir(FOLDER)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing(|| "start fio".into())?;
        Ok(FioRun { child })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// fio reports an error: an I/O error, or data that is not what was written.
    pub fn run(&self) -> Result<()> {
        self.start()?.finish()
    }
}

/// A fio in the background.
#[derive(Debug)]
pub struct FioRun {
    child: Child,
}

impl FioRun {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end and judges it.
    ///
    /// # Errors
    /// fio reports an error.
    pub fn finish(self) -> Result<()> {
        self.judge(false)
    }

    /// Ends it before its time, because all that it is for has happened, and judges what it did until then.
    ///
    /// # Errors
    /// fio reports an error.
    pub fn end(mut self) -> Result<()> {
        if self.has_ended() {
            return self.judge(false);
        }
        send_signal(self.child.id().cast_signed(), Signal::SIGINT)?;
        self.judge(true)
    }

    fn judge(self, interrupted: bool) -> Result<()> {
        let output = self.child.wait_with_output().doing(|| "wait for fio".into())?;
        let says_well = || output.stdout.windows(NO_ERROR.len()).any(|part| part == NO_ERROR);
        let well = interrupted && output.status.code() == Some(INTERRUPTED) && says_well();
        if output.status.success() || well {
            return Ok(());
        }
        let text = format!(
            "{} {}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| l.contains("fio:") || l.contains("err=") || l.contains("verify"))
            .collect();
        Err(Error::failed(format!("fio failed ({}): {}", output.status, lines.join(" | "))))
    }
}

impl Guest {
    /// A checksum of everything that reading `path` gives, straight from the device.
    ///
    /// # Errors
    /// A read fails.
    pub fn checksum(&self, path: &Path) -> Result<String> {
        // The page cache of a device outlives a detach only in bugs, but a checksum must not depend on it.
        drop_caches();
        let mut file = File::open(path).doing(|| format!("open {}", path.display()))?;
        let mut buffer = vec![0u8; 1 << 20];
        let mut sum = Fnv::new();
        loop {
            let got = file.read(&mut buffer).doing(|| format!("read {}", path.display()))?;
            if got == 0 {
                return Ok(sum.text());
            }
            sum.add(&buffer[..got]);
        }
    }
}

/// Makes the kernel forget what it has read and written back.
pub fn drop_caches() {
    nix::unistd::sync();
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3\n");
}

/// FNV-1a over words of eight bytes, with the length: enough to tell accidents apart, and quick when every
/// instruction is translated.
pub struct Fnv {
    state: u64,
    length: u64,
}

impl Fnv {
    /// Nothing so far.
    #[must_use]
    pub fn new() -> Fnv {
        Fnv { state: 0xcbf2_9ce4_8422_2325, length: 0 }
    }

    /// Adds bytes. Only the last call may have a length that is no multiple of eight.
    pub fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.state = (self.state ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
            // The multiplication moves nothing downwards; without this, high bits of a word would be lost.
            self.state ^= self.state >> 29;
        }
    }

    /// The sum as text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:016x}-{}", self.state, self.length)
    }
}

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_a_swap_and_a_missing_tail_change_the_sum() {
        let sum = |bytes: &[u8]| {
            let mut fnv = Fnv::new();
            fnv.add(bytes);
            fnv.text()
        };
        let data: Vec<u8> = (0..64).collect();
        let mut flipped = data.clone();
        flipped[7] ^= 0x80;
        let mut swapped = data.clone();
        swapped.swap(0, 8);
        for other in [&flipped[..], &swapped[..], &data[..63]] {
            assert_ne!(sum(&data), sum(other));
        }
    }
}
